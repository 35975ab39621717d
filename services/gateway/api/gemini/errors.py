"""Refusals in the shape that Google's clients read."""

from typing import Any

from aiohttp import web

from services.common.http_status import http_status
from services.common.problems import say_how_to_go_on
from services.common.redaction import redacted
from sightline.errors import SightlineError

_PREFIX = "/v1beta/"
_ENDS = (":generateContent", ":streamGenerateContent")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "status", "reason"],
            "properties": {
                "code": {"type": "integer", "description": "The HTTP status."},
                "message": {"type": "string"},
                "status": {"type": "string", "description": "The name of the gRPC code."},
                "reason": {"type": "string", "description": "As of a problem."},
            },
        }
    },
}


def speaks_so(path: str) -> bool:
    """Whether whoever asks at a path reads these."""
    return path.startswith(_PREFIX) or path.endswith(_ENDS)


def refusal(
    status: int, *, message: str, code: str, reason: str, retry_after_s: float | None = None
) -> web.Response:
    """code: gRPC's; reason: ours."""
    response = web.json_response(_body(status, message, code, reason), status=status)
    say_how_to_go_on(response, retry_after_s)
    return response


def refusal_of(error: SightlineError) -> web.Response:
    return refusal(
        http_status(error.code),
        message=error.message,
        code=error.code.name,
        reason=error.reason,
        retry_after_s=error.retry_after_s,
    )


def error_event(error: SightlineError) -> dict[str, Any]:
    """An error in a stream."""
    return _body(http_status(error.code), error.message, error.code.name, error.reason)


def _body(status: int, message: str, code: str, reason: str) -> dict[str, Any]:
    error = {"code": status, "message": redacted(message), "status": code, "reason": reason}
    return {"error": error}
