"""Conversations over a WebSocket: events of the contract as text frames of JSON."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

from aiohttp import WSCloseCode, WSMsgType, web

from services.common.errors import error_event
from services.gateway.api.callers import SUBPROTOCOL, Callers
from services.gateway.api.messages import as_json, parsed, place_of_request
from services.gateway.api.viewed import session_in_path
from services.gateway.auth.caller import VIEWING, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.viewers import Viewers
from sightline.errors import InternalError, InvalidArgumentError, SightlineError
from sightline.v1 import gateway_pb2

log = logging.getLogger(__name__)

MAX_EVENT_BYTES = 64 * 1024
HEARTBEAT_S = 15.0


class DisconnectedError(Exception):
    """The WebSocket is gone; its viewer may come back."""


async def opened_socket(
    request: web.Request, max_event_bytes: int, *subprotocols: str
) -> web.WebSocketResponse:
    """The WebSocket that a request asks for. Raises InvalidArgumentError where it asks for none."""
    socket = web.WebSocketResponse(
        heartbeat=HEARTBEAT_S,
        max_msg_size=max_event_bytes,
        compress=False,
        protocols=subprotocols,
    )
    if not socket.can_prepare(request):
        raise InvalidArgumentError("this address is a WebSocket")
    await socket.prepare(request)
    return socket


class WebSocketApi:
    """The WebSocket of a session, for viewers in browsers."""

    def __init__(
        self, config: GatewayConfig, sessions: Sessions, viewers: Viewers, callers: Callers
    ) -> None:
        self._sessions = sessions
        self._viewers = viewers
        self._callers = callers
        self._trusted = config.trusted()

    def add_to(self, app: web.Application) -> None:
        """Register the route, before the application starts and before the page's routes."""
        app.router.add_get("/api/sessions/{session}/converse", self.converse)

    async def converse(self, request: web.Request) -> web.StreamResponse:
        """One connection of a viewer, from `start` until either side closes it."""
        session, caller = await session_in_path(request, self._sessions, self._callers, *VIEWING)
        caller.check(Permission.VIEW, session)
        socket = await opened_socket(request, MAX_EVENT_BYTES, SUBPROTOCOL)

        async def send(event: gateway_pb2.ServerEvent) -> None:
            await socket.send_str(json.dumps(as_json(event)))

        code, last = WSCloseCode.OK, None
        try:
            await self._viewers.serve(
                _events(socket, session), send, place_of_request(request, self._trusted), caller
            )
        except (DisconnectedError, ConnectionError):
            pass
        except SightlineError as error:
            code = WSCloseCode.POLICY_VIOLATION
            last = error_event(error)
        except Exception:
            log.exception("unhandled error", extra={"resource": "converse"})
            code = WSCloseCode.INTERNAL_ERROR
            last = error_event(InternalError("internal error"))
        if last is not None and not socket.closed:
            try:
                async with asyncio.timeout(1):
                    await send(gateway_pb2.ServerEvent(error=last))
            except (TimeoutError, ConnectionError):
                pass
        await socket.close(code=code)
        return socket


async def _events(
    socket: web.WebSocketResponse, session: AnySession
) -> AsyncIterator[gateway_pb2.ClientEvent]:
    """Events that the browser sends. Raises InvalidArgumentError for what is no event, and
    DisconnectedError at the end: a browser that closes may come back.
    """
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            raise InvalidArgumentError("events are text frames of JSON")
        event = parsed(message.data, gateway_pb2.ClientEvent())
        if event.WhichOneof("event") == "start":
            event.start.session = session.id
        yield event
    raise DisconnectedError
