"""`/v1/audio/speech`: a text as a recording, for OpenAI's clients and for curl."""

import asyncio
import base64
import contextlib
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from services.common.bodies import read_text
from services.gateway.api.audio.encoder import CONTENT_TYPES, SpeechFile
from services.gateway.api.callers import Callers
from services.gateway.api.completions.chat_request import object_of
from services.gateway.api.completions.errors import ParameterError, told_in
from services.gateway.api.event_stream import SEND_TIMEOUT_S, EventStream
from services.gateway.api.messages import place_of_request
from services.gateway.api.operations import SSE, operation
from services.gateway.api.speaker import Speaker
from services.gateway.auth.caller import Permission
from services.gateway.config import GatewayConfig
from sightline.errors import SightlineError, UnavailableError
from sightline.v1 import gateway_pb2

MIN_SPEED, MAX_SPEED = 0.5, 2.0
# OpenAI's; here they are the default voice.
VOICES = frozenset(
    {"alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx"}
    | {"sage", "shimmer", "verse"}
)
ASKED: dict[str, Any] = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {"type": "string", "description": "at most 16 KiB"},
        "model": {"type": "string", "description": "any: there is one"},
        "voice": {"description": "one that Voices lists; OpenAI's names are the default one"},
        "response_format": {"type": "string", "enum": [*CONTENT_TYPES]},
        "speed": {"type": "number", "minimum": MIN_SPEED, "maximum": MAX_SPEED},
        "stream_format": {"type": "string", "enum": ["audio", "sse"]},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRequest:
    """A text, and how it is to be spoken and sent."""

    text: str
    voice: str
    form: str
    speed: float
    events: bool


class SpeechApi:
    """Texts, sent as they are spoken, sentence by sentence."""

    def __init__(self, config: GatewayConfig, speaker: Speaker, callers: Callers) -> None:
        self._speaker = speaker
        self._callers = callers
        self._trusted = config.trusted()

    @operation(
        "POST",
        "/v1/audio/speech",
        "openai",
        "A text as a recording",
        about="Sent as it is spoken. A reply that ends without its last chunk has broken off.",
        takes=ASKED,
        gives=None,
        kinds=(*CONTENT_TYPES.values(), SSE),
        refusals=(400, 401, 403, 429, 503),
    )
    async def create(self, request: web.Request) -> web.StreamResponse:
        caller = await self._callers.of_request(request, Permission.ASK)
        caller.check(Permission.ASK)
        asked = speech_request_of(await read_text(request))
        place = place_of_request(request, self._trusted)
        async with contextlib.aclosing(self._spoken(asked, place)) as spoken:
            if asked.events:
                return await _events(request, spoken)
            return await _file(request, spoken, CONTENT_TYPES[asked.form])

    async def _spoken(self, asked: SpeechRequest, place: str) -> AsyncGenerator[bytes, None]:
        """The file, in pieces that are never empty."""
        wanted = gateway_pb2.SpeakRequest(text=asked.text, voice=asked.voice)
        file = SpeechFile(asked.form)
        chunks = self._speaker.speak(wanted, place, asked.speed)
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                if data := file.write(chunk):
                    yield data
        if data := file.finish():
            yield data


def speech_request_of(text: bytes) -> SpeechRequest:
    """Read a request. Raises InvalidArgumentError, naming the field that is wrong."""
    body = object_of(text)
    words = body.get("input")
    if not isinstance(words, str) or not words.strip():
        raise ParameterError("input", "is missing or empty")
    voice = body.get("voice")
    if isinstance(voice, dict):
        voice = voice.get("id")
    if voice is not None and not isinstance(voice, str):
        raise ParameterError("voice", "is a name")
    form = body.get("response_format") or "mp3"
    if form not in CONTENT_TYPES:
        raise ParameterError("response_format", f"is one of {', '.join(CONTENT_TYPES)}")
    speed = body.get("speed")
    speed = 1.0 if speed is None else speed
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not math.isfinite(speed):
        raise ParameterError("speed", "is a number")
    if not MIN_SPEED <= speed <= MAX_SPEED:
        raise ParameterError("speed", f"is {MIN_SPEED} to {MAX_SPEED}")
    stream_format = body.get("stream_format") or "audio"
    if stream_format not in ("audio", "sse"):
        raise ParameterError("stream_format", "is audio or sse")
    return SpeechRequest(
        text=words,
        voice="" if voice is None or voice in VOICES else voice,
        form=form,
        speed=float(speed),
        events=stream_format == "sse",
    )


async def _file(
    request: web.Request, spoken: AsyncGenerator[bytes, None], content_type: str
) -> web.StreamResponse:
    first = await anext(spoken, b"")  # until there is sound a refusal is an ordinary one
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    try:
        await _write(response, first)
        async for data in spoken:
            await _write(response, data)
        await response.write_eof()
    except SightlineError:
        # A reply under way cannot be refused any more: its missing end tells.
        if request.transport is not None:
            request.transport.abort()
    return response


async def _write(response: web.StreamResponse, data: bytes) -> None:
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await response.write(data)
    except TimeoutError:
        raise UnavailableError("the client does not read what it asked for") from None


async def _events(request: web.Request, spoken: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    async with EventStream(request) as stream, told_in(stream):
        async for data in spoken:
            audio = base64.b64encode(data).decode()
            await stream.send({"type": "speech.audio.delta", "audio": audio})
        await stream.send({"type": "speech.audio.done"})
        await stream.send("[DONE]")
    return stream.response
