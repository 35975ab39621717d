"""The HTTP interface: JSON, WebSocket, preview pictures and the page.

Messages are the contract's, as protobuf JSON with the proto's field names. Errors are
`{"code", "message", "reason"}`, with `retry_after_s` where waiting helps, under the HTTP status
that fits the gRPC code.
"""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from aiohttp import WSCloseCode, WSMsgType, web
from google.protobuf import json_format
from google.protobuf.message import Message

from services.common.errors import error_event
from services.common.hosts import host_name, may_probe, netloc_of
from services.common.metrics import REFUSED
from services.common.redaction import redacted
from services.gateway.api.addresses import Addresses
from services.gateway.api.conversations import Conversations
from services.gateway.api.info import ServerInfo
from services.gateway.config import GatewayConfig
from services.gateway.sessions.listing import page_of
from services.gateway.sessions.session import Session
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.viewers import Lines
from sightline.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    SightlineError,
)
from sightline.reasons import Reason
from sightline.v1 import dialogue_pb2, gateway_pb2

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
MAX_BODY_BYTES = 64 * 1024
MAX_EVENT_BYTES = 64 * 1024
BODY_TIMEOUT_S = 10.0
HEARTBEAT_S = 15.0
PREVIEW_WIDTHS = (64, 1280)  # pixels
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_CODE_OF_STATUS = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    405: "INVALID_ARGUMENT",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    421: "PERMISSION_DENIED",
}
PROBE = "/healthz"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class DisconnectedError(Exception):
    """The WebSocket is gone; its line waits for it to come back."""


