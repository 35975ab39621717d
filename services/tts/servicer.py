"""The gRPC face of TTS: text in pieces in, audio of whole sentences out."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from grpc.aio import ServicerContext

from services.common.in_flight import InFlight, counted_end
from services.common.tasks import cancel_and_wait, spawn
from services.tts.audio import Chunker
from services.tts.config import TtsConfig
from services.tts.metrics import FIRST_AUDIO_SECONDS, STREAMS, STREAMS_ENDED
from services.tts.synthesis import Synthesis
from services.tts.text import SentenceSplitter, SentenceTooLongError
from sightline.errors import DeadlineExceededError, InvalidArgumentError
from sightline.v1 import gateway_pb2, tts_pb2_grpc
from sightline.v1 import tts_pb2 as pb

MIN_RATE, MAX_RATE = 0.5, 2.0
SENTENCES_AHEAD = 4  # complete sentences of one text that wait; then its text waits too

# A complete sentence and when it was complete; an error where the text broke; None at its end.
_Item = tuple[str, float] | Exception | None


class TtsServicer(tts_pb2_grpc.TtsServiceServicer):
    """Speaks many texts at once, one sentence of each in turn."""

    def __init__(self, synthesis: Synthesis, config: TtsConfig) -> None:
        self._synthesis = synthesis
        self._engine = synthesis.engine
        self._config = config
        self._voices = {voice.id for voice in self._engine.voices}
        self._texts = InFlight(
            "texts", owner="the TTS service", most=config.max_streams, changed=STREAMS.set
        )

    async def drain(self) -> None:
        """Refuse new texts and let those being spoken end."""
        await self._texts.drain()

    async def Voices(
        self, request: gateway_pb2.VoicesRequest, context: object
    ) -> gateway_pb2.VoicesResponse:
        voices = [
            gateway_pb2.Voice(
                id=voice.id,
                language=voice.language,
                engine=self._engine.name,
                sample_rate=self._engine.sample_rate,
            )
            for voice in self._engine.voices
        ]
        return gateway_pb2.VoicesResponse(voices=voices, default_voice=self._engine.default_voice)

    async def Synthesize(
        self, requests: AsyncIterator[pb.SynthesizeRequest], context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.SynthesizeResponse]:
        """Speech as tts.proto says. Headers leave as soon as the call is taken, audio sentence by
        sentence."""
        with counted_end(STREAMS_ENDED):
            # Before a refusal: gRPC forgets why a call was refused that is written to meanwhile.
            first = await self._next(requests)
            if first is None:
                return
            with self._texts.under_way():
                async with contextlib.aclosing(self._speak(first, requests, context)) as spoken:
                    async for reply in spoken:
                        yield reply

    async def _speak(
        self,
        first: pb.SynthesizeRequest,
        requests: AsyncIterator[pb.SynthesizeRequest],
        context: ServicerContext[Any, Any],
    ) -> AsyncGenerator[pb.SynthesizeResponse, None]:
        voice, rate = self._checked(first)
        await context.send_initial_metadata(())
        sentences: asyncio.Queue[_Item] = asyncio.Queue(SENTENCES_AHEAD)
        reader = spawn(self._read(first, requests, sentences), name="read text to speak")
        try:
            is_first = True
            while (item := await sentences.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                sentence, complete_s = item
                speaking = self._speak_sentence(sentence, voice, rate)
                async with contextlib.aclosing(speaking) as replies:
                    async for reply in replies:
                        if is_first:
                            FIRST_AUDIO_SECONDS.observe(time.perf_counter() - complete_s)
                            is_first = False
                        yield reply
        finally:
            await cancel_and_wait(reader)

    async def _speak_sentence(
        self, sentence: str, voice: str, rate: float
    ) -> AsyncGenerator[pb.SynthesizeResponse, None]:
        sample_rate = self._engine.sample_rate
        chunker = Chunker(sample_rate, self._config.chunk_ms)
        text = sentence

        def reply(pcm: bytes, *, last: bool = False) -> pb.SynthesizeResponse:
            nonlocal text
            audio = gateway_pb2.AudioChunk(sample_rate=sample_rate, pcm=pcm)
            said, text = text, ""  # only the first chunk says what is spoken
            return pb.SynthesizeResponse(audio=audio, text=said, last=last)

        async with contextlib.aclosing(self._synthesis.speak(sentence, voice, rate)) as audio:
            async for pcm in audio:
                for chunk in chunker.feed(pcm):
                    yield reply(chunk)
        yield reply(chunker.finish(), last=True)

    async def _read(
        self,
        first: pb.SynthesizeRequest,
        requests: AsyncIterator[pb.SynthesizeRequest],
        sentences: asyncio.Queue[_Item],
    ) -> None:
        """Cut the text into sentences as it comes. What goes wrong comes after what went well."""
        splitter = SentenceSplitter(self._config.max_sentence_chars, eager=self._engine.eager)
        size_bytes = 0
        request: pb.SynthesizeRequest | None = first
        try:
            while request is not None:
                size_bytes += len(request.text.encode())
                if size_bytes > self._config.max_text_bytes:
                    raise InvalidArgumentError(
                        f"the text has more than {self._config.max_text_bytes} bytes"
                    )
                for sentence in splitter.feed(request.text):
                    await sentences.put((sentence, time.perf_counter()))
                request = await self._next(requests)
            for sentence in splitter.finish():
                await sentences.put((sentence, time.perf_counter()))
            await sentences.put(None)
        except SentenceTooLongError as error:
            await sentences.put(InvalidArgumentError(str(error)))
        except Exception as error:
            await sentences.put(error)

    async def _next(
        self, requests: AsyncIterator[pb.SynthesizeRequest]
    ) -> pb.SynthesizeRequest | None:
        try:
            async with asyncio.timeout(self._config.idle_s):
                return await anext(requests, None)
        except TimeoutError:
            raise DeadlineExceededError(f"no text for {self._config.idle_s:g} seconds") from None

    def _checked(self, first: pb.SynthesizeRequest) -> tuple[str, float]:
        voice = first.voice or self._engine.default_voice
        if voice not in self._voices:
            raise InvalidArgumentError(f"no voice {voice[:64]!r}; Voices lists those there are")
        rate = first.rate or 1.0
        if not MIN_RATE <= rate <= MAX_RATE:  # NaN is not within either
            raise InvalidArgumentError(f"the rate must be {MIN_RATE} to {MAX_RATE}, or 0")
        return voice, rate
