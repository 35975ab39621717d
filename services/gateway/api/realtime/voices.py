"""Voices that answers are spoken with: OpenAI's names stand for the default one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.gateway.api.speaker import Speaker
from sightline.errors import SightlineError
from sightline.v1 import gateway_pb2

PATIENCE_S = 1.0


class Voices:
    """Voices of this suite, asked for once, when the first name is."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._voices = gateway_pb2.VoicesResponse()

    @property
    def configured(self) -> bool:
        """Whether answers can be spoken."""
        return self._speaker.configured

    async def known(self, name: str) -> str:
        """The voice of this name, where there is one; "" is the default."""
        if not name or not self.configured:
            return ""
        if not self._voices.voices:
            with contextlib.suppress(SightlineError, TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    self._voices = await self._speaker.voices()
        return name if any(voice.id == name for voice in self._voices.voices) else ""

    async def speak(self, text: str, name: str) -> AsyncIterator[gateway_pb2.AudioChunk]:
        """The speech of a text. Raises what Speak may answer."""
        wanted = gateway_pb2.SpeakRequest(text=text, voice=await self.known(name))
        async with contextlib.aclosing(self._speaker.speak(wanted)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def shown(self, name: str) -> str:
        """The name of the voice that `name` stands for."""
        return await self.known(name) or self._voices.default_voice or "default"
