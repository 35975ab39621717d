"""Speech without a session: the texts of callers to the TTS service, its audio back."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from services.common.identity import Identity
from services.common.in_flight import InFlight
from services.common.tts_client import TtsClient
from sightline.errors import (
    InvalidArgumentError,
    UnavailableError,
)
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2

MAX_TEXT_BYTES = 16 * 1024
CONNECT_TIMEOUT_S = 10.0  # a whole text may wait for its speech; an answer that is read may not
AUDIO_TIMEOUT_S = 60.0


class Speaker:
    """The texts of callers, spoken. `address` None: this suite has no speech."""

    def __init__(
        self, address: str | None, max_calls: int, identity: Identity | None = None
    ) -> None:
        self._texts = InFlight(
            "texts", owner="the gateway", most=max_calls, reason=Reason.TOO_MANY_CALLS
        )
        self._client: TtsClient | None = None
        if address is not None:
            self._client = TtsClient(
                address,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                audio_timeout_s=AUDIO_TIMEOUT_S,
                identity=identity,
            )

    @property
    def configured(self) -> bool:
        return self._client is not None

    async def drain(self) -> None:
        """Refuse new texts and let those being spoken end."""
        await self._texts.drain()

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def voices(self) -> gateway_pb2.VoicesResponse:
        """Voices that there are. Raises UnavailableError without a TTS service."""
        if self._client is None:
            raise _speechless()
        return await self._client.voices()

    async def speak(
        self, request: gateway_pb2.SpeakRequest, place: str = "", rate: float = 1.0
    ) -> AsyncGenerator[gateway_pb2.AudioChunk, None]:
        """The audio of a text, sentence by sentence. Raises what Speak may answer."""
        size_bytes = len(request.text.encode())
        if size_bytes > MAX_TEXT_BYTES:
            raise InvalidArgumentError(
                f"a text of {size_bytes} bytes is too long: at most {MAX_TEXT_BYTES}"
            )
        if not request.text.strip():
            raise InvalidArgumentError("the text is empty")
        if self._client is None:
            raise _speechless()
        with self._texts.under_way(place):
            audio = self._client.speak(_whole(request.text), request.voice, rate)
            async with contextlib.aclosing(audio) as chunks:
                async for chunk in chunks:
                    yield chunk


async def _whole(text: str) -> AsyncIterator[str]:
    yield text


def _speechless() -> UnavailableError:
    return UnavailableError("this server runs without speech", reason=Reason.SPEECH_NOT_CONFIGURED)
