"""The gRPC face of ASR: audio in pieces in, words out while it comes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from grpc.aio import ServicerContext

from services.asr.config import AsrConfig
from services.asr.engines import SHORT_S, Words
from services.asr.hearing import Hearing, Kind
from services.asr.metrics import AUDIO_SECONDS, FINAL_SECONDS, STREAMS, STREAMS_ENDED
from services.asr.recording import Recording
from services.common.in_flight import InFlight, counted_end
from services.common.tasks import cancel_and_wait, spawn
from sightline.errors import DeadlineExceededError, InvalidArgumentError
from sightline.v1 import asr_pb2 as pb
from sightline.v1 import asr_pb2_grpc

MAX_PROMPT_BYTES = 1024
PARTIAL_REST = 3.0  # times as long as a look took, until the next one for partial words: whoever
# pauses meanwhile would wait for its end


class AsrServicer(asr_pb2_grpc.AsrServiceServicer):
    """Hears many recordings at once, one look at each in turn."""

    def __init__(self, hearing: Hearing, config: AsrConfig) -> None:
        self._hearing = hearing
        self._config = config
        self._recordings = InFlight(
            "recordings", owner="the ASR service", most=config.max_streams, changed=STREAMS.set
        )

    async def drain(self) -> None:
        """Refuse new recordings and let those being heard end."""
        await self._recordings.drain()

    async def Transcribe(
        self, requests: AsyncIterator[pb.TranscribeRequest], context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.TranscribeResponse]:
        """Words as asr.proto says. Headers leave as soon as the call is taken."""
        with counted_end(STREAMS_ENDED):
            # Before a refusal: gRPC forgets why a call was refused that is written to meanwhile.
            first = await self._next(requests)
            if first is None:
                return
            with self._recordings.under_way():
                async with contextlib.aclosing(self._hear(first, requests, context)) as heard:
                    async for reply in heard:
                        yield reply

    async def _hear(
        self,
        first: pb.TranscribeRequest,
        requests: AsyncIterator[pb.TranscribeRequest],
        context: ServicerContext[Any, Any],
    ) -> AsyncGenerator[pb.TranscribeResponse, None]:
        language = first.language or self._config.language
        self._hearing.check_language(language)
        if len(first.prompt.encode()) > MAX_PROMPT_BYTES:
            raise InvalidArgumentError(f"the prompt has more than {MAX_PROMPT_BYTES} bytes")
        await context.send_initial_metadata(())
        recording = Recording(self._config.max_audio_s)
        reader = spawn(self._read(first, requests, recording), name="read audio to hear")
        words, heard_s = Words(), 0.0  # the newest words, and how much audio they are of
        looked_s = look_s = 0.0  # audio at the last look, and what that took
        try:
            while True:
                await recording.changed.wait()
                recording.changed.clear()
                recording.pressing.clear()
                if recording.failed is not None:
                    raise recording.failed
                ended = recording.ended
                rest_s = PARTIAL_REST * look_s if first.partials else None
                kind = self._wanted(recording, heard_s, looked_s, rest_s)
                if kind is not None and first.background:
                    kind = Kind.BACKGROUND
                ended_s = time.perf_counter()
                found: Words | None = None
                if kind is not None:
                    looked_s = recording.audio_s
                    found = await self._look(kind, recording, language, first.prompt)
                    look_s = time.perf_counter() - ended_s
                if found is not None:
                    words, heard_s = found, looked_s
                if ended:
                    FINAL_SECONDS.observe(time.perf_counter() - ended_s)
                    AUDIO_SECONDS.inc(recording.audio_s)
                    yield _reply(words, heard_s, final=True)
                    return
                if found is not None:
                    yield _reply(words, heard_s, final=False)
        finally:
            await cancel_and_wait(reader)

    async def _look(
        self, kind: Kind, recording: Recording, language: str, prompt: str
    ) -> Words | None:
        """Words up to now; None where partial ones are not known, or a pause came before them."""
        looking = self._hearing.look(kind, recording.samples(), language, prompt)
        if kind is not Kind.PARTIAL:
            return await looking
        look = asyncio.create_task(looking, name="look for partial words")
        pressing = spawn(recording.pressing.wait(), name="wait for a pause")
        try:
            await asyncio.wait({look, pressing}, return_when=asyncio.FIRST_COMPLETED)
            return look.result() if look.done() else None
        finally:
            await cancel_and_wait(look, pressing)

    def _wanted(
        self, recording: Recording, heard_s: float, looked_s: float, rest_s: float | None
    ) -> Kind | None:
        """Why the recording is to be looked at now; None: it is not. heard_s: audio of which the
        words are known. rest_s: audio that comes between two looks for partial words; None: they
        are not wanted."""
        if recording.ended:
            return Kind.FINAL if recording.audio_s > heard_s else None
        audio_s = recording.audio_s
        if audio_s > SHORT_S:  # each look takes longer than the one before
            return None
        if recording.pauses > heard_s:
            return Kind.PAUSE
        if rest_s is None or not self._hearing.idle:
            return None
        due = audio_s - looked_s >= max(self._config.partial_s, rest_s)
        return Kind.PARTIAL if due else None

    async def _read(
        self,
        first: pb.TranscribeRequest,
        requests: AsyncIterator[pb.TranscribeRequest],
        recording: Recording,
    ) -> None:
        request: pb.TranscribeRequest | None = first
        try:
            while request is not None:
                if request.HasField("audio"):
                    recording.add(request.audio.pcm, request.audio.sample_rate)
                if request.pause:
                    recording.pause()
                request = await self._next(requests)
            recording.end()
        except Exception as error:
            recording.fail(error)

    async def _next(
        self, requests: AsyncIterator[pb.TranscribeRequest]
    ) -> pb.TranscribeRequest | None:
        try:
            async with asyncio.timeout(self._config.idle_s):
                return await anext(requests, None)
        except TimeoutError:
            raise DeadlineExceededError(f"no audio for {self._config.idle_s:g} seconds") from None


def _reply(words: Words, audio_s: float, *, final: bool) -> pb.TranscribeResponse:
    segments = [
        pb.SpokenSegment(text=each.text, start_s=each.start_s, end_s=each.end_s)
        for each in words.segments
    ]
    return pb.TranscribeResponse(
        text=words.text, final=final, segments=segments, audio_s=audio_s, language=words.language
    )
