"""Client of the ASR service, for whoever has speech to be understood."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

import grpc

from services.common.channels import channel_to
from services.common.errors import error_of_peer
from services.common.exchange import exchange
from services.common.identity import Identity
from services.common.tracing import trace_headers
from sightline.errors import UnavailableError
from sightline.v1 import asr_pb2, asr_pb2_grpc, gateway_pb2

HEARING = "speech recognition"  # what a caller of ours hears the service called


@dataclass(frozen=True, slots=True)
class Pause:
    """Stands in a stream of audio where the speaker pauses: words are wanted up to here."""


class AsrClient:
    """Words from an address, or on a channel that the caller keeps. Made on a running event
    loop.
    """

    def __init__(
        self,
        peer: str | grpc.aio.Channel,
        *,
        connect_timeout_s: float = 10.0,  # a busy machine is no dead one
        final_timeout_s: float = 30.0,
        call_timeout_s: float = 600.0,
        identity: Identity | None = None,
    ) -> None:
        self._channel, self._owns_channel = channel_to(peer, identity)
        self._stub = asr_pb2_grpc.AsrServiceStub(self._channel)
        self._connect_timeout_s = connect_timeout_s
        self._final_timeout_s = final_timeout_s
        self._call_timeout_s = call_timeout_s

    async def transcribe(
        self,
        audio: AsyncIterator[bytes | Pause],
        sample_rate: int,
        *,
        language: str = "",
        prompt: str = "",
        partials: bool = False,
        background: bool = False,
    ) -> AsyncGenerator[asr_pb2.TranscribeResponse, None]:
        """Words of `audio`, which is PCM: partial ones while it comes, the final ones at its end.
        background: after those that somebody waits for.

        Raises UnavailableError when ASR does not take the call within `connect_timeout_s` or has
        no final words `final_timeout_s` after the end of the audio, and the SightlineError of a
        refusal or a loss. Closing the iterator ends the call.
        """
        call = self._stub.Transcribe(timeout=self._call_timeout_s, metadata=trace_headers())
        replies = exchange(
            call,
            asr_pb2.TranscribeRequest(
                language=language, prompt=prompt, partials=partials, background=background
            ),
            _requests(audio, sample_rate),
            connect_timeout_s=self._connect_timeout_s,
            reply_timeout_s=self._final_timeout_s,
        )
        try:
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    yield reply
        except TimeoutError:
            raise UnavailableError("Speech recognition does not answer in time") from None
        except grpc.aio.AioRpcError as error:
            raise error_of_peer(error, HEARING) from None

    async def aclose(self) -> None:
        if self._owns_channel:
            await self._channel.close()


async def _requests(
    audio: AsyncIterator[bytes | Pause], sample_rate: int
) -> AsyncIterator[asr_pb2.TranscribeRequest]:
    async for piece in audio:
        if isinstance(piece, Pause):
            yield asr_pb2.TranscribeRequest(pause=True)
        else:
            chunk = gateway_pb2.AudioChunk(sample_rate=sample_rate, pcm=piece)
            yield asr_pb2.TranscribeRequest(audio=chunk)
