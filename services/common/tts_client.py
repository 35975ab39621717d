"""Client of the TTS service, for whoever has text to be spoken."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import grpc

from services.common.channels import channel_to
from services.common.errors import error_of_peer
from services.common.exchange import exchange
from services.common.identity import Identity
from services.common.tracing import trace_headers
from sightline.errors import UnavailableError
from sightline.v1 import gateway_pb2, tts_pb2, tts_pb2_grpc

SPEECH = "speech"  # what a caller of ours hears the service called
VOICES_TIMEOUT_S = 5.0


class TtsClient:
    """Speech from an address, or on a channel that the caller keeps. Made on a running event
    loop.
    """

    def __init__(
        self,
        peer: str | grpc.aio.Channel,
        *,
        connect_timeout_s: float = 5.0,  # a busy machine is no dead one
        audio_timeout_s: float = 10.0,
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
        self, text: AsyncIterator[str], voice: str, rate: float = 1.0
    ) -> AsyncGenerator[gateway_pb2.AudioChunk, None]:
        """Audio of `text`, in order, while pieces of text still come. "" is the default voice,
        1.0 its own rate.

        Raises UnavailableError when TTS does not take the call within `connect_timeout_s` or stays
        silent for `audio_timeout_s` with all text in its hands, and the SightlineError of a refusal
        or a loss: InvalidArgumentError for a voice it does not have. Closing the iterator stops
        synthesis.
        """
        call = self._stub.Synthesize(timeout=self._call_timeout_s, metadata=trace_headers())
        replies = exchange(
            call,
            tts_pb2.SynthesizeRequest(voice=voice, rate=rate),
            _requests(text),
            connect_timeout_s=self._connect_timeout_s,
            reply_timeout_s=self._audio_timeout_s,
        )
        try:
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    if reply.audio.pcm:
                        reply.audio.text = reply.text
                        yield reply.audio
        except TimeoutError:
            raise UnavailableError("Speech does not answer in time: try again") from None
        except grpc.aio.AioRpcError as error:
            raise error_of_peer(error, SPEECH) from None

    async def aclose(self) -> None:
        if self._owns_channel:
            await self._channel.close()


async def _requests(text: AsyncIterator[str]) -> AsyncIterator[tts_pb2.SynthesizeRequest]:
    async for piece in text:
        yield tts_pb2.SynthesizeRequest(text=piece)
