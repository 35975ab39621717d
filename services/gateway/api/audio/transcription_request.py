"""A recording and what is wanted of it, read out of a form."""

import asyncio
import re
from dataclasses import dataclass

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import BadHttpMessage

from services.common.bodies import too_large
from services.gateway.api.audio.recording import MAX_RECORDING_BYTES
from services.gateway.api.audio.transcript import FORMATS
from services.gateway.api.completions.errors import ParameterError
from sightline.errors import DeadlineExceededError, InvalidArgumentError

FORM = "multipart/form-data"
MAX_FIELDS, MAX_FIELD_BYTES = 32, 16 * 1024
MAX_PROMPT_BYTES = 1024  # of the ASR service; a model reads no more
PIECE_BYTES = 64 * 1024
PIECE_TIMEOUT_S, FORM_TIMEOUT_S = 10.0, 600.0
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]+)*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionRequest:
    """language: of two letters, "auto", or "" for the server's. form: one of FORMATS."""

    recording: bytes
    language: str = ""
    prompt: str = ""
    form: str = "json"
    stream: bool = False


async def read_transcription(request: web.Request) -> TranscriptionRequest:
    """Read a request. Raises InvalidArgumentError, naming the field that is wrong, 413 for a file
    that is too large, and DeadlineExceededError."""
    if request.content_type != FORM:
        raise web.HTTPUnsupportedMediaType(reason=f"a recording comes as {FORM}")
    most = MAX_RECORDING_BYTES + MAX_FIELDS * MAX_FIELD_BYTES
    if (request.content_length or 0) > most:
        raise too_large(MAX_RECORDING_BYTES, request.content_length or 0)
    recording: bytes | None = None
    fields: dict[str, list[str]] = {}
    try:
        async with asyncio.timeout(FORM_TIMEOUT_S):
            parts = await request.multipart()
            for _ in range(MAX_FIELDS):
                async with asyncio.timeout(PIECE_TIMEOUT_S):
                    part = await parts.next()
                if part is None:
                    break
                if not isinstance(part, BodyPartReader):
                    raise InvalidArgumentError("a form within the form is none of its fields")
                if part.name == "file":
                    recording = await _content(part, MAX_RECORDING_BYTES)
                else:
                    content = await _content(part, MAX_FIELD_BYTES)
                    name = (part.name or "").removesuffix("[]")
                    fields.setdefault(name, []).append(content.decode())
    except TimeoutError:
        raise DeadlineExceededError("the recording did not arrive in time") from None
    except (ValueError, LookupError, AssertionError, BadHttpMessage) as error:
        raise InvalidArgumentError(f"not a valid form: {str(error)[:200]}") from None
    if not recording:
        raise ParameterError("file", "is missing or empty")
    return _request_of(recording, fields)


def _request_of(recording: bytes, fields: dict[str, list[str]]) -> TranscriptionRequest:
    def field(name: str, default: str = "") -> str:
        return fields.get(name, [default])[-1].strip() or default

    language = field("language").lower()
    if language and language != "auto" and not _LANGUAGE.fullmatch(language):
        raise ParameterError("language", 'is a code such as "en"')
    form = field("response_format", "json")
    if form not in FORMATS:
        raise ParameterError("response_format", f"is one of {', '.join(FORMATS)}")
    stream = field("stream", "false").lower()
    if stream not in ("true", "false", "1", "0"):
        raise ParameterError("stream", "is true or false")
    if "word" in fields.get("timestamp_granularities", ()):
        raise ParameterError(
            "timestamp_granularities",
            "times of words are not to be had here, those of segments are",
        )
    if "logprobs" in fields.get("include", ()):
        raise ParameterError("include", "logprobs are not to be had here")
    prompt = field("prompt").encode()[-MAX_PROMPT_BYTES:].decode(errors="ignore")
    return TranscriptionRequest(
        recording=recording,
        language=language if language == "auto" else language.partition("-")[0],
        prompt=prompt,
        form=form,
        stream=stream in ("true", "1"),
    )


async def _content(part: BodyPartReader, most_bytes: int) -> bytes:
    content = bytearray()
    while True:
        async with asyncio.timeout(PIECE_TIMEOUT_S):
            piece = await part.read_chunk(PIECE_BYTES)
        if not piece:
            return bytes(content)
        content += piece
        if len(content) > most_bytes:
            raise too_large(most_bytes, len(content))
