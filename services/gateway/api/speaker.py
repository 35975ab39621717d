"""Speech without a session: a relay to the TTS service."""

import asyncio
from collections.abc import AsyncGenerator

import grpc

from services.common.errors import error_of_call, error_of_peer
from services.common.in_flight import InFlight
from services.gateway.workers.workers import CHANNEL_OPTIONS
from sightline.errors import (
    InvalidArgumentError,
    UnavailableError,
)
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2, tts_pb2, tts_pb2_grpc

MAX_TEXT_BYTES = 16 * 1024
SPEAK_TIMEOUT_S = 300.0
VOICES_TIMEOUT_S = 5.0


class Speaker:
    """`address` None: this suite has no speech."""

    def __init__(self, address: str | None, max_calls: int) -> None:
        self._texts = InFlight(
            "texts", owner="the gateway", most=max_calls, reason=Reason.TOO_MANY_CALLS
        )
        self._channel: grpc.aio.Channel | None = None
        if address is not None:
            self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)

    @property
    def configured(self) -> bool:
        return self._channel is not None

    async def drain(self) -> None:
        """Refuse new texts and let those being spoken end."""
        await self._texts.drain()

    async def aclose(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def voices(self) -> gateway_pb2.VoicesResponse:
        """What there is to speak with. Raises UnavailableError without a TTS service."""
        if self._channel is None:
            raise _speechless()
        try:
            reply: gateway_pb2.VoicesResponse = await tts_pb2_grpc.TtsServiceStub(
                self._channel
            ).Voices(gateway_pb2.VoicesRequest(), timeout=VOICES_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise error_of_peer(error, "speech") from None
        return reply

    async def speak(
        self, request: gateway_pb2.SpeakRequest, place: str = ""
    ) -> AsyncGenerator[gateway_pb2.AudioChunk, None]:
        """The audio of a text, sentence by sentence. Raises what Speak may answer."""
        size_bytes = len(request.text.encode())
        if size_bytes > MAX_TEXT_BYTES:
            raise InvalidArgumentError(
                f"a text of {size_bytes} bytes is too long: at most {MAX_TEXT_BYTES}"
            )
        if not request.text.strip():
            raise InvalidArgumentError("the text is empty")
        if self._channel is None:
            raise _speechless()
        with self._texts.under_way(place):
            call = tts_pb2_grpc.TtsServiceStub(self._channel).Synthesize(timeout=SPEAK_TIMEOUT_S)
            try:
                await call.write(tts_pb2.SynthesizeRequest(text=request.text, voice=request.voice))
                await call.done_writing()
                async for reply in call:
                    if reply.audio.pcm:
                        yield reply.audio
            except (
                asyncio.InvalidStateError,
                grpc.aio.InternalError,
            ):  # it ended while the text was written
                raise await error_of_call(call, "speech") from None
            except grpc.aio.AioRpcError as error:
                raise error_of_peer(error, "speech") from None
            finally:
                call.cancel()


def _speechless() -> UnavailableError:
    return UnavailableError("this server runs without speech", reason=Reason.SPEECH_NOT_CONFIGURED)
