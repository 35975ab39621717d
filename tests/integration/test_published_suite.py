"""Published families through worker, gateway and SDK, as real processes with random weights."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

import sightline
from tests.checkpoints import write_checkpoint
from tests.processes import ServiceProcess

pytestmark = pytest.mark.option

SIZES = {"qwen2_5_vl": (140, 84), "smolvlm": (64, 64)}  # of pictures of 16 : 9
BUDGET = 12_544  # pixels


@pytest.fixture(scope="module", params=SIZES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def client(
    family: str,
    tmp_path_factory: pytest.TempPathFactory,
    shared_process: Callable[..., ServiceProcess],
) -> Iterator[sightline.Client]:
    worker = shared_process(
        "inference_worker",
        timeout_s=120,
        WORKER_MODEL=write_checkpoint(family, tmp_path_factory.mktemp(family), shards=2),
        WORKER_THREADS=1,
        WORKER_DTYPE="float32",
        WORKER_FRAME_PIXELS=BUDGET,
        WORKER_MAX_SESSIONS=4,
        WORKER_KV_MEMORY_BYTES=256 << 20,
    )
    gateway = shared_process("gateway", GATEWAY_WORKERS=worker.address)
    with sightline.connect(gateway.address) as connected:
        yield connected


def pictures(count: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        coarse = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
        yield coarse.repeat(20, axis=0).repeat(20, axis=1)


def test_frames_keep_their_shape_and_answers_their_rules(
    client: sightline.Client, family: str
) -> None:
    session = client.open(push=True, lossless=True, fps=4)
    report = session.push(pictures(7), fps=4)  # an odd one, which has no partner in its tubelet
    assert (report.understood, report.dropped) == (7, 0)
    info = session.refresh()
    assert (info.frame_width, info.frame_height) == SIZES[family]
    greedy = session.conversation().ask("What changed?", max_tokens=12).result()
    assert greedy.frames_seen >= 7
    assert greedy.text
    drawn = [
        session.conversation()
        .ask("What changed?", max_tokens=12, temperature=1.0, top_p=0.9, seed=seed)
        .result()
        .text
        for seed in (5, 5, 6)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[1] != drawn[2]
    stop = greedy.text[len(greedy.text) // 2 :][:3]
    stopped = session.conversation().ask("What changed?", max_tokens=12, stop=[stop]).result()
    assert stopped.text == greedy.text[: greedy.text.index(stop)]
    assert stopped.finish_reason == sightline.FinishReason.STOP
    again = session.ask("What is it?", max_tokens=4).result()
    assert again.text is not None
    with pytest.raises(sightline.InvalidArgumentError, match="top_p"):
        session.ask("What?", top_p=2.0).result()


def test_questions_need_a_frame(client: sightline.Client, family: str) -> None:
    session = client.open(push=True, lossless=True)
    with pytest.raises(sightline.FailedPreconditionError, match="no frame has been understood"):
        session.ask("Who are you?", max_tokens=8).result()
    session.push(pictures(1), fps=1)
    assert session.ask("What is in the picture?", max_tokens=8).result().frames_seen >= 1


def test_a_budget_beyond_the_model_is_refused(client: sightline.Client, family: str) -> None:
    if family == "smolvlm":
        pytest.skip("has one frame size")
    with pytest.raises(sightline.InvalidArgumentError, match="pixels"):
        client.open(push=True, max_pixels=100_000_000)
    session = client.open(push=True, lossless=True, max_pixels=4000)
    session.push(pictures(2), fps=1)
    info = session.refresh()
    assert info.frame_width * info.frame_height <= 4000
