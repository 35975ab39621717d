"""Client of the ASR service, for whoever has speech to be understood."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from services.common.channels import channel_to
from services.common.errors import error_of_peer
from services.common.identity import Identity
from services.common.tasks import cancel_and_wait, spawn
from services.common.tracing import trace_headers
from sightline.errors import UnavailableError
from sightline.v1 import asr_pb2, asr_pb2_grpc, gateway_pb2

HEARING = "speech recognition"  # what a caller of ours hears the service called

_Call: TypeAlias = Any  # grpc.aio.StreamStreamCall, whose stubs do not know EOF


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
        connect_timeout_s: float = 2.0,
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
    ) -> AsyncGenerator[asr_pb2.TranscribeResponse, None]:
        """Words of `audio`, which is PCM: partial ones while it comes, the final ones at its end.

        Raises UnavailableError when ASR does not take the call within `connect_timeout_s` or has
        no final words `final_timeout_s` after the end of the audio, and the SightlineError of a
        refusal or a loss. Closing the iterator ends the call.
        """
        call = self._stub.Transcribe(timeout=self._call_timeout_s, metadata=trace_headers())
        writer: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                first = asr_pb2.TranscribeRequest(
                    language=language, prompt=prompt, partials=partials
                )
                with contextlib.suppress(asyncio.InvalidStateError):  # over already: see below why
                    await call.write(first)
                await call.initial_metadata()  # ASR sends it as soon as it has taken the call
            # Not before: gRPC forgets why a call was refused when more is written to it.
            writer = spawn(_write(call, audio, sample_rate), name="write speech to hear")
            while (reply := await self._next(call, writer)) is not None:
                yield reply
        except TimeoutError:
            raise UnavailableError("Speech recognition does not answer in time") from None
        except grpc.aio.AioRpcError as error:
            raise error_of_peer(error, HEARING) from None
        finally:
            call.cancel()
            await cancel_and_wait(writer)

    async def aclose(self) -> None:
        if self._owns_channel:
            await self._channel.close()

    async def _next(
        self, call: _Call, writer: asyncio.Task[None]
    ) -> asr_pb2.TranscribeResponse | None:
        """The next reply, None at the end. TimeoutError where none follows the last audio."""
        reading = asyncio.ensure_future(call.read())
        try:
            await asyncio.wait((reading, writer), return_when=asyncio.FIRST_COMPLETED)
            if writer.done() and not writer.cancelled():
                writer.result()  # a failure of whoever makes the audio is the caller's to know
            async with asyncio.timeout(self._final_timeout_s if writer.done() else None):
                reply = await reading
        finally:
            await cancel_and_wait(reading)
        return None if reply is grpc.aio.EOF else reply


async def _write(call: _Call, audio: AsyncIterator[bytes | Pause], sample_rate: int) -> None:
    # The call may end while audio is being written; whoever reads from it learns of it.
    # grpc tells of a call that ends in the moment in which it is half-closed by an InternalError.
    ended = (asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.InternalError)
    with contextlib.suppress(*ended):
        async for piece in audio:
            if isinstance(piece, Pause):
                await call.write(asr_pb2.TranscribeRequest(pause=True))
                continue
            chunk = gateway_pb2.AudioChunk(sample_rate=sample_rate, pcm=piece)
            await call.write(asr_pb2.TranscribeRequest(audio=chunk))
        await call.done_writing()