class HttpApi:
    """Routes on the service's HTTP application."""

    def __init__(
        self,
        config: GatewayConfig,
        sessions: Sessions,
        lines: Lines,
        *,
        addresses: Addresses,
        conversations: Conversations,
        info: ServerInfo,
    ) -> None:
        self._config = config
        self._sessions = sessions
        self._lines = lines
        self._addresses = addresses
        self._conversations = conversations
        self._server_info = info
        self._hosts = config.hosts()
        self._trusted = config.trusted()
        self._files = {file.name: file for file in PAGE.iterdir() if file.is_file()}

    def add_to(self, app: web.Application) -> None:
        """Before the application starts; other routes must have been added before the page's."""
        app.middlewares.append(self._guard)
        one = "/api/sessions/{session}"
        app.router.add_get("/api/info", self._info)
        app.router.add_get("/api/sessions", self._list)
        app.router.add_post("/api/sessions", self._create)
        app.router.add_get(one, self._get)
        app.router.add_patch(one, self._update)
        app.router.add_delete(one, self._delete)
        app.router.add_get(one + "/preview.jpg", self._preview)
        app.router.add_get(one + "/converse", self._converse)
        said = "/api/conversations/{conversation}"
        app.router.add_get(said, self._conversation)
        app.router.add_delete(said, self._forget)
        app.router.add_get("/api/{path:.*}", self._nothing)
        app.router.add_get("/", self._page)
        app.router.add_get("/{file}", self._page)

    # --- around every request ---------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuses other names than ours and other sites' pages, unless they are allowed, and turns
        errors into JSON.
        """
        origin = request.headers.get("Origin", "")
        allowed = origin in self._config.allowed_origins
        try:
            self._check_host(request)
            if origin and not allowed and not self._is_own(origin, request):
                REFUSED.labels("http", "origin").inc()
                raise PermissionDeniedError(
                    "this site may not use the API", reason=Reason.SITE_NOT_ALLOWED
                )
            if request.method == "OPTIONS" and allowed:
                response: web.StreamResponse = web.Response(status=204)
            else:
                response = await handler(request)
        except SightlineError as error:
            response = _refusal(error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            response = _error(error.status, _CODE_OF_STATUS.get(error.status, ""), error.reason)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            resource = request.match_info.route.resource  # the path itself may hold a key
            where = resource.canonical if resource is not None else ""
            log.exception("unhandled error", extra={"resource": where})
            response = _refusal(InternalError("internal error"))
        if not response.prepared:
            self._add_headers(request, response)
            if allowed:
                response.headers["Access-Control-Allow-Origin"] = origin
                response.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE, PATCH"
                response.headers["Access-Control-Allow-Headers"] = "Content-Type, Authorization"
                response.headers["Access-Control-Expose-Headers"] = "Location, ETag, Link"
                response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return response

    def _check_host(self, request: web.Request) -> None:
        """Raise HTTPMisdirectedRequest for a request that was meant for another name."""
        hosts = request.headers.getall("Host", [])
        host = hosts[0] if hosts else ""
        if len(hosts) == 1 and request.path == PROBE and may_probe(host):
            return
        local = request.transport.get_extra_info("sockname") if request.transport else None
        local_address = str(local[0]) if isinstance(local, tuple) else ""
        # Browsers always send one, so without it nobody can have been led here.
        if not hosts or (len(hosts) == 1 and self._hosts.allow(host, local_address)):
            return
        REFUSED.labels("http", "host").inc()
        log.warning(
            "host refused: if it is a name of this server, add it to GATEWAY_ALLOWED_HOSTS",
            extra={"host": host[:256]},
        )
        raise web.HTTPMisdirectedRequest(reason="this server does not go by that name")

    def _is_own(self, origin: str, request: web.Request) -> bool:
        """Whether a page of this gateway asks; behind a proxy that has its public address."""
        public = netloc_of(self._config.public_http_url or "")
        host = request.headers.get("Host", "").lower()
        return netloc_of(origin) in {host, public} - {""}

    def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """What tells browsers to be careful with a response."""
        headers = response.headers
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Referrer-Policy", "no-referrer")
        headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        headers.setdefault("Vary", "Origin")
        if request.path.startswith("/api/"):
            headers.setdefault("Cache-Control", "no-store")
        elif isinstance(response, web.FileResponse):
            headers["Cache-Control"] = "no-cache"
            # Some browsers do not count a WebSocket of the same host as 'self'.
            host = request.headers.get("Host", "")
            line = f" ws://{host} wss://{host}" if host_name(host) else ""
            framing = " ".join(self._config.allowed_origins) or "'none'"
            headers["Content-Security-Policy"] = (
                "default-src 'none'; script-src 'self'; style-src 'self'; "
                f"img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'{line}; "
                f"base-uri 'none'; form-action 'none'; frame-ancestors {framing}"
            )

    # --- sessions ---------------------------------------------------------------------------

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response(_as_json(await self._server_info.message(), whole=True))

    async def _list(self, request: web.Request) -> web.Response:
        wanted = gateway_pb2.ListSessionsRequest(
            page_size=_count(request, "page_size"),
            page_token=request.query.get("page_token", ""),
            labels=dict(label.partition("=")[::2] for label in request.query.getall("label", [])),
        )
        return web.json_response(_as_json(page_of(self._sessions.all(), wanted)))

    async def _create(self, request: web.Request) -> web.Response:
        wanted = await _body(request, gateway_pb2.CreateSessionRequest())
        session = await self._sessions.create(wanted, self._place(request))
        return web.json_response(_as_json(self._addresses.with_keys(session)), status=201)

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(_as_json(self._session(request).message()))

    async def _update(self, request: web.Request) -> web.Response:
        wanted = await _body(request, gateway_pb2.UpdateSessionRequest())
        wanted.session = request.match_info["session"]
        session = await self._sessions.update(wanted)
        return web.json_response(_as_json(session.message()))

    async def _delete(self, request: web.Request) -> web.Response:
        self._sessions.delete(self._session(request), "requested")
        return web.Response(status=204)

    async def _preview(self, request: web.Request) -> web.Response:
        text = request.query.get("width", "640")
        if not text.isdecimal() or len(text) > 5:
            raise InvalidArgumentError("width is a number of pixels")
        least, most = PREVIEW_WIDTHS
        jpeg = await self._session(request).sampler.preview(min(most, max(least, int(text))))
        if jpeg is None:
            return web.Response(status=204)
        return web.Response(body=jpeg, content_type="image/jpeg")

    async def _conversation(self, request: web.Request) -> web.Response:
        wanted = gateway_pb2.GetConversationRequest(
            conversation=request.match_info["conversation"],
            page_size=_count(request, "page_size"),
            page_token=request.query.get("page_token", ""),
        )
        return web.json_response(_as_json(await self._conversations.get(wanted)))

    async def _forget(self, request: web.Request) -> web.Response:
        conversation = request.match_info["conversation"]
        unwanted = dialogue_pb2.DeleteConversationRequest(conversation=conversation)
        await self._conversations.delete(unwanted)
        return web.Response(status=204)

    def _session(self, request: web.Request) -> Session:
        return self._sessions.find(request.match_info["session"])

    # --- conversing -------------------------------------------------------------------------

    async def _converse(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S, max_msg_size=MAX_EVENT_BYTES, compress=False
        )
        if not socket.can_prepare(request):
            raise InvalidArgumentError("this address is a WebSocket")
        await socket.prepare(request)

        async def send(event: gateway_pb2.ServerEvent) -> None:
            await socket.send_str(json.dumps(_as_json(event)))

        code, last = WSCloseCode.OK, None
        try:
            await self._lines.serve(_events(socket, session), send, self._place(request))
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

    def _place(self, request: web.Request) -> str:
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        return self._trusted.place(request.remote or "", forwarded)

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        raise NotFoundError("the API has nothing here")

    async def _page(self, request: web.Request) -> web.FileResponse:
        """One of the page's files, which are all there is: no path is made of what was asked."""
        file = self._files.get(request.match_info.get("file", "index.html"))
        if file is None:
            raise NotFoundError("nothing is here")
        return web.FileResponse(file)


