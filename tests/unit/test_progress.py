"""How far a model is: counted, and in words."""

import pytest

from services.common.progress import duration, words_of
from services.inference_worker.model.loading import DOWNLOADING, LOADING, WARMING, Loading
from sightline.v1 import inference_pb2


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def words(progress: Loading, model: str = "Qwen/Qwen2.5-VL-3B-Instruct") -> str:
    return words_of(inference_pb2.ModelDescription(model=model, loading=progress.state()))


def test_a_download_tells_its_share_its_size_and_its_end() -> None:
    clock = Clock()
    progress = Loading(clock=clock)
    progress.begin(DOWNLOADING)
    assert words(progress) == "Asking the hub for Qwen2.5-VL-3B-Instruct"
    progress.begin(DOWNLOADING, total=7_500_000_000, done=2_700_000_000)
    for _ in range(10):  # 40 MB/s; what was there before is no rate
        clock.now_s += 1
        progress.add(40_000_000)
    assert words(progress) == (
        "Downloading Qwen2.5-VL-3B-Instruct: 41 %, 3.1 of 7.5 GB, about 2 min"
    )
    state = progress.state()
    assert state.bytes_done == 3_100_000_000
    assert state.eta_s == pytest.approx(4_400 / 40)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    progress = Loading(clock=clock)
    progress.begin(DOWNLOADING, total=1000_000_000)
    for rate in (1_000_000, 10_000_000):
        for _ in range(30):
            clock.now_s += 1
            progress.add(rate)
    left = 1000 - 30 - 300
    assert progress.state().eta_s == pytest.approx(left / 10, rel=0.15)


def test_a_silent_download_says_so_until_it_goes_on() -> None:
    clock = Clock()
    progress = Loading(clock=clock)
    progress.begin(DOWNLOADING, total=200_000_000, done=50_000_000)
    clock.now_s += 3
    assert "nothing has come" not in words(progress)
    clock.now_s += 22
    assert words(progress, "tiny").endswith("; nothing has come for 25 s, still trying")
    progress.reach(60_000_000)
    assert "nothing has come" not in words(progress)


def test_other_phases() -> None:
    progress = Loading()
    progress.begin(LOADING)
    assert words(progress, "builtin") == "Loading builtin"
    progress.begin(LOADING, total=1000)
    progress.add(250)
    assert words(progress, "/models/mine") == "Loading mine: 25 %"
    progress.begin(WARMING)
    assert words(progress, "mine") == "Warming mine up: a few seconds"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "about 5 s"), (42, "about 40 s"), (130, "about 2 min"), (9000, "about 2.5 h")],
)
def test_durations_are_rounded_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text
