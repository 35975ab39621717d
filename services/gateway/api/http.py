"""The HTTP interface: sessions as JSON, preview pictures and the page; what else there is, joined.

Messages are the contract's, as protobuf JSON with the proto's field names. `guard` stands before
every request, `websocket`, `listening` and `questions` carry what viewers say and hear.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from services.gateway.api.addresses import Addresses
from services.gateway.api.callers import Callers
from services.gateway.api.codes import CodesApi
from services.gateway.api.completions.chat import ChatApi
from services.gateway.api.completions.decide import DecisionsApi
from services.gateway.api.conversation_routes import PAGE as PAGES
from services.gateway.api.conversation_routes import ConversationRoutes
from services.gateway.api.conversations import Conversations
from services.gateway.api.frames import FramesApi
from services.gateway.api.gemini.generate import GenerateApi
from services.gateway.api.guard import Guard
from services.gateway.api.info import ServerInfo
from services.gateway.api.listening import ListeningApi
from services.gateway.api.memory import MemoryApi
from services.gateway.api.messages import (
    as_json,
    number_of,
    picture_width,
    place_of_request,
    read_body,
)
from services.gateway.api.openapi import OpenApi
from services.gateway.api.operations import Parameter, add_operations, operation
from services.gateway.api.questions import QuestionsApi
from services.gateway.api.recordings import RecordingsApi
from services.gateway.api.rules import RulesApi
from services.gateway.api.transcripts import TranscriptsApi
from services.gateway.api.viewed import viewed_session
from services.gateway.api.websocket import WebSocketApi
from services.gateway.auth.caller import Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.listing import page_of
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.viewers import Viewers
from sightline.errors import NotFoundError
from sightline.v1 import gateway_pb2

if TYPE_CHECKING:
    from services.gateway.rules.rules import Rules

PAGE = Path(__file__).parent / "page"
CLIENT = Path(__file__).parents[3] / "clients" / "js" / "src"  # the page's, and everybody's by npm
_SESSIONS, _SESSION = "/api/sessions", "/api/sessions/{session}"
LABELS = Parameter(
    name="label",
    about="key=value that a session must have; may be given several times",
    schema={"type": "array", "items": {"type": "string"}},
)
FORGET = Parameter(
    name="conversations",
    about="1: also the conversations that began on it",
    schema={"type": "string", "enum": ["0", "1"]},
)
FORGET_EVENTS = Parameter(
    name="events",
    about="1: also the events of its rules",
    schema={"type": "string", "enum": ["0", "1"]},
)
WIDTH = Parameter(
    name="width", about="In pixels", schema={"type": "integer", "minimum": 0, "maximum": 99999}
)


class HttpApi:
    """Routes on the service's HTTP application."""

    def __init__(
        self,
        config: GatewayConfig,
        sessions: Sessions,
        viewers: Viewers,
        *,
        addresses: Addresses,
        conversations: Conversations,
        info: ServerInfo,
        callers: Callers,
        rules: "Rules | None" = None,
        others: Sequence[object] = (),
    ) -> None:
        """others: whose operations belong to the interface, too."""
        self._config = config
        self._others = others
        self._sessions = sessions
        self._memories = viewers.memories
        self._addresses = addresses
        self._conversations = conversations
        self._server_info = info
        self._callers = callers
        self._guard = Guard(config)
        self._websocket = WebSocketApi(config, sessions, viewers, callers)
        self._frames = FramesApi(sessions, callers)
        self._questions = QuestionsApi(config, sessions, viewers, callers)
        self._listening = ListeningApi(config, sessions, viewers, callers)
        self._conversation_routes = ConversationRoutes(conversations, callers, config.zone())
        self._chat = ChatApi(config, sessions, viewers, callers, info)
        self._decisions = DecisionsApi(config, sessions, viewers, callers)
        self._recordings = RecordingsApi(sessions, callers)
        self._rules = RulesApi(sessions, callers, rules, config.trusted(), config.zone())
        self._transcripts = TranscriptsApi(sessions, callers)
        self._codes = CodesApi(callers)
        self._openapi = OpenApi(callers.wanted)
        self._trusted = config.trusted()
        self._files = {file.name: file for file in PAGE.iterdir() if file.is_file()}
        self._files |= {f"client/{file.name}": file for file in CLIENT.glob("*.js")}

    def add_to(self, app: web.Application) -> None:
        """Register the routes, before the application starts; other routes must have been added
        before the page's."""
        self._guard.add_to(app)
        self._websocket.add_to(app)
        self._frames.add_to(app)
        apis = (
            self,
            self._frames,
            self._questions,
            self._listening,
            self._conversation_routes,
            self._chat,
            GenerateApi(self._chat, self._callers),
            self._decisions,
            self._recordings,
            MemoryApi(self._sessions, self._memories, self._callers),
            self._rules,
            self._transcripts,
            self._codes,
            self._openapi,
            *self._others,
        )
        self._openapi.describe(add_operations(app, *apis))
        app.router.add_route("*", "/api/{path:.*}", self._nothing)
        app.router.add_get("/", self._page)
        app.router.add_get("/{file}", self._page)
        app.router.add_get("/{file:client/[^/]+}", self._page)

    # --- sessions ---------------------------------------------------------------------------

    @operation(
        "GET",
        "/api/info",
        "server",
        "What this server is and what it can be asked",
        gives=gateway_pb2.GetServerInfoResponse,
        refusals=(401,),
        anonymous=True,
    )
    async def _info(self, request: web.Request) -> web.Response:
        caller = await self._callers.of_request(request, anonymous=True)
        return web.json_response(as_json(await self._server_info.message(caller), whole=True))

    @operation(
        "GET",
        _SESSIONS,
        "sessions",
        "The sessions, oldest first",
        gives=gateway_pb2.ListSessionsResponse,
        parameters=(*PAGES, LABELS),
        refusals=(400, 401, 403, 503),
    )
    async def _list(self, request: web.Request) -> web.Response:
        wanted = gateway_pb2.ListSessionsRequest(
            page_size=number_of(request, "page_size"),
            page_token=request.query.get("page_token", ""),
            labels=dict(label.partition("=")[::2] for label in request.query.getall("label", [])),
        )
        caller = await self._callers.of_request(request)
        caller.check(Permission.VIEW)
        return web.json_response(as_json(page_of(await self._sessions.listed(caller), wanted)))

    @operation(
        "POST",
        _SESSIONS,
        "sessions",
        "Watch a video",
        about="A file, an address or, with `push`, what comes by RTMP, WHIP or gRPC: the reply "
        "holds the key then.",
        takes=gateway_pb2.CreateSessionRequest,
        gives=gateway_pb2.Session,
        status=201,
        refusals=(400, 401, 403, 404, 409, 429, 503),
    )
    async def _create(self, request: web.Request) -> web.Response:
        wanted = await read_body(request, gateway_pb2.CreateSessionRequest())
        caller = await self._callers.of_request(request, Permission.ADMIN, path=wanted.options.name)
        place = place_of_request(request, self._trusted)
        session = await self._sessions.create(wanted, place, caller)
        return web.json_response(as_json(self._addresses.with_keys(session)), status=201)

    @operation("GET", _SESSION, "sessions", "One session, by id or name", gives=gateway_pb2.Session)
    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(as_json((await self._session(request)).message()))

    @operation(
        "PATCH",
        _SESSION,
        "sessions",
        "Change a running session",
        about="What is left out stays.",
        takes=gateway_pb2.UpdateSessionRequest,
        gives=gateway_pb2.Session,
        refusals=(400, 401, 403, 404, 409, 429, 503),
    )
    async def _update(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.ADMIN)
        wanted = await read_body(request, gateway_pb2.UpdateSessionRequest())
        wanted.session = request.match_info["session"]
        session = await self._sessions.update(wanted, caller)
        return web.json_response(as_json(session.message()))

    @operation(
        "DELETE",
        _SESSION,
        "sessions",
        "End a session",
        parameters=(FORGET, FORGET_EVENTS),
        status=204,
    )
    async def _delete(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.ADMIN)
        name = request.match_info["session"]
        if request.query.get("conversations") == "1":
            session = await self._sessions.locate(name, caller)
            caller.check(Permission.ADMIN, session)
            await self._conversations.delete_of(session.id)
            name = session.id
        if request.query.get("events") == "1":
            await self._rules.erase_events(name, caller)
        await self._memories.forget(await self._sessions.remove(name, caller))
        return web.Response(status=204)

    @operation(
        "GET",
        _SESSION + "/preview.jpg",
        "sessions",
        "The newest picture",
        about="No content where there is none yet.",
        kinds=("image/jpeg",),
        parameters=(WIDTH,),
        also=(204,),
    )
    async def _preview(self, request: web.Request) -> web.Response:
        session = await self._session(request)
        width = picture_width(number_of(request, "width"))
        jpeg = await self._sessions.media.preview(session, width)
        if jpeg is None:
            return web.Response(status=204)
        return web.Response(body=jpeg, content_type="image/jpeg")

    async def _caller(self, request: web.Request, permission: Permission) -> Caller:
        """Whoever wants to do this to the session in the address. Raises UnauthenticatedError."""
        path = self._sessions.name_of(request.match_info["session"])
        return await self._callers.of_request(request, permission, path=path)

    async def _session(self, request: web.Request) -> AnySession:
        return await viewed_session(request, self._sessions, self._callers)

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        """An address without an operation, or one of another method, which is named then: the page
        that a browser opens is often an address that something is to be sent to."""
        allowed: set[str] = set()
        for resource in request.app.router.resources():
            if resource is not request.match_info.route.resource:
                allowed |= (await resource.resolve(request))[1]
        if allowed:
            raise web.HTTPMethodNotAllowed(request.method, sorted(allowed))
        raise NotFoundError("the API has nothing here")

    async def _page(self, request: web.Request) -> web.FileResponse:
        """One of the page's files, which are all there is: no path is made of what was asked."""
        file = self._files.get(request.match_info.get("file", "index.html"))
        if file is None:
            raise NotFoundError("nothing is here")
        return web.FileResponse(file)
