"""Errors of the HTTP interfaces: application/problem+json (RFC 9457) with members of our own."""

import json
import math
from http import HTTPStatus
from typing import Any

from aiohttp import web

from services.common.http_status import http_status
from services.common.redaction import redacted
from sightline.errors import SightlineError

PROBLEM = "application/problem+json"
TYPES = "urn:sightline:"  # and the reason, which the documentation explains


def problem(
    status: int, *, code: str, message: str, reason: str = "", retry_after_s: float | None = None
) -> web.Response:
    """A refusal: `code`, `message`, `reason` and `retry_after_s` are what ErrorEvent says on a
    stream. Without a reason the code is one."""
    reason = reason or code
    body: dict[str, Any] = {
        "type": TYPES + reason,
        "title": title_of(reason) or HTTPStatus(status).phrase,
        "status": status,
        "detail": redacted(message),
        "code": code,
        "message": redacted(message),
        "reason": reason,
    }
    response = web.Response(status=status, content_type=PROBLEM)
    if retry_after_s is not None:
        body["retry_after_s"] = retry_after_s
    say_how_to_go_on(response, retry_after_s)
    response.text = json.dumps(body)
    return response


def say_how_to_go_on(response: web.Response, retry_after_s: float | None) -> None:
    """Put the headers of a refusal into it: when to try again, and with what."""
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after_s))
    if response.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"


def problem_of(error: SightlineError) -> web.Response:
    """The refusal that an error stands for."""
    return problem(
        http_status(error.code),
        code=error.code.name,
        message=error.message,
        reason=error.reason,
        retry_after_s=error.retry_after_s,
    )


def title_of(reason: str) -> str:
    """A reason as words: "Session not found"."""
    return reason.replace("_", " ").capitalize()
