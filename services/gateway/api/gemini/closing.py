"""Closing of a Gemini Live connection: this wire tells what is wrong by a WebSocket's close code
and a sentence, and has no other word for it."""

from typing import Any

import grpc
from aiohttp import WSCloseCode

from services.common.redaction import redacted
from services.gateway.api.realtime.fields import WireError
from sightline.errors import SightlineError

MAX_REASON_BYTES = 123  # RFC 6455, 5.5
_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: WSCloseCode.INVALID_TEXT,
    grpc.StatusCode.FAILED_PRECONDITION: WSCloseCode.INVALID_TEXT,
    grpc.StatusCode.NOT_FOUND: WSCloseCode.POLICY_VIOLATION,
    grpc.StatusCode.PERMISSION_DENIED: WSCloseCode.POLICY_VIOLATION,
    grpc.StatusCode.UNAUTHENTICATED: WSCloseCode.POLICY_VIOLATION,
}
# Sentences that speak of another wire.
_OURS = {
    "no_session": "there is no video: show pictures, or name a session (model sightline://…)",
    "input_image_not_supported": "this session is about a live video: pictures do not go there",
    "input_audio_not_supported": "this server does not hear",
}


def closing_of(error: WireError | SightlineError) -> tuple[int, bytes]:
    """Code and reason of an error."""
    if isinstance(error, WireError):
        return int(WSCloseCode.INVALID_TEXT), reason_of(_OURS.get(error.code, error.message))
    code = _CODES.get(error.code, WSCloseCode.INTERNAL_ERROR)
    return int(code), reason_of(error.message)


def closing_of_failure(error: dict[str, Any]) -> tuple[int, bytes]:
    """Code and reason of an `error` as the Realtime wire has it."""
    ours = error.get("type") == "invalid_request_error"
    code = WSCloseCode.INVALID_TEXT if ours else WSCloseCode.INTERNAL_ERROR
    message = _OURS.get(str(error.get("code")), str(error.get("message", "")))
    return int(code), reason_of(message)


def reason_of(sentence: str) -> bytes:
    """A sentence as far as a close frame has room for it."""
    encoded = redacted(sentence).encode()
    if len(encoded) <= MAX_REASON_BYTES:
        return encoded
    return encoded[: MAX_REASON_BYTES - 3].decode(errors="ignore").encode() + "…".encode()
