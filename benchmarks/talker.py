"""Somebody who talks with a session: a microphone that never closes, ears that note when what
comes, and a player that says how much of an answer was heard."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from sightline.v1 import gateway_pb2 as pb

T = TypeVar("T")
PIECE_S = 0.05
LOUD = 600  # samples from which on somebody speaks, of 32,767


@dataclass(frozen=True, slots=True)
class Utterance:
    """Something said. onset_s, end_s: of its speech, in the audio."""

    text: str
    pcm: bytes
    sample_rate: int

    @property
    def onset_s(self) -> float:
        return float(self._loud()[0]) / self.sample_rate

    @property
    def end_s(self) -> float:
        return float(self._loud()[-1]) / self.sample_rate

    def _loud(self) -> Any:
        return np.flatnonzero(np.abs(np.frombuffer(self.pcm, np.int16).astype(np.int32)) > LOUD)


@dataclass(slots=True)
class Talker:
    """One Converse line. `stub` is a SightlineServiceStub; everything it hears is in `events`, with
    the time of its coming (monotonic seconds)."""

    stub: Any
    session: str
    sample_rate: int
    speech: bool = True
    conversation: str = ""
    events: list[tuple[float, pb.ServerEvent]] = field(default_factory=list)
    spoken: dict[str, bytearray] = field(default_factory=dict)  # audio of answers, by turn
    _call: Any = None
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    _saying: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _audio_s: dict[str, float] = field(default_factory=dict)
    _first_s: dict[str, float] = field(default_factory=dict)
    _halted: dict[str, float] = field(default_factory=dict)  # played, of turns that stand

    async def __aenter__(self) -> "Talker":
        self._call = self.stub.Converse()
        start = pb.Start(session=self.session, speech=self.speech, conversation=self.conversation)
        await self._call.write(pb.ClientEvent(start=start))
        self._tasks = [
            asyncio.create_task(self._read(), name="talker:ears"),
            asyncio.create_task(self._write(), name="talker:mouth"),
        ]
        await self.until(lambda event: event.HasField("started"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def say(self, utterance: Utterance) -> tuple[float, float]:
        """Say something into the microphone, at the pace of speech; when its speech began and
        ended."""
        assert utterance.sample_rate == self.sample_rate
        size = 2 * round(PIECE_S * self.sample_rate)
        began_s = time.monotonic()
        for at in range(0, len(utterance.pcm), size):
            self._saying.put_nowait(utterance.pcm[at : at + size].ljust(size, b"\0"))
        while not self._saying.empty():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(PIECE_S / 2)
        return began_s + utterance.onset_s, began_s + utterance.end_s

    async def until(
        self, match: Callable[[pb.ServerEvent], T], *, since: int = 0, timeout_s: float = 60.0
    ) -> tuple[float, pb.ServerEvent]:
        """The first event from number `since` on that matches, and when it came."""
        async with asyncio.timeout(timeout_s):
            while True:
                for came_s, event in self.events[since:]:
                    if match(event):
                        return came_s, event
                self._came.clear()
                await self._came.wait()

    async def _read(self) -> None:
        async for event in self._call:
            now_s = time.monotonic()
            self._play(event, now_s)
            self.events.append((now_s, event))
            self._came.set()

    def _play(self, event: pb.ServerEvent, now_s: float) -> None:
        match event.WhichOneof("event"):
            case "audio_chunk":
                turn, audio = event.audio_chunk.turn, event.audio_chunk.audio
                self.spoken.setdefault(turn, bytearray()).extend(audio.pcm)
                length_s = len(audio.pcm) / 2 / audio.sample_rate
                self._audio_s[turn] = self._audio_s.get(turn, 0.0) + length_s
                self._first_s.setdefault(turn, now_s)
            case "playback":
                turn = event.playback.turn
                if event.playback.action == pb.PLAYBACK_ACTION_RESUME:
                    self._first_s[turn] = now_s - self._halted.pop(turn, 0.0)
                elif turn in self._first_s:
                    self._halted.setdefault(turn, self._played_s(turn, now_s))

    def _played_s(self, turn: str, now_s: float) -> float:
        if turn in self._halted:
            return self._halted[turn]
        return min(self._audio_s[turn], now_s - self._first_s[turn])

    async def _write(self) -> None:
        silence = b"\0\0" * round(PIECE_S * self.sample_rate)
        due_s, number = time.monotonic(), 0
        with contextlib.suppress(asyncio.CancelledError):
            async for piece in self._pieces(silence):
                audio = pb.AudioChunk(sample_rate=self.sample_rate, pcm=piece)
                await self._call.write(pb.ClientEvent(audio_chunk=audio))
                number += 1
                if number % 4 == 0:
                    await self._acknowledge()
                due_s += PIECE_S
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    async def _pieces(self, silence: bytes) -> AsyncIterator[bytes]:
        while True:
            yield silence if self._saying.empty() else self._saying.get_nowait()

    async def _acknowledge(self) -> None:
        for turn in list(self._first_s)[-1:]:
            ack = pb.PlaybackAck(turn=turn, played_s=self._played_s(turn, time.monotonic()))
            await self._call.write(pb.ClientEvent(playback_ack=ack))
