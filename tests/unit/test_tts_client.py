"""The TTS client against a real server on the loopback interface whose faults are chosen."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from services.common.errors import ON_PURPOSE
from services.common.tts_client import TtsClient
from sightline.errors import InternalError, InvalidArgumentError, UnavailableError
from sightline.v1 import gateway_pb2, tts_pb2, tts_pb2_grpc
from tests.eventually import PATIENCE_S
from tests.unit.served import NOWHERE, served


class _Tts(tts_pb2_grpc.TtsServiceServicer):
    """Says every piece back as one chunk; faults by the voice's name."""

    def __init__(self) -> None:
        self.voice = ""
        self.ended = asyncio.Event()

    async def Synthesize(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        try:
            self.voice = (await anext(aiter(requests))).voice
            if self.voice == "deaf":
                await asyncio.Event().wait()
            if self.voice == "unknown":
                code = grpc.StatusCode.INVALID_ARGUMENT
                await context.abort(code, "no voice 'unknown'", (ON_PURPOSE,))
            await context.send_initial_metadata(())
            async for request in requests:
                if self.voice == "breaking":
                    await context.abort(grpc.StatusCode.INTERNAL, "broken")
                if self.voice != "silent":
                    audio = gateway_pb2.AudioChunk(sample_rate=8000, pcm=request.text.encode())
                    yield tts_pb2.SynthesizeResponse(audio=audio, text=request.text)
                    yield tts_pb2.SynthesizeResponse(last=True)
            if self.voice == "silent":
                await asyncio.Event().wait()
        finally:
            self.ended.set()


@asynccontextmanager
async def _speech(**options: Any) -> AsyncIterator[tuple[TtsClient, _Tts]]:
    fake = _Tts()
    async with served(tts_pb2_grpc.add_TtsServiceServicer_to_server, fake) as address:
        peer = TtsClient(address, **({"connect_timeout_s": 5.0} | options))
        yield peer, fake
        await peer.aclose()


async def _pieces(*texts: str) -> AsyncIterator[str]:
    for text in texts:
        yield text


async def _hear(peer: TtsClient, voice: str, *texts: str) -> list[bytes]:
    return [chunk.pcm async for chunk in peer.speak(_pieces(*texts), voice)]


async def test_audio_comes_while_text_is_still_written() -> None:
    heard = asyncio.Event()

    async def text() -> AsyncIterator[str]:
        yield "one. "
        await heard.wait()  # without audio for the first piece this never ends
        yield "two."

    async with _speech() as (peer, fake), asyncio.timeout(PATIENCE_S):
        chunks, said = [], []
        async for chunk in peer.speak(text(), "en"):
            chunks.append(chunk.pcm)
            said.append(chunk.text)
            heard.set()
        assert chunks == [b"one. ", b"two."]
        assert said == ["one. ", "two."]
        assert fake.voice == "en"


async def test_no_text_is_no_audio() -> None:
    async with _speech() as (peer, _):
        assert await _hear(peer, "") == []


async def test_speech_that_is_away_says_so_at_once() -> None:
    peer = TtsClient(NOWHERE, connect_timeout_s=PATIENCE_S)
    started = time.monotonic()
    with pytest.raises(UnavailableError):
        await _hear(peer, "", "text")
    assert time.monotonic() - started < PATIENCE_S / 2
    await peer.aclose()


@pytest.mark.parametrize("voice", ["deaf", "silent"])
async def test_speech_that_says_nothing_is_given_up(voice: str) -> None:
    async with _speech(connect_timeout_s=0.3, audio_timeout_s=0.05) as (peer, fake):
        with pytest.raises(UnavailableError, match="in time"):
            await _hear(peer, voice, "text")
        await asyncio.wait_for(fake.ended.wait(), PATIENCE_S)


async def test_slow_text_is_not_silence() -> None:
    async def slow() -> AsyncIterator[str]:
        yield "one"
        await asyncio.sleep(1.3)  # longer than audio may take
        yield "two"

    async with _speech(audio_timeout_s=1.0) as (peer, _):
        chunks = [chunk.pcm async for chunk in peer.speak(slow(), "en")]
    assert chunks == [b"one", b"two"]


async def test_a_voice_nobody_has_is_the_callers_mistake() -> None:
    async with _speech() as (peer, _):
        with pytest.raises(InvalidArgumentError, match="unknown"):
            await _hear(peer, "unknown", "text")


async def test_speech_that_breaks_half_way_says_no_more_than_that() -> None:
    async with _speech() as (peer, _):
        with pytest.raises(InternalError, match=r"^Speech failed$"):
            await _hear(peer, "breaking", "text", *["more"] * 1000)


async def test_a_failing_writer_is_not_hidden() -> None:
    async def text() -> AsyncIterator[str]:
        yield "one"
        raise ValueError("the model failed")

    async with _speech() as (peer, fake):
        with pytest.raises(ValueError, match="the model failed"):
            async for _ in peer.speak(text(), "en"):
                pass
        await asyncio.wait_for(fake.ended.wait(), PATIENCE_S)


async def test_leaving_stops_synthesis_and_text() -> None:
    closed = asyncio.Event()

    async def text() -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with _speech() as (peer, fake):
        speaking = peer.speak(text(), "en")
        assert (await anext(speaking)).pcm == b"one"
        await speaking.aclose()
        await asyncio.wait_for(fake.ended.wait(), PATIENCE_S)
        await asyncio.wait_for(closed.wait(), PATIENCE_S)
