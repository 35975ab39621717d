"""`Session.talk` against the gateway's own parts: questions, answers, interruptions, breaks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

import sightline
from sightline import TalkEvent, TalkKind, aio
from sightline.player import Player
from sightline.sound_devices import microphone, speaker
from sightline.talk import MAX_EVENTS, Talk
from sightline.tools import Tools
from sightline.types import Audio
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import Parts, running
from tests.unit.test_gateway_voice import ANSWER, EarsOf
from tests.unit.voices import SILENCE, SPEECH, Hearsay, audio

RATE = 16_000
FAST = sightline.Timeouts(connect_s=5, call_s=5, answer_s=10, reconnect_s=5.0)


class Talker:
    """Somebody who talks, and what happened."""

    def __init__(self, talk: Talk, parts: Parts, worker: FakeWorker) -> None:
        self.talk = talk
        self.parts = parts
        self.worker = worker
        self.events: list[TalkEvent] = []
        self._iterator = aiter(talk)

    def say(self) -> None:
        """Whatever its words are, and the silence that ends them."""
        self.talk.hear(audio(SPEECH, 0.6) + audio(SILENCE, 0.7), RATE)

    async def until(self, kind: TalkKind, **wanted: Any) -> TalkEvent:
        while True:
            event = await anext(self._iterator)
            self.events.append(event)
            if event.kind is kind and all(getattr(event, k) == v for k, v in wanted.items()):
                return event

    def kinds(self) -> list[TalkKind]:
        return [event.kind for event in self.events]


@contextlib.asynccontextmanager
async def _talking(*words: str, hears: bool = True, **options: Any) -> AsyncIterator[Talker]:
    worker = FakeWorker()
    worker.answer, worker.word_s = ANSWER, 1.0
    async with running(worker) as parts:
        if hears:
            parts.viewers.ears = EarsOf(Hearsay(*words))
        await parts.push_session(seen=True, name="kitchen")
        async with aio.connect(parts.address, timeouts=FAST) as client:
            session = await client.session("kitchen")
            async with session.talk(**options) as talk:
                await eventually(lambda: talk.id)
                yield Talker(talk, parts, worker)


async def test_what_is_said_is_heard_and_answered_aloud() -> None:
    async with _talking("What do you see?", voice="joe") as talker:
        talker.say()
        heard = await talker.until(TalkKind.HEARD, final=True)
        assert heard.text == "What do you see?"
        done = await talker.until(TalkKind.DONE)
        assert (done.turn, done.text) == (heard.turn, ANSWER)
        words = "".join(event.text for event in talker.events if event.kind is TalkKind.TEXT)
        assert words == ANSWER
        sounds = [event.audio for event in talker.events if event.kind is TalkKind.SOUND]
        assert all(isinstance(sound, Audio) for sound in sounds)
        assert len(sounds) == len(ANSWER.split())
        assert talker.worker.asked[0].voice == "joe"
        assert not talker.talk.answering


async def test_who_speaks_into_an_answer_interrupts_it() -> None:
    async with _talking("Count.", "And the square?") as talker:
        talker.say()
        first = await talker.until(TalkKind.DONE)
        talker.talk.played(first.turn, 3.0)
        talker.say()
        await talker.until(TalkKind.PAUSE, turn=first.turn)
        stop = await talker.until(TalkKind.STOP, turn=first.turn)
        assert stop.text == "one two three"
        second = await talker.until(TalkKind.DONE)
        assert second.turn != first.turn
        assert talker.worker.asked[1].question.text == "And the square?"


async def test_the_microphone_is_held_or_off() -> None:
    async with _talking("What do you see?") as talker:
        talker.talk.listen("off")
        talker.say()
        talker.talk.listen("hold")
        talker.talk.hear(audio(SPEECH, 0.5), RATE)
        talker.talk.listen("off")
        heard = await talker.until(TalkKind.HEARD, final=True)
        assert heard.text == "What do you see?"
        with pytest.raises(sightline.InvalidArgumentError, match="hands-free"):
            talker.talk.listen("sometimes")
        with pytest.raises(sightline.InvalidArgumentError, match="two bytes"):
            talker.talk.hear(b"abc", RATE)


async def test_a_server_that_does_not_hear_says_so() -> None:
    async with _talking(hears=False) as talker:
        talker.say()
        with pytest.raises(sightline.UnavailableError) as refused:
            await talker.until(TalkKind.DONE)
        assert refused.value.reason == sightline.Reason.VOICE_NOT_CONFIGURED


async def test_a_talk_goes_on_after_a_break_and_ends_when_it_is_closed() -> None:
    async with _talking("What do you see?") as talker:
        [viewer] = talker.parts.viewers.all()
        sender, outbox = viewer._sender, talker.talk._conversation._outbox
        assert sender is not None
        sender.cancel()  # as when the connection breaks
        await eventually(lambda: talker.talk._conversation._outbox not in (None, outbox))
        assert viewer._sender not in (None, sender)
        talker.say()
        await talker.until(TalkKind.DONE)
        await talker.talk.aclose()
        assert [event async for event in talker.talk] == []
        talker.talk.hear(b"", RATE)


# --- without a server ---------------------------------------------------------------------------


class _Line:
    """A conversation that is told things."""

    id = "c1"

    def __init__(self) -> None:
        self.said: list[pb.ClientEvent] = []

    def say(self, message: pb.ClientEvent) -> None:
        self.said.append(message)


def _talk() -> tuple[Talk, _Line]:
    line: Any = _Line()
    return Talk(line, pb.Question(), Tools(())), line


async def test_nobody_who_reads_is_told_at_the_end() -> None:
    talk, _ = _talk()
    delta = pb.ServerEvent(text_delta=pb.TextDelta(turn="t", text="word "))
    for _ in range(MAX_EVENTS + 1):
        talk.take(delta)
    with pytest.raises(sightline.ResourceExhaustedError):
        async for _event in talk:
            pass


async def test_answers_that_a_new_server_does_not_know_are_stopped() -> None:
    talk, line = _talk()
    talk.listen("hold")
    talk.take(pb.ServerEvent(answer_started=pb.AnswerStarted(turn="t")))
    talk.begin(goes_on=False)
    assert [message.listen.mode for message in line.said] == [pb.LISTEN_MODE_HOLD] * 2
    talk.end()
    assert [event.kind async for event in talk] == [TalkKind.ANSWER, TalkKind.STOP]


def _event(kind: TalkKind, turn: str = "t", seconds: float = 0.0) -> TalkEvent:
    sound = Audio(RATE, b"\1\0" * round(RATE * seconds)) if seconds else None
    return TalkEvent(kind=kind, turn=turn, audio=sound)


async def test_a_player_keeps_what_waits_and_tells_what_was_heard() -> None:
    talk, line = _talk()
    player = Player(talk, clock=lambda: 0.0)
    player.take(_event(TalkKind.SOUND, seconds=1.0))
    assert player.next(0.5) == b"\1\0" * (RATE // 2)
    player.take(_event(TalkKind.PAUSE))
    assert line.said[-1].playback_ack == pb.PlaybackAck(turn="t", played_s=0.5)
    assert player.next(0.1) == bytes(2 * RATE // 10)
    player.take(_event(TalkKind.RESUME))
    player.take(_event(TalkKind.SOUND, "u", seconds=0.2))
    assert player.next(0.6) == b"\1\0" * round(RATE * 0.6)
    player.take(_event(TalkKind.STOP, "u"))
    assert player.idle
    assert player.next(0.1) == bytes(2 * RATE // 10)
    assert line.said[-1].playback_ack == pb.PlaybackAck(turn="t", played_s=1.0)


def test_devices_that_are_not_there_say_what_to_do(tmp_path: Any) -> None:
    av = pytest.importorskip("av")
    with pytest.raises(sightline.InvalidArgumentError, match=r"FILE\.wav"):
        microphone("no-such-device", av, "linux")
    with pytest.raises(sightline.InvalidArgumentError, match="page"):
        microphone("0", av, "darwin")
    with pytest.raises(sightline.InvalidArgumentError, match="give a file"):
        microphone("default", av, "plan9")
    with pytest.raises(sightline.InvalidArgumentError, match="speaker none"):
        speaker("no-such-device", av, "linux")
    assert speaker("none", av) is None
    broken = tmp_path / "words.wav"
    broken.write_text("no sound")
    with pytest.raises(sightline.InvalidArgumentError, match="no sound that can be read"):
        microphone(str(broken), av)


async def test_a_spoken_question_calls_functions_and_is_answered_after_them() -> None:
    def stock(colour: str) -> int:
        """How many are left."""
        talker.worker.tool_calls = []
        return len(colour)

    options: dict[str, Any] = {"tools": [stock], "instructions": "Be brief."}
    async with _talking("How many red ones?", "And now?", **options) as talker:
        talker.worker.tool_calls = [
            pb.ToolCall(id="call_1", name="stock", arguments='{"colour": "red"}')
        ]
        talker.say()
        heard = await talker.until(TalkKind.HEARD, final=True)
        await talker.until(TalkKind.DONE, turn=heard.turn)
        done = await talker.until(TalkKind.DONE)
        assert (done.text, done.turn == heard.turn) == (ANSWER, False)
        first, second = (each.question for each in talker.worker.asked)
        assert (first.text, second.text) == ("How many red ones?",) * 2
        assert {first.instructions, second.instructions} == {"Be brief."}
        assert [tool.name for tool in first.tools] == ["stock"]
        [called] = second.called
        assert (called.id, called.output) == ("call_1", "3")
        talker.say()
        await talker.until(TalkKind.DONE)
        assert talker.worker.asked[-1].question.text == "And now?"
        assert len(talker.worker.asked) == 3


async def test_words_let_go_of_functions_that_were_called_for_an_earlier_question() -> None:
    called = asyncio.Event()

    async def endless() -> str:
        talker.worker.tool_calls = []
        called.set()
        await asyncio.Event().wait()
        return ""

    async with _talking("Look it up.", "Never mind.", tools=[endless]) as talker:
        talker.worker.tool_calls = [pb.ToolCall(id="call_1", name="endless", arguments="{}")]
        talker.say()
        await talker.until(TalkKind.DONE)
        await called.wait()
        talker.say()
        await talker.until(TalkKind.DONE)
        assert [each.question.text for each in talker.worker.asked] == [
            "Look it up.",
            "Never mind.",
        ]
        await eventually(lambda: not talker.talk._calling)


async def test_what_spoken_questions_wish_for_is_checked_when_the_talk_begins() -> None:
    async with running(FakeWorker()) as parts:
        await parts.push_session(seen=True, name="kitchen")
        async with aio.connect(parts.address, timeouts=FAST) as client:
            talk = (await client.session("kitchen")).talk(top_p=3.0)
            with pytest.raises(sightline.InvalidArgumentError, match="top_p"):
                await anext(aiter(talk))
