"""The live shop whole, through a camera: a browser publishes a film of goods, drawn ones or real
ones, a model that knows them watches, and a viewer, an operator and somebody who comes ten minutes
later see what there was."""

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import grpc
import numpy as np
import pytest

from services.local.clip import STORY, sample_path
from sightline.v1 import dialogue_pb2, dialogue_pb2_grpc
from tests.e2e.browser import ENTER, Driver
from tests.eventually import wait_until
from tests.live_shop import FOLDER
from tests.processes import REPOSITORY, free_port
from tests.suite import Suite

pytestmark = [pytest.mark.needs("redis", "chromium", "chromedriver"), pytest.mark.slow]

SEED, SECONDS, FPS = 700_005, 12, 16  # a teddy is held, then something prohibited is shown
SLOWLY = 3  # so that a busy machine sees it, too
SIDE = 384
NS = 10**9
PATIENCE_S = 240
CARD = (
    "return document.getElementById('card').hidden ? '' : document.querySelector('#name').innerText"
)
ALARM = "return document.querySelector('.alarm img')?.naturalWidth"


def drawn() -> Iterator[av.VideoFrame]:
    from training.recipe import load_recipe
    from training.world.video import pictures

    trade = load_recipe("builtin").trade
    for picture in pictures(SEED, SECONDS, "shop", SIDE // 128, FPS, trade):
        yield av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")


def real() -> Iterator[av.VideoFrame]:
    """The clip that comes with the suite, of cut-out photographs; it has some more pictures."""
    with av.open(str(sample_path(Path(), STORY))) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % 3 < 2:  # of 24 a second
                yield frame


def film(path: Path, pictures: Iterator[av.VideoFrame]) -> None:
    """The camera's film, as Chromium reads it."""
    with av.open(str(path), "w", format="yuv4mpegpipe") as container:
        stream = container.add_stream("wrapped_avframe", rate=FPS // SLOWLY)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            frame = picture.reformat(format="yuv420p")
            frame.pts = None  # one after the other
            container.mux(stream.encode(frame))


@dataclass(frozen=True)
class Goods:
    """What is held up in a film, and who knows such things."""

    model: str
    catalogue: str
    held: str
    price: str
    film: Callable[[], Iterator[av.VideoFrame]]


DRAWN = Goods("builtin", "catalogue.csv", "a teddy", "20 €", drawn)
REAL = Goods("goods", "goods.csv", "a lime", "3 €", real)


@pytest.fixture(params=[DRAWN, REAL], ids=["drawn", "real"])
def goods(request: pytest.FixtureRequest) -> Goods:
    found: Goods = request.param
    return found


@pytest.fixture
def camera(tmp_path: Path, goods: Goods) -> Iterator[Driver]:
    """A browser whose camera shows that film again and again."""
    film(tmp_path / "camera.y4m", goods.film())
    driver = Driver(tmp_path, [f"--use-file-for-fake-video-capture={tmp_path / 'camera.y4m'}"])
    driver.start()
    yield driver
    driver.stop()


@pytest.mark.timeout(900)
def test_goods_before_a_camera(
    camera: Driver, goods: Goods, fresh_suite: Callable[..., Suite], tmp_path: Path
) -> None:
    suite = fresh_suite(
        speech=False,
        environment={
            "inference_worker": {"WORKER_MODEL": goods.model},
            "gateway": {"GATEWAY_MEMORY": "pictures"},
        },
    )
    suite.gateway.stop()  # its rules are kept where the conversations are
    suite.gateway.environment |= {
        "GATEWAY_RULES_REDIS_URL": suite.redis.url,
        "GATEWAY_CLUSTER_SECRET": "a secret of thirty-two characters",
    }
    suite.gateway.restart()
    host = camera.page()
    host.goto(suite.url)
    host.wait_text("#camera", "Use my camera", timeout_s=PATIENCE_S)
    host.click("#camera")
    host.wait_text("#camera", "Stop my camera", timeout_s=PATIENCE_S)
    (session,) = suite.api("GET", "api/sessions")["sessions"]
    wait_until(lambda: _stats(suite).get("last_capture_ns"), timeout_s=PATIENCE_S)

    port = free_port()
    program = [sys.executable, str(FOLDER / "shop.py"), session["name"], "--port", str(port)]
    program += ["--catalogue", str(FOLDER / goods.catalogue)]
    program += ["--server", suite.address, "--http", suite.url.rstrip("/")]
    with (tmp_path / "shop.log").open("w") as log:
        shop = subprocess.Popen(program, cwd=REPOSITORY, stdout=log, stderr=log)
    try:
        wait_until(lambda: "operators" in (tmp_path / "shop.log").read_text(), timeout_s=60)
        viewer = camera.page()
        viewer.goto(f"http://127.0.0.1:{port}/")
        viewer.wait(f"{CARD} === '{goods.held}'", timeout_s=PATIENCE_S)
        viewer.type("#question", f"How much is {goods.held}?" + ENTER)
        viewer.wait_text("#answers p", f"{goods.held}: {goods.price}", timeout_s=PATIENCE_S)
        operator = camera.page()
        operator.goto(f"http://127.0.0.1:{port + 1}/")
        assert operator.wait(ALARM, timeout_s=PATIENCE_S) > 100
    finally:
        shop.terminate()
        shop.wait(20)
    _ten_minutes_later(suite, session["id"], goods.held)


def _stats(suite: Suite) -> dict[str, str]:
    (session,) = suite.api("GET", "api/sessions")["sessions"]
    return dict(session.get("stats", {}))


def _ten_minutes_later(suite: Suite, session: str, held: str) -> None:
    """What was held is found again, by the picture of its moment."""
    events = suite.api("GET", "api/events?page_size=1000")["events"]
    shown = next(each for each in events if each.get("product", {}).get("names") == [held])
    with urllib.request.urlopen(f"{suite.url}api/events/{shown['event']}/picture") as reply:
        jpeg = reply.read()
    start_ns = int(_stats(suite)["last_capture_ns"]) - 600 * NS
    moment = dialogue_pb2.Moment(start_ns=start_ns, end_ns=start_ns + 15 * NS, pictures=[jpeg])
    with grpc.insecure_channel(suite.dialogue.address) as channel:
        stub = dialogue_pb2_grpc.DialogueServiceStub(channel)
        stub.KeepMoment(dialogue_pb2.KeepMomentRequest(session=session, moment=moment), timeout=10)
    asked = {"question": {"text": "What was the hand holding ten minutes ago?"}}
    answer = suite.api("POST", f"api/sessions/{session}/ask", asked)["answer"]
    assert answer["text"].startswith("From memory, 10 minutes ago")
    assert answer["text"].endswith(held)
    assert answer["memory"][0]["picture"]
