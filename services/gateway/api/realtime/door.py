"""The door of `/v1/realtime`: WebSockets of OpenAI's Realtime clients, signed in like any other."""

import asyncio
import contextlib
import json
import logging
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from services.common.tasks import spawn
from services.gateway.api.callers import Callers
from services.gateway.api.messages import place_of_request
from services.gateway.api.realtime.conversation import Conversation
from services.gateway.api.realtime.line import Visitor
from services.gateway.api.realtime.settings import Settings
from services.gateway.api.speaker import Speaker
from services.gateway.auth.caller import VIEWING, Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.viewers import Viewers
from sightline.errors import InvalidArgumentError, SightlineError

log = logging.getLogger(__name__)

SUBPROTOCOL = "realtime"
MAX_EVENT_BYTES = 4 * 1024 * 1024  # a picture, or some seconds of sound, in Base64
HEARTBEAT_S = 15.0
SEND_TIMEOUT_S = 20.0
GOODBYE_S = 1.0


class RealtimeApi:
    """The routes of OpenAI's Realtime wire."""

    def __init__(
        self,
        config: GatewayConfig,
        sessions: Sessions,
        viewers: Viewers,
        speaker: Speaker,
        callers: Callers,
    ) -> None:
        self._config = config
        self._sessions = sessions
        self._viewers = viewers
        self._speaker = speaker
        self._callers = callers
        self._trusted = config.trusted()
        self._sockets: set[web.WebSocketResponse] = set()
        self._closing: set[asyncio.Task[Any]] = set()

    def add_to(self, app: web.Application) -> None:
        """Register the routes, before the application starts and before the page's routes."""
        app.router.add_get("/v1/realtime", self._connect)
        app.on_shutdown.append(self._close_all)

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        """One connection, until either side closes it. A session that is named in the address is
        looked up before the connection is taken."""
        # Pipecat puts its `?model=…` behind whatever address it is given.
        stream = request.query.get("session", "").partition("?model=")[0]

        async def authorise(name: str) -> Caller:
            path = self._sessions.name_of(name)
            caller = await self._callers.of_request(request, *VIEWING, path=path)
            caller.check(Permission.VIEW)
            return caller

        caller = await authorise(stream)
        if stream:
            caller.check(Permission.VIEW, await self._sessions.locate(stream, caller))
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S,
            max_msg_size=MAX_EVENT_BYTES,
            compress=False,
            protocols=(SUBPROTOCOL,),
        )
        if not socket.can_prepare(request):
            raise InvalidArgumentError("this address is a WebSocket")
        await socket.prepare(request)
        visitor = Visitor(
            caller=caller,
            place=place_of_request(request, self._trusted),
            authorise=authorise,
            send=lambda event: _send(socket, event),
            hang_up=lambda reason: self._hang_up(socket, reason),
        )
        conversation = Conversation(
            self._config,
            self._sessions,
            self._viewers,
            self._speaker,
            visitor,
            model=request.query.get("model", "")[:128],
        )
        settings = Settings().updated({"sightline": {"session": stream}} if stream else {})
        self._sockets.add(socket)
        try:
            await _converse(conversation, settings, socket)
        finally:
            self._sockets.discard(socket)
        return socket

    def _hang_up(self, socket: web.WebSocketResponse, reason: str) -> None:
        closing = socket.close(code=WSCloseCode.GOING_AWAY, message=reason.encode()[:120])
        task = spawn(closing, name="realtime:close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_all(self, app: web.Application) -> None:
        """The server ends: those without a session know nothing of it yet."""
        for socket in list(self._sockets):
            self._hang_up(socket, "the server is stopping")
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=GOODBYE_S)


async def _converse(
    conversation: Conversation, settings: Settings, socket: web.WebSocketResponse
) -> None:
    code = WSCloseCode.OK
    try:
        await conversation.open(settings)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await conversation.take(message.data)
    except ConnectionError:
        pass
    except SightlineError as error:
        code = WSCloseCode.POLICY_VIOLATION
        with contextlib.suppress(ConnectionError):
            await conversation.refuse(error)
    except Exception:
        log.exception("unhandled error", extra={"resource": "realtime"})
        code = WSCloseCode.INTERNAL_ERROR
    finally:
        await conversation.aclose()
        await socket.close(code=code)


async def _send(socket: web.WebSocketResponse, event: dict[str, Any]) -> None:
    """Raises ConnectionError once the client has left, or does not read."""
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send_str(json.dumps(event))
    except TimeoutError:
        raise ConnectionError("the client does not read its events") from None
