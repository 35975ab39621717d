"""Refusals of `/v1` in the shape that OpenAI's clients read."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from services.common.http_status import http_status
from services.common.problems import say_how_to_go_on
from services.common.redaction import redacted
from services.gateway.api.event_stream import ClientGoneError, EventStream
from sightline.errors import InvalidArgumentError, SightlineError
from sightline.reasons import Reason

PREFIX = "/v1/"
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# What their programs compare; any other code is our reason in small letters.
_CODES = {
    Reason.TOKEN_MISSING: "invalid_api_key",
    Reason.TOKEN_INVALID: "invalid_api_key",
    Reason.TOKEN_EXPIRED: "invalid_api_key",
}


class ParameterError(InvalidArgumentError):
    """A field that is wrong; `param` is its name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


def refusal(
    status: int, *, message: str, reason: str, retry_after_s: float | None = None, param: str = ""
) -> web.Response:
    response = web.Response(status=status, content_type="application/json")
    response.text = json.dumps({"error": error_body(status, message, reason, param)})
    say_how_to_go_on(response, retry_after_s)
    return response


def refusal_of(error: SightlineError) -> web.Response:
    return refusal(
        http_status(error.code),
        message=error.message,
        reason=error.reason,
        retry_after_s=error.retry_after_s,
        param=getattr(error, "param", ""),
    )


def error_body(status: int, message: str, reason: str, param: str = "") -> dict[str, str | None]:
    """What stands under "error", also in a stream. `reason` is ours."""
    kind = "server_error" if status >= 500 else _KINDS.get(status, "invalid_request_error")
    return {
        "message": redacted(message),
        "type": kind,
        "param": param or None,
        "code": _CODES.get(Reason(reason), reason.lower())
        if reason in set(Reason)
        else reason.lower(),
        "reason": reason,
    }


def error_event(error: SightlineError) -> dict[str, Any]:
    """An error in a stream."""
    return {"error": error_body(http_status(error.code), error.message, error.reason)}


@contextlib.asynccontextmanager
async def told_in(
    stream: EventStream, told: Callable[[SightlineError], dict[str, Any]] = error_event
) -> AsyncIterator[None]:
    """Tells what goes wrong within as the stream's last event, in the words of `told`; raises it
    where nothing was sent yet, so that it becomes the reply. A client that has gone is told
    nothing."""
    try:
        yield
    except ClientGoneError:
        pass
    except SightlineError as error:
        if not stream.begun:
            raise
        with contextlib.suppress(ClientGoneError, SightlineError):
            await stream.send(told(error))
