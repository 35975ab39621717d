"""Client of the TTS service, for whoever has text to be spoken."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeAlias

import grpc

from services.common.channels import channel_to
from services.common.errors import error_of_peer
from services.common.identity import Identity
from services.common.tasks import cancel_and_wait, spawn
from services.common.tracing import trace_headers
from sightline.errors import UnavailableError
from sightline.v1 import gateway_pb2, tts_pb2, tts_pb2_grpc

SPEECH = "speech"  # what a caller of ours hears the service called
VOICES_TIMEOUT_S = 5.0

_SpeechCall: TypeAlias = Any  # grpc.aio.StreamStreamCall, whose stubs do not know EOF


class TtsClient:
    """Speech from an address, or on a channel that the caller keeps. Made on a running event
    loop.
    """

    def __init__(
        self,
        peer: str | grpc.aio.Channel,
        *,
        connect_timeout_s: float = 1.0,
        audio_timeout_s: float = 5.0,
        call_timeout_s: float = 300.0,
        identity: Identity | None = None,
    ) -> None:
        self._channel, self._owns_channel = channel_to(peer, identity)
        self._stub = tts_pb2_grpc.TtsServiceStub(self._channel)
        self._connect_timeout_s = connect_timeout_s
        self._audio_timeout_s = audio_timeout_s
        self._call_timeout_s = call_timeout_s

    async def voices(self) -> gateway_pb2.VoicesResponse:
        """Voices that there are. Raises the SightlineError of a refusal."""
        try:
            reply: gateway_pb2.VoicesResponse = await self._stub.Voices(
                gateway_pb2.VoicesRequest(), timeout=VOICES_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise error_of_peer(error, SPEECH) from None
        return reply

    async def speak(
        self, text: AsyncIterator[str], voice: str
    ) -> AsyncGenerator[gateway_pb2.AudioChunk, None]:
        """Audio of `text`, in order, while pieces of text still come. "" is the default voice.

        Raises UnavailableError when TTS does not take the call within `connect_timeout_s` or stays
        silent for `audio_timeout_s` with all text in its hands, and the SightlineError of a refusal
        or a loss: InvalidArgumentError for a voice it does not have. Closing the iterator stops
        synthesis.
        """
        call = self._stub.Synthesize(timeout=self._call_timeout_s, metadata=trace_headers())
        writer: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                with contextlib.suppress(asyncio.InvalidStateError):  # over already: see below why
                    await call.write(tts_pb2.SynthesizeRequest(voice=voice))
                await call.initial_metadata()  # TTS sends it as soon as it has taken the call
            # Not before: gRPC forgets why a call was refused when more is written to it.
            writer = spawn(_write_text(call, text), name="write text to speak")
            while (reply := await self._next(call, writer)) is not None:
                if reply.audio.pcm:
                    reply.audio.text = reply.text
                    yield reply.audio
        except TimeoutError:
            raise UnavailableError("Speech does not answer in time: try again") from None
        except grpc.aio.AioRpcError as error:
            raise error_of_peer(error, SPEECH) from None
        finally:
            call.cancel()
            await cancel_and_wait(writer)

    async def aclose(self) -> None:
        if self._owns_channel:
            await self._channel.close()

    async def _next(
        self, call: _SpeechCall, writer: asyncio.Task[None]
    ) -> tts_pb2.SynthesizeResponse | None:
        """The next reply, None at the end. TimeoutError once all text is written and none comes."""
        reading = asyncio.ensure_future(call.read())
        try:
            await asyncio.wait((reading, writer), return_when=asyncio.FIRST_COMPLETED)
            if writer.done() and not writer.cancelled():
                writer.result()  # a failure of whoever writes the text is the caller's to know
            async with asyncio.timeout(self._audio_timeout_s):
                reply = await reading
        finally:
            await cancel_and_wait(reading)
        return None if reply is grpc.aio.EOF else reply


async def _write_text(call: _SpeechCall, text: AsyncIterator[str]) -> None:
    # The call may end while text is being written; whoever reads from it learns of it.
    # grpc tells of a call that ends in the moment in which it is half-closed by an InternalError.
    ended = (asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.InternalError)
    with contextlib.suppress(*ended):
        async for piece in text:
            await call.write(tts_pb2.SynthesizeRequest(text=piece))
        await call.done_writing()
