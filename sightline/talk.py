"""Talking with a video: audio in, words and spoken answers out, with interruptions.

The server finds where somebody begins and ends to speak, asks what was said, and speaks the answer.
Whoever plays that answer says how much of it was heard, and falls silent when told to.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sightline.closing import AsyncClosing
from sightline.errors import InvalidArgumentError, ResourceExhaustedError, SightlineError
from sightline.tools import Tools, question_after
from sightline.types import Audio
from sightline.v1 import gateway_pb2 as pb

__all__ = ["Talk", "TalkEvent", "TalkKind"]

MAX_PIECE_BYTES = 32 * 1024
MAX_EVENTS = 4096  # that wait to be read


class TalkKind(StrEnum):
    """What happens in a talk."""

    HEARD = "heard"  # what you say, so far; `final`: it is asked, unless there is no text
    ANSWER = "answer"  # an answer to it begins
    TEXT = "text"  # more of its words
    SOUND = "sound"  # more of its speech
    DONE = "done"  # it is whole; `text` is all of it
    PAUSE = "pause"  # somebody may be speaking: be silent at once, and keep what waits
    RESUME = "resume"  # nobody was: play on
    STOP = "stop"  # somebody is: forget what was not played. `text` is what was heard of it
    FAILED = "failed"  # no answer comes; `text` says why


@dataclass(frozen=True, slots=True, kw_only=True)
class TalkEvent:
    """Something that happened. `turn` is of the question and of its answer."""

    kind: TalkKind
    turn: str
    text: str = ""
    final: bool = False
    audio: Audio | None = None


_PLAYBACK = {
    pb.PLAYBACK_ACTION_PAUSE: TalkKind.PAUSE,
    pb.PLAYBACK_ACTION_RESUME: TalkKind.RESUME,
    pb.PLAYBACK_ACTION_STOP: TalkKind.STOP,
}
_MODES = {
    "hands-free": pb.LISTEN_MODE_HANDS_FREE,
    "hold": pb.LISTEN_MODE_HOLD,
    "off": pb.LISTEN_MODE_OFF,
}


class Carrier(Protocol):
    """The conversation that a talk goes over."""

    id: str

    def say(self, message: pb.ClientEvent) -> None: ...
    async def aclose(self) -> None: ...


class Talk(AsyncClosing):
    """A spoken conversation about a session: `hear` is given the microphone, `async for` gives what
    happens. `async with` hangs up at the end. Belongs to one event loop.

    The iteration raises what ends the talk (a SightlineError): UnavailableError with the reason
    VOICE_NOT_CONFIGURED of a server that does not hear.
    """

    def __init__(self, conversation: Carrier, wishes: pb.Question, tools: Tools) -> None:
        """wishes: what spoken questions ask for beside their words."""
        self._conversation = conversation
        self._wishes = wishes
        self._tools = tools
        self._asked: dict[str, pb.Question] = {}  # under way, by turn, where there are tools
        self._calling: set[asyncio.Task[None]] = set()
        self._events: asyncio.Queue[TalkEvent | SightlineError | None]
        self._events = asyncio.Queue(MAX_EVENTS)
        self._mode = pb.LISTEN_MODE_HANDS_FREE
        self._open: set[str] = set()  # turns whose answers are under way
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[TalkEvent]:
        while (event := await self._events.get()) is not None:
            if isinstance(event, SightlineError):
                raise event
            yield event

    @property
    def id(self) -> str:
        """The conversation's; known once the server has answered."""
        return self._conversation.id

    @property
    def answering(self) -> bool:
        """Whether an answer is under way."""
        return bool(self._open)

    def hear(self, pcm: bytes, sample_rate: int) -> None:
        """A piece of the microphone's sound: PCM, signed 16-bit little endian, mono, of 8,000 to
        48,000 samples a second. Without a connection it is lost, as sound is that nobody hears."""
        if len(pcm) % 2:
            raise InvalidArgumentError("PCM of 16 bits has two bytes for each sample")
        for at in range(0, len(pcm), MAX_PIECE_BYTES):
            chunk = pb.AudioChunk(sample_rate=sample_rate, pcm=pcm[at : at + MAX_PIECE_BYTES])
            self._tell(pb.ClientEvent(audio_chunk=chunk))

    def listen(self, mode: str) -> None:
        """How the microphone is heard from here on: "hands-free" (also without a word), "hold" (all
        that comes until the next `listen` is one question), "off"."""
        if mode not in _MODES:
            raise InvalidArgumentError(f"a mode is one of {', '.join(_MODES)}")
        self._mode = _MODES[mode]
        self._tell(pb.ClientEvent(listen=pb.Listen(mode=self._mode)))

    def played(self, turn: str, seconds: float) -> None:
        """So much of an answer's speech was heard. To be told a few times a second while it plays,
        and when it stops: of an answer that is interrupted, that much is remembered."""
        self._tell(pb.ClientEvent(playback_ack=pb.PlaybackAck(turn=turn, played_s=seconds)))

    def cancel(self, turn: str) -> None:
        """End an answer."""
        self._tell(pb.ClientEvent(cancel=pb.Cancel(turn=turn)))

    async def aclose(self) -> None:
        """Hang up."""
        await self._conversation.aclose()

    # Fed by the conversation

    def begin(self, *, goes_on: bool) -> None:
        """There is a connection. goes_on: the server knows of what was before."""
        if not goes_on:
            for turn in sorted(self._open):
                self._put(TalkEvent(kind=TalkKind.STOP, turn=turn))
            self._open.clear()
        if self._mode != pb.LISTEN_MODE_HANDS_FREE:
            self._tell(pb.ClientEvent(listen=pb.Listen(mode=self._mode)))
        for question in self._asked.values():
            if question.called:  # the break may have swallowed it
                self._tell(pb.ClientEvent(ask=question))

    def take(self, message: pb.ServerEvent) -> None:
        match message.WhichOneof("event"):
            case "transcript":
                said = message.transcript
                if said.text:
                    self._hear_words(said)
                self._note(TalkKind.HEARD, said.turn, said.text, final=said.final)
            case "answer_started":
                turn = message.answer_started.turn
                if message.answer_started.restarted:
                    self._note(TalkKind.STOP, turn)
                self._open.add(turn)
                self._note(TalkKind.ANSWER, turn)
            case "text_delta":
                self._note(TalkKind.TEXT, message.text_delta.turn, message.text_delta.text)
            case "audio_chunk":
                sound = message.audio_chunk.audio
                audio = Audio(sound.sample_rate, sound.pcm)
                self._note(TalkKind.SOUND, message.audio_chunk.turn, sound.text, audio=audio)
            case "answer_done":
                done = message.answer_done
                self._open.discard(done.turn)
                self._note(TalkKind.DONE, done.turn, done.text)
                question = self._asked.pop(done.turn, None)
                if question is not None and done.tool_calls:
                    name = f"{done.turn}:tools"
                    task = asyncio.create_task(self._call(question, done), name=name)
                    self._calling.add(task)
                    task.add_done_callback(self._calling.discard)
            case "playback":
                played = message.playback
                if played.action in _PLAYBACK:
                    self._note(_PLAYBACK[played.action], played.turn, played.heard)
            case "error" if message.error.turn:
                self._open.discard(message.error.turn)
                self._asked.pop(message.error.turn, None)
                self._note(TalkKind.FAILED, message.error.turn, message.error.message)

    def _hear_words(self, said: pb.Transcript) -> None:
        """Somebody speaks: what was called for an earlier question is not waited for."""
        for task in self._calling:
            task.cancel()
        if said.final and self._wishes.tools:
            question = pb.Question()
            question.CopyFrom(self._wishes)
            question.turn, question.text = said.turn, said.text
            self._asked[said.turn] = question

    async def _call(self, question: pb.Question, done: pb.AnswerDone) -> None:
        """Call what the model wants called, and ask again with what came of it."""
        asked = question_after(question, await self._tools.call(done.tool_calls))
        self._asked[asked.turn] = asked
        self._tell(pb.ClientEvent(ask=asked))

    def fail(self, error: SightlineError) -> None:
        self._let_go()
        if not self._ended:
            self._ended = True
            if self._events.full():
                self._events.get_nowait()
            self._events.put_nowait(error)

    def end(self) -> None:
        """Nothing more happens."""
        self._let_go()
        if not self._ended:
            self._ended = True
            if not self._events.full():
                self._events.put_nowait(None)

    def _let_go(self) -> None:
        for task in self._calling:
            task.cancel()

    def _note(
        self,
        kind: TalkKind,
        turn: str,
        text: str = "",
        *,
        final: bool = False,
        audio: Audio | None = None,
    ) -> None:
        self._put(TalkEvent(kind=kind, turn=turn, text=text, final=final, audio=audio))

    def _put(self, event: TalkEvent) -> None:
        if self._ended:
            return
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            self.fail(ResourceExhaustedError("nobody reads what happens in this talk"))

    def _tell(self, message: pb.ClientEvent) -> None:
        if not self._ended:
            self._conversation.say(message)
