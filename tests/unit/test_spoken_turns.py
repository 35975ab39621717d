"""What is played to a caller while somebody may be speaking into it."""

import asyncio
from typing import Any

import pytest

from services.gateway.api.realtime.line import Line, Visitor
from services.gateway.api.realtime.settings import Settings
from services.gateway.api.realtime.spoken import SpokenTurns
from services.gateway.auth.caller import ANYBODY, Caller
from services.gateway.voice import doubt, heard
from sightline.errors import UnavailableError
from tests.eventually import eventually
from tests.unit.test_mouth import Clock


class _Track:
    """Notes what is done to what is played."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def spoken(self) -> str:
        return "there are two circles"

    def pause(self) -> None:
        self.done.append("pause")

    def resume(self) -> None:
        self.done.append("resume")

    def stop(self) -> None:
        self.done.append("stop")


class _Conversation:
    """Notes what becomes of it."""

    settings = Settings()

    def __init__(self) -> None:
        self.done: list[str] = []
        self.history: Any = self

    def add(self, item: Any) -> None: ...
    def change(self, item: Any) -> None: ...

    async def interrupt(self) -> None:
        self.done.append("interrupt")

    async def answer(self) -> None:
        self.done.append("answer")

    async def expect(self, text: str) -> None: ...


class _Call:
    def __init__(self, late_s: float = 0.0) -> None:
        async def send(event: Any) -> None: ...
        async def authorise(place: str) -> Caller:
            raise AssertionError

        self.track, self.conversation, self.clock = _Track(), _Conversation(), Clock()
        visitor = Visitor(
            caller=ANYBODY,
            place="",
            authorise=authorise,
            send=send,
            hang_up=self.track.done.append,
            playing=self.track,
        )
        self.turns = SpokenTurns(self.conversation, Line(visitor), None, lambda: late_s, self.clock)

    async def tell(self, *events: heard.Heard) -> list[str]:
        for event in events:
            self.turns.tell(event)
        await self.turns.acted()
        return self.track.done


BEGAN, ENDED = heard.SpeechBegan("v", 0.0, 0), heard.SpeechEnded("v", 1.0, 0)


def _words(text: str, turn: str = "v", *, final: bool) -> heard.WordsHeard:
    return heard.WordsHeard(turn, text, final, 0, 0)


def _when_due(call: _Call) -> float:
    """How long the doubt lasts from now on, as its timer has it."""
    timer = call.turns._timer
    assert timer is not None
    return timer.when() - asyncio.get_running_loop().time()


async def test_who_has_asked_is_not_spoken_to_however_late_the_words_come() -> None:
    call = _Call()
    try:
        assert await call.tell(BEGAN, ENDED) == ["pause"]
        assert call.turns._timer is None
        call.clock.now_s += 60
        assert await call.tell(_words("how many are there", final=True)) == ["pause", "stop"]
        assert call.conversation.done == ["interrupt", "answer"]
    finally:
        await call.turns.aclose()


async def test_the_bound_of_a_doubt_follows_the_recogniser() -> None:
    for late_s in (0.0, 3.0):
        call = _Call(late_s)
        try:
            await call.tell(BEGAN)
            unknown_s = _when_due(call)
            assert unknown_s == pytest.approx(doubt.UNKNOWN_S + 2 * late_s, abs=1)
            await call.tell(_words("", final=False))
            wordless_s = _when_due(call)
            assert wordless_s == pytest.approx(doubt.FALSE_ALARM_S + 2 * late_s, abs=1)
        finally:
            await call.turns.aclose()


async def test_noise_without_end_is_spoken_into_and_words_yet_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doubt, "UNKNOWN_S", 0.0)
    call = _Call()
    try:
        await call.tell(BEGAN)
        await eventually(lambda: call.track.done == ["pause", "resume"])
        await call.tell(_words("hold on", final=False))
        assert call.track.done == ["pause", "resume", "stop"]
        assert call.conversation.done == ["interrupt"]
    finally:
        await call.turns.aclose()


async def test_what_was_no_speech_is_over_at_once() -> None:
    for last in (
        _words("", final=True),
        _words("two circles", final=True),
        heard.HearingFailed("v", UnavailableError("away")),
    ):
        call = _Call()
        try:
            assert await call.tell(BEGAN, ENDED, last) == ["pause", "resume"]
            assert call.conversation.done == []
        finally:
            await call.turns.aclose()


async def test_what_is_forgotten_holds_nothing_back() -> None:
    call = _Call()
    try:
        await call.tell(BEGAN)
        call.turns.forget()
        assert call.track.done == ["pause", "resume"]
    finally:
        await call.turns.aclose()


async def test_one_false_alarm_does_not_speak_into_another_turn() -> None:
    call = _Call()
    try:
        await call.tell(BEGAN, ENDED, heard.SpeechBegan("w", 2.0, 0))
        assert "resume" not in await call.tell(_words("", final=True))
        assert "resume" in await call.tell(_words("", "w", final=True))
    finally:
        await call.turns.aclose()
