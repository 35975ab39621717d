"""The door of the Gemini Live wire: WebSockets of Google's own clients."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from services.common.tasks import spawn
from services.gateway.api.callers import Callers, credential_of
from services.gateway.api.gemini.client_messages import parsed
from services.gateway.api.gemini.closing import closing_of
from services.gateway.api.gemini.keys import key_of
from services.gateway.api.gemini.resumption import Handles
from services.gateway.api.gemini.session import GOING_S, GeminiSession, Send
from services.gateway.api.gemini.setup import Setup
from services.gateway.api.messages import place_of_request
from services.gateway.api.realtime.conversation import Conversation
from services.gateway.api.realtime.door import (
    GOODBYE_S,
    MAX_EVENT_BYTES,
    SEND_TIMEOUT_S,
    RealtimeApi,
)
from services.gateway.api.realtime.fields import WireError
from services.gateway.api.realtime.line import Visitor
from services.gateway.api.realtime.settings import Settings
from services.gateway.api.websocket import opened_socket
from services.gateway.auth.caller import VIEWING, Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.sessions import Sessions
from sightline.errors import SightlineError

log = logging.getLogger(__name__)

# Google's own SDK puts two slashes before `ws`, as its base address ends with one.
PATH = (
    "/{slash:/?}ws/google.ai.generativelanguage.{version:v1(?:alpha|beta)?}"
    ".GenerativeService.{method:BidiGenerateContent(?:Constrained)?}"
)
SETUP_S = 10.0  # for the first message


@dataclass(frozen=True, slots=True, kw_only=True)
class _Connection:
    """A client that has come in. `stream`: the session that its address names; "": none."""

    request: web.Request
    socket: web.WebSocketResponse
    caller: Caller
    stream: str


class GeminiApi:
    """The WebSocket of Gemini Live. `realtime` makes the conversations that it is about."""

    def __init__(
        self, config: GatewayConfig, sessions: Sessions, realtime: RealtimeApi, callers: Callers
    ) -> None:
        self._sessions = sessions
        self._realtime = realtime
        self._callers = callers
        self._handles = Handles(config.cluster_secret)
        self._trusted = config.trusted()
        self._open: set[GeminiSession] = set()
        self._closing: set[asyncio.Task[Any]] = set()

    def add_to(self, app: web.Application) -> None:
        """Register the WebSocket, before the application starts and before the page's routes."""
        app.router.add_get(PATH, self._connect)
        app.on_shutdown.append(self._close_all)

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        """One connection, until either side closes it."""
        caller, stream = await self._enter(request)
        socket = await opened_socket(request, MAX_EVENT_BYTES)
        await self._serve(_Connection(request=request, socket=socket, caller=caller, stream=stream))
        return socket

    async def _enter(self, request: web.Request) -> tuple[Caller, str]:
        """Who comes, and the session that their address or client secret names; "": none."""
        stream = request.query.get("session", "")
        found = self._realtime.secret(_credential(request))
        if found is None:
            return await self._caller(request, stream), stream
        caller, said = found
        return caller, stream or Settings().updated(said).stream

    async def _caller(self, request: web.Request, stream: str) -> Caller:
        found = self._realtime.secret(_credential(request))
        if found is not None:
            return found[0]
        path = self._sessions.name_of(stream)
        caller = await self._callers.of_request(request, *VIEWING, path=path, key=key_of(request))
        caller.check(Permission.VIEW)
        return caller

    async def _serve(self, connection: _Connection) -> None:
        socket = connection.socket
        code, reason = int(WSCloseCode.OK), b""
        session: GeminiSession | None = None
        try:
            messages = _messages(socket)
            setup = await _first(messages, connection.stream)
            session = self._session(setup, connection)
            self._open.add(session)
            await session.open()
            async for text in messages:
                await session.take(text)
        except ConnectionError:
            pass
        except (WireError, SightlineError) as error:
            code, reason = closing_of(error)
        except Exception:
            log.exception("unhandled error", extra={"resource": "gemini"})
            code, reason = int(WSCloseCode.INTERNAL_ERROR), b"internal error"
        finally:
            if session is not None:
                self._open.discard(session)
                await session.aclose()
            await socket.close(code=code, message=reason)

    def _session(self, setup: Setup, connection: _Connection) -> GeminiSession:
        request, socket, caller = connection.request, connection.socket, connection.caller

        async def authorise(name: str) -> Caller:
            return await self._caller(request, name)

        def converse(send: Send, hang_up: Callable[[str], None]) -> Conversation:
            visitor = Visitor(
                caller=caller,
                place=place_of_request(request, self._trusted),
                authorise=authorise,
                send=send,
                hang_up=hang_up,
            )
            return self._realtime.conversation(visitor, setup.model)

        return GeminiSession(
            setup,
            caller,
            self._handles,
            converse,
            send=lambda message: _send(socket, message),
            close=lambda code, reason: self._close(socket, code, reason),
        )

    def _close(self, socket: web.WebSocketResponse, code: int, reason: bytes) -> None:
        task = spawn(socket.close(code=code, message=reason), name="gemini:close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_all(self, app: web.Application) -> None:
        """The server ends: those without a video know nothing of it yet."""
        leaving = [
            spawn(session.leave("the server is stopping"), name="gemini:leave")
            for session in self._open
        ]
        if leaving:
            await asyncio.wait(leaving, timeout=GOODBYE_S + GOING_S)
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=GOODBYE_S)


def _credential(request: web.Request) -> str:
    return key_of(request) or credential_of(request)


async def _first(messages: AsyncIterator[str], stream: str) -> Setup:
    """What the client wants. Raises WireError for anything else than a setup."""
    try:
        async with asyncio.timeout(SETUP_S):
            text = await anext(messages, None)
    except TimeoutError:
        raise WireError("the first message, a setup, did not arrive") from None
    if text is None:
        raise ConnectionError("the client has left")
    setup = parsed(text)
    if not isinstance(setup, Setup):
        raise WireError("the first message is a setup", param="setup")
    return setup.about(stream)


async def _messages(socket: web.WebSocketResponse) -> AsyncIterator[str]:
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            yield message.data
        elif message.type is WSMsgType.BINARY:
            yield message.data.decode(errors="replace")


async def _send(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
    """Raises ConnectionError once the client has left, or does not read."""
    if socket.closed:
        raise ConnectionError("the client has left")
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send_str(json.dumps(message))
    except TimeoutError:
        raise ConnectionError("the client does not read its messages") from None