async def _events(
    socket: web.WebSocketResponse, session: Session
) -> AsyncIterator[gateway_pb2.ClientEvent]:
    """What the browser sends. Raises InvalidArgumentError for what is no event, and
    DisconnectedError at the end: a browser that closes may come back.
    """
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            raise InvalidArgumentError("events are text frames of JSON")
        event = _parsed(message.data, gateway_pb2.ClientEvent())
        if event.WhichOneof("event") == "start":
            event.start.session = session.id
        yield event
    raise DisconnectedError


async def _body(request: web.Request, message: Any) -> Any:
    """The request's JSON in `message`. Raises InvalidArgumentError, or 413 for a long one."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, request.content_length or 0)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        raise DeadlineExceededError("the request did not arrive in time") from None
    if len(body) > MAX_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, len(body))
    return _parsed(body, message)


def _parsed(text: str | bytes, message: Any) -> Any:
    try:
        return json_format.Parse(text, message, max_recursion_depth=16)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        detail = str(error).splitlines()[0][:200]
        raise InvalidArgumentError(f"not a valid message: {detail}") from None


def _as_json(message: Message, *, whole: bool = False) -> dict[str, Any]:
    """whole: with the fields that say nothing, for readers who look at a thing's shape."""
    return json_format.MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=whole,
    )


def _count(request: web.Request, name: str) -> int:
    """A number from the query; 0 where it is not there. Raises InvalidArgumentError."""
    text = request.query.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise InvalidArgumentError(f"{name} is a number")
    return int(text)


def _refusal(error: SightlineError) -> web.Response:
    """An error as JSON: what ErrorEvent says on a stream."""
    response = web.json_response(_as_json(error_event(error)), status=_STATUS.get(error.code, 500))
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return response


def _error(status: int, code: str, message: str) -> web.Response:
    """What aiohttp refuses by itself."""
    body = {"code": code, "message": redacted(message), "reason": code}
    return web.json_response(body, status=status)
