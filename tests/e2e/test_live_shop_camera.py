"""The live shop whole, through a camera: a browser publishes a film of goods, the built-in model
watches, and a viewer, an operator and somebody who comes ten minutes later see what there was."""

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import grpc
import numpy as np
import pytest

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
HELD = "a teddy"
CARD = (
    "return document.getElementById('card').hidden ? '' : document.querySelector('#name').innerText"
)
ALARM = "return document.querySelector('.alarm img')?.naturalWidth"


def film(path: Path) -> None:
    """Paint the camera's film as Chromium reads it."""
    from training.recipe import load_recipe
    from training.world.video import pictures

    trade = load_recipe("builtin").trade
    with av.open(str(path), "w", format="yuv4mpegpipe") as container:
        stream = container.add_stream("wrapped_avframe", rate=FPS // SLOWLY)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for picture in pictures(SEED, SECONDS, "shop", SIDE // 128, FPS, trade):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[Driver]:
    """A browser whose camera shows that film again and again."""
    film(tmp_path / "camera.y4m")
    driver = Driver(tmp_path, [f"--use-file-for-fake-video-capture={tmp_path / 'camera.y4m'}"])
    driver.start()
    yield driver
    driver.stop()


@pytest.mark.timeout(900)
def test_goods_before_a_camera(
    camera: Driver, fresh_suite: Callable[..., Suite], tmp_path: Path
) -> None:
    suite = fresh_suite(
        speech=False,
        environment={
            "inference_worker": {"WORKER_MODEL": "builtin"},
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
    program += ["--catalogue", str(FOLDER / "catalogue.csv")]
    program += ["--server", suite.address, "--http", suite.url.rstrip("/")]
    with (tmp_path / "shop.log").open("w") as log:
        shop = subprocess.Popen(program, cwd=REPOSITORY, stdout=log, stderr=log)
    try:
        wait_until(lambda: "operators" in (tmp_path / "shop.log").read_text(), timeout_s=60)
        viewer = camera.page()
        viewer.goto(f"http://127.0.0.1:{port}/")
        viewer.wait(f"{CARD} === '{HELD}'", timeout_s=PATIENCE_S)
        viewer.type("#question", f"How much is {HELD}?" + ENTER)
        viewer.wait_text("#answers p", f"{HELD}: 20 €", timeout_s=PATIENCE_S)
        operator = camera.page()
        operator.goto(f"http://127.0.0.1:{port + 1}/")
        assert operator.wait(ALARM, timeout_s=PATIENCE_S) > 100
    finally:
        shop.terminate()
        shop.wait(20)
    _ten_minutes_later(suite, session["id"])


def _stats(suite: Suite) -> dict[str, str]:
    (session,) = suite.api("GET", "api/sessions")["sessions"]
    return dict(session.get("stats", {}))


def _ten_minutes_later(suite: Suite, session: str) -> None:
    """What was held is found again, by the picture of its moment."""
    events = suite.api("GET", "api/events?page_size=1000")["events"]
    shown = next(each for each in events if each.get("product", {}).get("names") == [HELD])
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
    assert answer["text"].endswith(HELD)
    assert answer["memory"][0]["picture"]
