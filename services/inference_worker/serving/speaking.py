"""Voice of an answer: its text, spoken while it is being written."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Protocol

from services.common.tasks import cancel_and_wait, spawn
from services.inference_worker import metrics
from sightline.errors import SightlineError
from sightline.v1 import gateway_pb2, inference_pb2

log = logging.getLogger(__name__)


class Speech(Protocol):
    """Speaks text while it is being written."""

    def speak(
        self, text: AsyncIterator[str], voice: str
    ) -> AsyncIterator[gateway_pb2.AudioChunk]: ...


class Voice:
    """Speech of one answer, running beside its text. Text never waits for it."""

    def __init__(self, speech: Speech, turn: str, voice: str) -> None:
        self.unavailable = False
        self._turn = turn
        self._text: asyncio.Queue[str | None] = asyncio.Queue()
        self._events: asyncio.Queue[inference_pb2.AnswerEvent | None] = asyncio.Queue()
        self._task = spawn(self._run(speech, voice), name=f"{turn}:speech")

    def write(self, text: str) -> None:
        self._text.put_nowait(text)

    def take(self) -> list[inference_pb2.AnswerEvent]:
        """Audio that is ready now."""
        ready = []
        while not self._events.empty():
            if (event := self._events.get_nowait()) is not None:
                ready.append(event)
            else:
                self._events.put_nowait(None)
                break
        return ready

    async def rest(self) -> AsyncIterator[inference_pb2.AnswerEvent]:
        """The text is complete: everything still to be heard."""
        self._text.put_nowait(None)
        while (event := await self._events.get()) is not None:
            yield event

    async def aclose(self) -> None:
        await cancel_and_wait(self._task)

    async def _run(self, speech: Speech, voice: str) -> None:
        outcome = "cancelled"
        try:
            async for audio in speech.speak(self._pieces(), voice):
                chunk = gateway_pb2.SpeechChunk(turn=self._turn, audio=audio)
                self._events.put_nowait(inference_pb2.AnswerEvent(audio_chunk=chunk))
            outcome = "spoken"
        except SightlineError as error:
            outcome = "failed"
            self.unavailable = True
            log.warning("speech unavailable", extra={"reason": error.message})
            reason = inference_pb2.SpeechUnavailable(reason=error.message)
            self._events.put_nowait(inference_pb2.AnswerEvent(speech_unavailable=reason))
        finally:
            metrics.SPEECHES.labels(outcome).inc()
            self._events.put_nowait(None)

    async def _pieces(self) -> AsyncIterator[str]:
        while (piece := await self._text.get()) is not None:
            yield piece
