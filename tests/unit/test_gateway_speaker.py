"""Texts of callers, spoken: what the gateway relays of TTS, and what it refuses."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.common.errors import ErrorInterceptor
from services.gateway.api.speaker import MAX_TEXT_BYTES, Speaker
from sightline.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    SightlineError,
    UnavailableError,
)
from sightline.v1 import gateway_pb2, tts_pb2, tts_pb2_grpc
from tests.eventually import PATIENCE_S


class _Tts(tts_pb2_grpc.TtsServiceServicer):
    """Audio is the text itself, piece by piece; it ends when `going_on` lets it."""

    def __init__(self) -> None:
        self.voice = ""
        self.going_on = asyncio.Event()
        self.going_on.set()
        self.ended = asyncio.Event()

    async def Voices(
        self, request: gateway_pb2.VoicesRequest, context: Any
    ) -> gateway_pb2.VoicesResponse:
        return gateway_pb2.VoicesResponse(default_voice="en")

    async def Synthesize(
        self, requests: AsyncIterator[tts_pb2.SynthesizeRequest], context: Any
    ) -> AsyncIterator[tts_pb2.SynthesizeResponse]:
        try:
            self.voice = (await anext(requests)).voice
            if self.voice == "unknown":
                raise InvalidArgumentError("no such voice")
            await context.send_initial_metadata(())
            async for request in requests:
                audio = gateway_pb2.AudioChunk(sample_rate=16000, pcm=request.text.encode())
                yield tts_pb2.SynthesizeResponse(audio=audio)
            await self.going_on.wait()
        finally:
            self.ended.set()


@contextlib.asynccontextmanager
async def _speaking(most: int = 4) -> AsyncIterator[tuple[Speaker, _Tts]]:
    tts = _Tts()
    with tempfile.TemporaryDirectory(prefix="sl") as folder:
        server = grpc.aio.server(interceptors=[ErrorInterceptor()])
        tts_pb2_grpc.add_TtsServiceServicer_to_server(tts, server)
        server.add_insecure_port(f"unix:{folder}/t")
        await server.start()
        speaker = Speaker(f"unix:{folder}/t", most)
        try:
            yield speaker, tts
        finally:
            await speaker.aclose()
            await server.stop(None)


async def _hear(speaker: Speaker, text: str, voice: str = "") -> list[bytes]:
    request = gateway_pb2.SpeakRequest(text=text, voice=voice)
    return [chunk.pcm async for chunk in speaker.speak(request)]


async def test_a_text_comes_back_as_audio() -> None:
    async with _speaking() as (speaker, tts):
        assert await _hear(speaker, "A red circle.", "de") == [b"A red circle."]
        assert tts.voice == "de"
        assert (await speaker.voices()).default_voice == "en"


@pytest.mark.parametrize(
    ("text", "voice", "error"),
    [
        ("", "", InvalidArgumentError),
        (" \n", "", InvalidArgumentError),
        ("x" * (MAX_TEXT_BYTES + 1), "", InvalidArgumentError),
        ("text", "unknown", InvalidArgumentError),
    ],
)
async def test_what_cannot_be_spoken_is_refused(
    text: str, voice: str, error: type[SightlineError]
) -> None:
    async with _speaking() as (speaker, _):
        with pytest.raises(error):
            await _hear(speaker, text, voice)


async def test_a_suite_without_speech_says_so() -> None:
    speaker = Speaker(None, 1)
    assert not speaker.configured
    with pytest.raises(UnavailableError, match="without speech"):
        await _hear(speaker, "text")
    with pytest.raises(UnavailableError, match="without speech"):
        await speaker.voices()


async def test_speech_that_is_away_is_told_without_addresses() -> None:
    speaker = Speaker("127.0.0.1:1", 1)
    with pytest.raises(UnavailableError, match="Speech is restarting"):
        await _hear(speaker, "text")
    await speaker.aclose()


async def test_who_leaves_stops_the_synthesis_and_makes_room() -> None:
    async with _speaking(most=1) as (speaker, tts):
        tts.going_on.clear()
        audio = speaker.speak(gateway_pb2.SpeakRequest(text="one"))
        assert (await anext(audio)).pcm == b"one"
        with pytest.raises(ResourceExhaustedError):
            await _hear(speaker, "two")
        await audio.aclose()
        await asyncio.wait_for(tts.ended.wait(), PATIENCE_S)
        tts.going_on.set()
        assert await _hear(speaker, "three") == [b"three"]
