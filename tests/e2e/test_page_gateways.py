"""The page when its gateway is killed: behind one address there is another, or the same anew; and
when the worker is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sightline import connect
from tests.e2e.browser import ENTER, Driver, Page
from tests.e2e.test_page import ask
from tests.e2e.wire import Wire
from tests.processes import SHAPES, RedisServer, ServiceProcess, free_port
from tests.suite import write_clip

pytestmark = [pytest.mark.needs("redis"), pytest.mark.option]

FRAMES = (
    "return document.querySelector('#preview-video').getVideoPlaybackQuality().totalVideoFrames"
)
PLAYS = "const v = document.querySelector('#preview-video'); return !v.hidden && v.videoWidth > 0"
PLAYS_S = 15.0  # for playback to be back, once the page is connected
BREAKS = ("WebSocket", "ERR_", "Failed to load")  # what a browser says of a server that is gone


@dataclass(slots=True)
class House:
    """Two gateways that share a Redis, and a worker."""

    one: ServiceProcess
    other: ServiceProcess
    worker: ServiceProcess


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    (tmp_path / "redis").mkdir()
    redis = RedisServer(tmp_path / "redis")
    redis.start()
    dialogue = ServiceProcess("dialogue", {"DIALOGUE_REDIS_URL": redis.url}, tmp_path)
    dialogue.start()
    worker = ServiceProcess(
        "inference_worker",
        {
            "WORKER_MODEL": str(SHAPES),
            "WORKER_THREADS": "1",
            "WORKER_KV_MEMORY_BYTES": str(256 << 20),
            "WORKER_DIALOGUE": dialogue.address,
        },
        tmp_path,
    )
    worker.start()
    gateways = []
    for _ in range(2):
        environment = {
            "GATEWAY_WORKERS": worker.address,
            "GATEWAY_DIALOGUE": dialogue.address,
            "GATEWAY_MEDIA_ROOT": str(tmp_path),
            "GATEWAY_REDIS_URL": redis.url,
            "GATEWAY_CLUSTER_SECRET": "a secret of thirty-two characters",
            "GATEWAY_PEER_PORT": str(free_port()),
            "GATEWAY_RTMP_PORT": "",
        }
        gateways.append(ServiceProcess("gateway", environment, tmp_path))
        gateways[-1].start()
    yield House(*gateways, worker)
    for service in (*gateways, worker, dialogue):
        if service.process is not None:
            service.stop()
    redis.kill()


def _is_whole_again(page: Page, question: str, answers: int) -> None:
    """Without a hand laid on it, the page is connected, says so, answers, and plays."""
    page.wait_text("#line-state", "connected")
    assert "knew" in ask(page, question)
    assert len(page.texts(".answer[data-state=done]")) == answers, "what was said is still there"
    page.wait_text("#picture-state", "live")
    page.wait(PLAYS)
    before = page.run(FRAMES)
    page.wait(f"{FRAMES} > arguments[0] + 10", before, timeout_s=PLAYS_S)


def test_the_page_outlives_its_gateway(driver: Driver, house: House, tmp_path: Path) -> None:
    clip = write_clip(tmp_path, seed=5, seconds=12)
    with connect(house.one.address) as client:
        client.open(clip.path.name, on_server=True, loop=True, name="lobby")
    with Wire(house.one.http_port) as wire:
        page = driver.page()
        page.goto(wire.url)
        page.wait_text("#line-state", "connected")
        page.wait(PLAYS)
        ask(page, "What is in the scene?")
        page.type("[name=condition]", "a red circle is there" + ENTER)

        wire.lead_to(house.other.http_port)
        house.one.kill()
        page.wait("return document.querySelector('#picture-state').dataset.state !== 'live'")
        _is_whole_again(page, "How many objects are there?", answers=2)

        house.other.kill()
        page.wait_text("#line-state", "connection lost")
        assert "live" not in page.text("#picture-state")
        page.type("#question", "What is in the scene?" + ENTER)  # asked into the void
        house.other.restart()
        page.wait("return document.querySelectorAll('.answer[data-state=done]').length === 3")
        _is_whole_again(page, "How many objects are there?", answers=4)
        assert len(page.texts(".watch-list > li")) == 1
        assert page.text(".watch-form + .error") == ""

        house.worker.kill()
        page.type("#question", "What is in the scene?" + ENTER)
        page.wait_text(".answer .about", "The model is restarting; your question will be answered")
        page.wait_text("#picture-facts", "The model is restarting")
        house.worker.restart()
        page.wait("return document.querySelectorAll('.answer[data-state=done]').length === 5")
        complaints = [line for line in page.console() if not any(each in line for each in BREAKS)]
        page.close()
    assert not complaints, "\n".join(complaints)
