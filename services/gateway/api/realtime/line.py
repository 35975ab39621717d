"""The line to one client: events go out in order, and what is wrong is told in the client's
words."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from services.common.errors import error_event
from services.gateway.api.realtime import server_events as server
from services.gateway.api.realtime.fields import WireError
from services.gateway.auth.caller import Caller
from sightline.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    SightlineError,
)
from sightline.v1 import gateway_pb2

_CLIENTS_FAULT = {
    each.code.name for each in (InvalidArgumentError, NotFoundError, FailedPreconditionError)
}


class Playing(Protocol):
    """Speech that this side plays to the visitor, at its pace."""

    def spoken(self) -> str:
        """The words that are being played, or just were; "": none."""
        ...

    def pause(self) -> None:
        """Be silent, and keep what was not played: somebody may be speaking."""
        ...

    def resume(self) -> None:
        """Play on: nobody was."""
        ...

    def stop(self) -> None:
        """Somebody is: forget what was not played."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Whoever is at the other end. `authorise` knows them again for a session of this name, and
    raises where they may not view it. `send` raises ConnectionError once they have left. `playing`:
    None where the visitor plays what is spoken, and knows best what is an echo of it."""

    caller: Caller
    place: str
    authorise: Callable[[str], Awaitable[Caller]]
    send: Callable[[server.ServerEvent], Awaitable[Any]]
    hang_up: Callable[[str], None]  # for a reason
    playing: Playing | None = None


class Line:
    """Events to a visitor. Those of one `emit` stay together, whoever else emits."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self._sending = asyncio.Lock()

    async def emit(self, *events: server.ServerEvent) -> None:
        async with self._sending:
            for event in events:
                await self.visitor.send(event)

    async def fail(self, error: WireError | SightlineError, event_id: str | None = None) -> None:
        """Tell what is wrong with a client's event, or with the whole line."""
        await self.emit(server.Failure(error=json_of(error, event_id)))


def json_of(error: WireError | SightlineError, event_id: str | None = None) -> dict[str, Any]:
    """An error as clients read it; one of the gateway's by its reason."""
    if isinstance(error, WireError):
        return server.error_json(
            error.message, code=error.code, param=error.param, event_id=event_id
        )
    told = json_of_event(error_event(error), event_id)
    return told | {"param": getattr(error, "param", None) or None}


def json_of_event(error: gateway_pb2.ErrorEvent, event_id: str | None = None) -> dict[str, Any]:
    """What a viewer is told went wrong, likewise."""
    return server.error_json(
        error.message, code=error.reason.lower(), kind=_kind_of(error.code), event_id=event_id
    )


def _kind_of(code: str) -> str:
    return "invalid_request_error" if code in _CLIENTS_FAULT else "server_error"
