"""Ears: from a microphone's audio to the words of each turn."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.gateway.voice.ear import MAX_PIECE_BYTES, Ear
from services.gateway.voice.heard import (
    Heard,
    HearingFailed,
    SpeechBegan,
    SpeechEnded,
    SpeechSuspected,
    SpeechUnfounded,
    WordsHeard,
)
from services.gateway.voice.turn_detector import TurnRules
from sightline.errors import InvalidArgumentError, ResourceExhaustedError, UnavailableError
from tests.eventually import eventually
from tests.unit.voices import SILENCE, SPEECH, Hearsay, Told, audio

RATE = 16_000


class Listener:
    """An ear and what it told."""

    def __init__(self, recogniser: Hearsay) -> None:
        self.events: list[Heard] = []
        self.recogniser = recogniser
        self.now_s = 0.0
        self.ear = Ear(
            recogniser, Told(), TurnRules(), self.events.append, clock=lambda: self.now_s
        )

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            for start in range(0, len(piece), 3200):
                self.ear.feed(piece[start : start + 3200], RATE)
                self.now_s += 0.1

    async def until(self, kind: type[Heard], count: int = 1) -> list[Heard]:
        def found() -> bool:
            return sum(isinstance(event, kind) for event in self.events) >= count

        await eventually(found)
        return [event for event in self.events if isinstance(event, kind)]

    def finals(self) -> list[str]:
        return [
            event.text for event in self.events if isinstance(event, WordsHeard) and event.final
        ]


@asynccontextmanager
async def listening(*words: str) -> AsyncIterator[Listener]:
    listener = Listener(Hearsay(*words))
    try:
        yield listener
    finally:
        await listener.ear.aclose()


async def test_what_is_said_between_two_silences_is_a_turn() -> None:
    async with listening("how many circles are there?") as here:
        before_ns = time.time_ns()
        here.say(audio(SILENCE, 0.5), audio(SPEECH, 1.0), audio(SILENCE, 0.3))
        await here.until(WordsHeard)
        here.say(audio(SILENCE, 0.3))
        await eventually(lambda: here.finals() == ["how many circles are there?"])
        kinds = [type(event) for event in here.events]
        assert kinds[:2] == [SpeechSuspected, SpeechBegan]
        assert kinds[-1] is WordsHeard
        assert SpeechEnded in kinds
        assert len({event.turn for event in here.events}) == 1
        last = here.events[-1]
        assert isinstance(last, WordsHeard)
        assert (last.end_ns - last.start_ns) / 1e9 == pytest.approx(1.0, abs=0.1)
        assert abs(last.end_ns - before_ns) < 60e9
        # The words were looked for in the pause, and the silence behind it was not sent.
        assert here.recogniser.pauses == 1
        assert here.recogniser.heard_s[0] == pytest.approx(1.5, abs=0.1)


async def test_a_turn_waits_for_words_that_ask_for_more() -> None:
    async with listening("a red circle and") as here:
        here.say(audio(SPEECH, 1.0), audio(SILENCE, 0.3))
        await here.until(WordsHeard)
        here.say(audio(SILENCE, 0.5))
        assert SpeechEnded not in [type(event) for event in here.events]
        here.say(audio(SPEECH, 0.5))
        here.recogniser.words = []
        here.say(audio(SILENCE, 1.8))
        await here.until(SpeechEnded)
        await eventually(lambda: here.finals() == ["a red circle and"])
        assert here.recogniser.pauses == 2


async def test_a_turn_waits_for_its_words() -> None:
    """Silence that is long enough ends nothing while nobody knows whether more will come."""
    async with listening("stop") as here:
        here.recogniser.hear.clear()
        here.say(audio(SPEECH, 0.5), audio(SILENCE, 0.9))
        assert SpeechEnded not in [type(event) for event in here.events]
        here.recogniser.hear.set()
        await here.until(SpeechEnded)  # without further audio
        await eventually(lambda: here.finals() == ["stop"])


async def test_noise_is_no_turn() -> None:
    async with listening() as here:
        here.say(audio(SPEECH, 0.2), audio(SILENCE, 1.0))
        assert [type(event) for event in here.events] == [SpeechSuspected, SpeechUnfounded]


async def test_a_turn_held_by_hand_is_what_is_said_meanwhile() -> None:
    async with listening("one", "two") as here:
        here.ear.hold()
        here.say(audio(SILENCE, 1.0), audio(SPEECH, 0.5), audio(SILENCE, 1.0), audio(SPEECH, 0.5))
        assert SpeechEnded not in [type(event) for event in here.events]
        here.ear.commit()
        await eventually(lambda: here.finals() == ["one"])
        assert here.recogniser.heard_s[0] == pytest.approx(3.0, abs=0.1)
        here.ear.hold()
        here.say(audio(SILENCE, 1.0))
        here.ear.commit()
        await eventually(lambda: here.finals() == ["one", ""])  # nobody spoke


async def test_a_turn_that_is_cleared_has_no_words() -> None:
    async with listening("one", "two") as here:
        here.say(audio(SPEECH, 0.5))
        await here.until(SpeechBegan)
        here.ear.clear()
        here.say(audio(SILENCE, 1.0), audio(SPEECH, 0.5), audio(SILENCE, 0.4))
        await here.until(WordsHeard)
        here.say(audio(SILENCE, 0.4))
        await eventually(lambda: here.finals() != [])
        assert len(here.finals()) == 1


async def test_a_recogniser_that_is_away_fails_the_turn_and_the_next_is_heard() -> None:
    async with listening("one") as here:
        here.recogniser.fails = UnavailableError("away")
        here.say(audio(SPEECH, 0.5))
        [failed] = await here.until(HearingFailed)
        assert isinstance(failed, HearingFailed)
        assert failed.error.message == "away"
        here.recogniser.fails = None
        here.say(audio(SILENCE, 1.0), audio(SPEECH, 0.5), audio(SILENCE, 0.4))
        await here.until(WordsHeard)
        here.say(audio(SILENCE, 0.4))
        await eventually(lambda: here.finals() == ["one"])


async def test_audio_of_other_rates_is_heard() -> None:
    async with listening("one") as here:
        for _ in range(10):
            here.ear.feed(b"\1\2" * 2400, 24_000)
        assert here.ear.fed_s == pytest.approx(1.0, abs=0.05)


async def test_what_is_no_audio_is_refused() -> None:
    async with listening() as here:
        with pytest.raises(InvalidArgumentError, match="samples a second"):
            here.ear.feed(b"\0\0", 4_000)
        with pytest.raises(InvalidArgumentError, match="16-bit"):
            here.ear.feed(b"\0", RATE)
        with pytest.raises(InvalidArgumentError, match="at most"):
            here.ear.feed(b"\0" * (MAX_PIECE_BYTES + 2), RATE)


async def test_audio_that_nobody_can_have_spoken_is_refused() -> None:
    async with listening() as here:
        for _ in range(31):
            here.ear.feed(audio(SILENCE, 1.0), RATE)
        with pytest.raises(ResourceExhaustedError, match="faster"):
            here.ear.feed(audio(SILENCE, 1.0), RATE)
        here.now_s += 60
        here.ear.feed(audio(SILENCE, 1.0), RATE)
