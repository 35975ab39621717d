"""`/v1/audio/transcriptions`: the words of a recording, for OpenAI's clients and for curl."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web

from services.common.in_flight import InFlight
from services.common.resampling import HEARD_RATE
from services.common.threads import Lane
from services.gateway.api.audio.recording import Recording
from services.gateway.api.audio.transcript import CONTENT_TYPES, FORMATS, Spoken, Transcript
from services.gateway.api.audio.transcription_request import (
    FORM,
    TranscriptionRequest,
    read_transcription,
)
from services.gateway.api.callers import Callers
from services.gateway.api.completions.errors import told_in
from services.gateway.api.event_stream import EventStream, while_there
from services.gateway.api.messages import place_of_request
from services.gateway.api.operations import JSON, SSE, operation
from services.gateway.auth.caller import Permission
from services.gateway.config import GatewayConfig
from services.gateway.viewers.viewers import Viewers
from services.gateway.voice.ears import Ears
from sightline.reasons import Reason

ASKED: dict[str, Any] = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "model": {"type": "string", "description": "any: there is one"},
        "language": {"type": "string", "description": "of two letters, or auto"},
        "prompt": {"type": "string", "description": "words that are likely, such as names"},
        "response_format": {
            "type": "string",
            "enum": [*FORMATS],
        },
        "stream": {"type": "string", "enum": ["true", "false"]},
    },
}


class TranscriptionsApi:
    """Recordings, heard passage by passage, so that a long one keeps nobody from being heard."""

    def __init__(self, config: GatewayConfig, viewers: Viewers, callers: Callers) -> None:
        self._viewers = viewers
        self._callers = callers
        self._trusted = config.trusted()
        self._recordings = InFlight(
            "recordings", owner="the gateway", most=config.max_speaks, reason=Reason.TOO_MANY_CALLS
        )

    async def drain(self) -> None:
        """Refuse new recordings and let those being heard end."""
        await self._recordings.drain()

    @operation(
        "POST",
        "/v1/audio/transcriptions",
        "openai",
        "The words of a recording",
        about="Of any common format, at most 25 MB and two hours. `stream` sends the words as they "
        "are heard, as server-sent events.",
        takes=ASKED,
        takes_kinds=(FORM,),
        gives={"type": "object"},
        kinds=(JSON, SSE, "text/plain", "text/vtt"),
        refusals=(400, 401, 403, 429, 503),
    )
    async def create(self, request: web.Request) -> web.StreamResponse:
        caller = await self._callers.of_request(request, Permission.ASK)
        caller.check(Permission.ASK)
        ears = self._viewers.ears
        ears.hearing()
        with self._recordings.under_way(place_of_request(request, self._trusted)):
            asked = await read_transcription(request)
            transcript = Transcript()
            heard = _heard(asked, ears, transcript)
            if asked.stream:
                return await _stream(request, heard, transcript)

            async def whole() -> None:
                async with contextlib.aclosing(heard):
                    async for spoken in heard:
                        transcript.segments.append(spoken)

            await while_there(request, whole())
        if asked.form in CONTENT_TYPES:
            text = transcript.written(asked.form)
            return web.Response(text=text, content_type=CONTENT_TYPES[asked.form])
        return web.json_response(transcript.body(asked.form))


async def _heard(
    asked: TranscriptionRequest, ears: Ears, transcript: Transcript
) -> AsyncGenerator[Spoken, None]:
    """What is said, in order; `transcript` learns length and language meanwhile. Raises
    InvalidArgumentError for what is no recording, or in a language that nobody hears."""
    lane = Lane("recording")
    try:
        recording = await lane.run(Recording, asked.recording, ears.activity())
        while not recording.over:
            for passage in await lane.run(recording.read):
                replies = ears.hearing().transcribe(
                    passage.pieces(),
                    HEARD_RATE,
                    language=asked.language,
                    prompt=asked.prompt,
                    background=True,
                )
                async with contextlib.aclosing(replies):
                    async for reply in replies:
                        if not reply.final:
                            continue
                        transcript.language = transcript.language or reply.language
                        for each in reply.segments:
                            start_s = passage.start_s + each.start_s
                            yield Spoken(each.text, start_s, passage.start_s + each.end_s)
        transcript.length_s = recording.read_s
    finally:
        lane.close()


async def _stream(
    request: web.Request, heard: AsyncGenerator[Spoken, None], transcript: Transcript
) -> web.StreamResponse:
    """Words as events, the whole text last."""
    async with EventStream(request) as stream:

        async def relay() -> None:
            async with contextlib.aclosing(heard):
                async for spoken in heard:
                    delta = f" {spoken.text}" if transcript.segments else spoken.text
                    transcript.segments.append(spoken)
                    await stream.send({"type": "transcript.text.delta", "delta": delta})
            done = {"text": transcript.text, "usage": transcript.usage()}
            await stream.send({"type": "transcript.text.done", **done})
            await stream.send("[DONE]")

        async with told_in(stream):
            await while_there(request, relay())
    return stream.response
