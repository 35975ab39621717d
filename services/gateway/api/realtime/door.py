"""The door of `/v1/realtime`: WebSockets of OpenAI's Realtime clients, signed in like any other, or
by a client secret."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from services.common.bodies import read_text
from services.common.metrics import REFUSED
from services.common.tasks import spawn
from services.gateway.api.callers import Callers, credential_of
from services.gateway.api.messages import place_of_request
from services.gateway.api.operations import operation
from services.gateway.api.realtime.client_secrets import PREFIX, ClientSecrets, wanted
from services.gateway.api.realtime.conversation import Conversation
from services.gateway.api.realtime.description import session_json
from services.gateway.api.realtime.fields import Json, WireError, object_of
from services.gateway.api.realtime.items import new_id
from services.gateway.api.realtime.line import Visitor
from services.gateway.api.realtime.server_events import ServerEvent
from services.gateway.api.realtime.settings import Settings
from services.gateway.api.speaker import Speaker
from services.gateway.api.websocket import opened_socket
from services.gateway.auth.authoriser import audit
from services.gateway.auth.caller import VIEWING, Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.viewers import Viewers
from sightline.errors import InvalidArgumentError, SightlineError, UnauthenticatedError

log = logging.getLogger(__name__)

SUBPROTOCOL = "realtime"
MAX_EVENT_BYTES = 4 * 1024 * 1024  # a picture, or some seconds of sound, in Base64
MAX_MODEL_CHARACTERS = 128
SEND_TIMEOUT_S = 20.0
GOODBYE_S = 1.0
_OBJECT: dict[str, Any] = {"type": "object"}


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
        self._secrets = ClientSecrets(config.cluster_secret)
        self._trusted = config.trusted()
        self._sockets: set[web.WebSocketResponse] = set()
        self._closing: set[asyncio.Task[Any]] = set()

    def add_to(self, app: web.Application) -> None:
        """Register the WebSocket, before the application starts and before the page's routes."""
        app.router.add_get("/v1/realtime", self._connect)
        app.on_shutdown.append(self._close_all)

    @operation(
        "POST",
        "/v1/realtime/client_secrets",
        "openai",
        "A credential for a browser's Realtime connection",
        about="It holds for some minutes, for viewing, asking and watching alone. `session` holds "
        "settings that the connection begins with, `expires_after.seconds` says how long.",
        takes=_OBJECT,
        gives=_OBJECT,
        refusals=(400, 401, 403),
    )
    async def make_client_secret(self, request: web.Request) -> web.Response:
        caller = await self._callers.of_request(request, *VIEWING)
        caller.check(Permission.VIEW)
        body = (await read_text(request)).decode(errors="replace")
        try:
            said, seconds = wanted(object_of(body) if body.strip() else {})
            settings = Settings().updated(said)
        except WireError as error:
            raise InvalidArgumentError(error.message) from None
        secret = self._secrets.make(caller, said, seconds)
        audit(caller, "client_secret", settings.stream)
        session = session_json(
            settings,
            None,
            session_id=new_id("sess"),
            model=str(said.get("model") or ""),
            voice=settings.voice or "default",
            speaks=self._speaker.configured,
            hears=self._viewers.ears.configured,
        )
        made = {"value": secret.value, "expires_at": secret.expires_at, "session": session}
        return web.json_response(made)

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        """One connection, until either side closes it. A session that is named in the address is
        looked up before the connection is taken."""
        caller, settings = await self.enter(request)
        await self.check(settings, caller)
        socket = await opened_socket(request, MAX_EVENT_BYTES, SUBPROTOCOL)
        visitor = Visitor(
            caller=caller,
            place=place_of_request(request, self._trusted),
            authorise=self.authoriser(request, caller),
            send=lambda event: _send(socket, event),
            hang_up=lambda reason: self._hang_up(socket, reason),
        )
        conversation = self.conversation(visitor, request.query.get("model", ""))
        self._sockets.add(socket)
        try:
            await _converse(conversation, settings, socket)
        finally:
            self._sockets.discard(socket)
        return socket

    def conversation(self, visitor: Visitor, model: str, *, by_track: bool = False) -> Conversation:
        """A conversation with somebody who has come in. model: what they call it."""
        return Conversation(
            self._config,
            self._sessions,
            self._viewers,
            self._speaker,
            visitor,
            model=model[:MAX_MODEL_CHARACTERS],
            by_track=by_track,
        )

    def authoriser(
        self, request: web.Request, caller: Caller
    ) -> Callable[[str], Awaitable[Caller]]:
        """What knows somebody again who has come in, for a session of a name."""

        async def authorise(name: str) -> Caller:
            return caller if _has_secret(request) else (await self._caller(request, name))

        return authorise

    async def check(self, settings: Settings, caller: Caller) -> None:
        """Raise what looking at the session of `settings` may, if they name one."""
        if settings.stream:
            found = await self._sessions.locate(settings.stream, caller)
            caller.check(Permission.VIEW, found)

    async def enter(self, request: web.Request) -> tuple[Caller, Settings]:
        """Who comes, and the settings that they begin with. Raises UnauthenticatedError."""
        # Pipecat puts its `?model=…` behind whatever address it is given.
        stream = request.query.get("session", "").partition("?model=")[0]
        settings = Settings()
        found = self.secret(credential_of(request))
        if found is not None:
            caller, said = found
            settings = settings.updated(said)
        else:
            caller = await self._caller(request, stream)
        if stream:
            settings = settings.updated({"sightline": {"session": stream}})
        return caller, settings

    def secret(self, credential: str) -> tuple[Caller, Json] | None:
        """Whose client secret this is, and the settings that go with it; None: it is none. Raises
        UnauthenticatedError for one that does not hold."""
        if not credential.startswith(PREFIX):
            return None
        try:
            caller, said = self._secrets.read(credential)
        except UnauthenticatedError as error:
            REFUSED.labels("http", error.reason.lower()).inc()
            raise
        caller.check(Permission.VIEW)
        return caller, said

    async def _caller(self, request: web.Request, stream: str) -> Caller:
        path = self._sessions.name_of(stream)
        caller = await self._callers.of_request(request, *VIEWING, path=path)
        caller.check(Permission.VIEW)
        return caller

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


def _has_secret(request: web.Request) -> bool:
    return credential_of(request).startswith(PREFIX)


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


async def _send(socket: web.WebSocketResponse, event: ServerEvent) -> None:
    """Raises ConnectionError once the client has left, or does not read."""
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send_str(json.dumps(event.as_json(new_id("event"))))
    except TimeoutError:
        raise ConnectionError("the client does not read its events") from None
