"""A call as it is asked for: an SDP offer, and settings where they come along."""

import asyncio
from dataclasses import dataclass, field

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import BadHttpMessage

from services.common.bodies import BODY_TIMEOUT_S, MAX_BODY_BYTES, read_text, too_large
from services.gateway.api.realtime.fields import Json, WireError, object_of
from services.gateway.sources.whip.server import SDP
from sightline.errors import DeadlineExceededError, InvalidArgumentError

FORM = "multipart/form-data"
MAX_PARTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """session: as of `session.update`."""

    offer: str
    session: Json = field(default_factory=dict)


async def read_call(request: web.Request) -> CallRequest:
    """Read a request. Raises InvalidArgumentError, 413 and 415."""
    if request.content_type == SDP:
        return CallRequest(offer=_text(await read_text(request)))
    if request.content_type != FORM:
        raise web.HTTPUnsupportedMediaType(reason=f"an offer is {SDP} or {FORM}")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise too_large(MAX_BODY_BYTES, request.content_length or 0)
    parts: dict[str, str] = {}
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            form = await request.multipart()
            for _ in range(MAX_PARTS):
                part = await form.next()
                if part is None:
                    break
                if isinstance(part, BodyPartReader):
                    parts[part.name or ""] = _text(await _content(part))
    except TimeoutError:
        raise DeadlineExceededError("the request did not arrive in time") from None
    except (ValueError, LookupError, AssertionError, BadHttpMessage) as error:
        raise InvalidArgumentError(f"not a valid form: {str(error)[:200]}") from None
    if "sdp" not in parts:
        raise InvalidArgumentError("the form has no sdp")
    try:
        session = object_of(parts["session"]) if parts.get("session", "").strip() else {}
    except WireError as error:
        raise InvalidArgumentError(f"session: {error.message}") from None
    return CallRequest(offer=parts["sdp"], session=session)


async def _content(part: BodyPartReader) -> bytes:
    content = bytearray()
    while piece := await part.read_chunk():
        content += piece
        if len(content) > MAX_BODY_BYTES:
            raise too_large(MAX_BODY_BYTES, len(content))
    return bytes(content)


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise InvalidArgumentError("the request is not text") from None
