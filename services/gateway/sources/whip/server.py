"""WHIP (RFC 9725): browsers and OBS publish by WebRTC with one HTTP request."""

import logging
from collections.abc import Callable, Sequence

import grpc
from aiohttp import web
from aiortc import RTCIceServer

from services.common.bodies import read_text
from services.common.http_status import HTTP_STATUS
from services.common.problems import problem
from services.common.tasks import spawn
from services.gateway.sources.source import PublisherGate
from services.gateway.sources.whip.codecs import take_every_codec
from services.gateway.sources.whip.connection import WhipConnection, WhipLimits
from services.gateway.sources.whip.ice import parse_ice_server
from services.gateway.sources.whip.microphone_track import Hear
from services.gateway.sources.whip.offer import (
    UnsupportedVideoError,
    check_offer,
    without_hidden_addresses,
)
from services.gateway.sources.whip.peer import RestartError
from services.gateway.webrtc.connections import Connections
from services.gateway.webrtc.port import WebRtcPort
from sightline.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    SightlineError,
    UnavailableError,
)

log = logging.getLogger(__name__)

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"
MAX_FRAGMENT_BYTES = 16 * 1024
# WHIP says 503 for a server that is full (RFC 9725), where the API says 429.
_STATUS = HTTP_STATUS | {grpc.StatusCode.RESOURCE_EXHAUSTED: 503}


class WhipServer:
    """POST <path>/<key> publishes, DELETE of its Location ends. `gate` decides whose.

    The key may also come as a bearer token of POST <path>. `ice_servers` are stun: or turn: URLs,
    turn:user:password@host:port; without any, no server is ever asked.
    """

    kind = "whip"

    def __init__(
        self,
        gate: PublisherGate,
        port: WebRtcPort,
        *,
        ice_servers: Sequence[str] = (),
        path: str = "/whip",
        limits: WhipLimits | None = None,
        microphone_of: Callable[[str, str], Hear] | None = None,
    ) -> None:
        """microphone_of: who hears the sound of a publisher who says, with `?handle=`, that it is
        somebody's microphone as well; by handle and key. Raises NotFoundError."""
        self._microphone_of = microphone_of
        self._gate = gate
        self._port = port
        self._path = path
        self._limits = limits or WhipLimits()
        self._ice_servers = [RTCIceServer(**parse_ice_server(url)) for url in ice_servers]
        self._connections: Connections[WhipConnection] = Connections("whip", self._left)
        self._closing = False
        take_every_codec()
        logging.getLogger("aioice").setLevel(logging.WARNING)  # it tells of every candidate

    def add_to(self, app: web.Application) -> None:
        """Register the routes, before the application starts."""
        for route in (self._path, self._path + "/{key}"):
            app.router.add_post(route, self._post)
            app.router.add_route("OPTIONS", route, self._options)
            app.router.add_get(route, self._no_such_verb)
        resource = self._path + "/{key}/{resource}"
        app.router.add_get(resource, self._no_such_verb)
        app.router.add_route("OPTIONS", resource, self._options_of_one)
        app.router.add_delete(resource, self._delete)
        app.router.add_patch(resource, self._patch)

    async def start(self) -> None:
        """Nothing to do: the HTTP server is its owner's."""

    async def aclose(self) -> None:
        """End every connection; sinks get `ended("closed")`."""
        self._closing = True
        await self._connections.aclose("closed")

    @property
    def num_publishers(self) -> int:
        return len(self._connections)

    # --- HTTP ---------------------------------------------------------------------------------

    async def _post(self, request: web.Request) -> web.Response:
        if request.content_type != SDP:
            return _refusal(415, "INVALID_ARGUMENT", f"an offer is {SDP}")
        try:
            offer = await self._read_offer(request)
            key, hear = _key_of(request), None
            if (handle := request.query.get("handle")) and self._microphone_of is not None:
                hear = self._microphone_of(handle, key)
            connection = await self._publish(key, _peer_of(request), offer, hear)
        except web.HTTPRequestEntityTooLarge:
            return _refusal(413, "INVALID_ARGUMENT", "the offer is too long")
        except SightlineError as error:
            status = _STATUS.get(error.code, 500)
            if isinstance(error, UnsupportedVideoError):
                status = 406
            response = _refusal(status, error.code.name, error.message, error.reason)
            if response.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
            return response
        headers = {
            "Location": f"{self._path}/{connection.key}/{connection.id}",
            "ETag": connection.tag,
            "Access-Control-Expose-Headers": "Location, ETag, Link",
        }
        response = web.Response(
            status=201, body=connection.answer.encode(), content_type=SDP, headers=headers
        )
        for server in self._ice_servers:
            response.headers.add("Link", link_of(server))
        return response

    async def _read_offer(self, request: web.Request) -> str:
        try:
            offer = (await self._read(request, self._limits.offer_bytes)).decode()
        except UnicodeDecodeError:
            raise InvalidArgumentError("the offer is not text") from None
        check_offer(offer)
        return without_hidden_addresses(offer)

    async def _read(self, request: web.Request, most_bytes: int) -> bytes:
        return await read_text(request, most_bytes, self._limits.negotiate_s)

    async def _publish(self, key: str, peer: str, offer: str, hear: Hear | None) -> WhipConnection:
        """Negotiate and start. Raises what the gate raises, and InvalidArgumentError."""
        if self._closing or len(self._connections) >= self._limits.publishers:
            raise ResourceExhaustedError("no more WebRTC publishers are taken now")
        connection: WhipConnection | None = None

        def evict() -> None:
            if connection is not None:
                ending = self._connections.end(connection, "publisher_left")
                spawn(ending, name=f"whip:{peer}:evict")

        sink = await self._gate.accept(key, peer, evict)
        connection = WhipConnection(key, sink, self._port, self._ice_servers, self._limits, hear)
        self._connections.add(connection)
        try:
            await connection.negotiate(offer)
            if self._closing:
                raise UnavailableError("the gateway is draining")
        except BaseException:
            await self._connections.close(connection, "error")
            raise
        self._connections.serve(connection)
        log.info("WHIP publisher accepted", extra={"peer": peer})
        return connection

    def _left(self, connection: WhipConnection, reason: str) -> None:
        self._gate.released(connection.key)
        log.info("WHIP publisher left", extra={"reason": reason})

    async def _delete(self, request: web.Request) -> web.Response:
        connection = self._find(request)
        if connection is None:
            return _refusal(404, "NOT_FOUND", "no such WHIP session")
        await self._connections.end(connection, "publisher_left")
        return web.Response(status=200)

    async def _patch(self, request: web.Request) -> web.Response:
        """Trickle ICE: candidates of the publisher's. Not ICE restarts: who supports one of both
        answers 422 to the other (RFC 9725, section 4.3)."""
        connection = self._find(request)
        if connection is None:
            return _refusal(404, "NOT_FOUND", "no such WHIP session")
        if request.content_type != FRAGMENT:
            return _refusal(415, "INVALID_ARGUMENT", f"candidates are {FRAGMENT}")
        wanted = request.headers.get("If-Match", "*")
        if wanted != "*" and connection.tag not in [tag.strip() for tag in wanted.split(",")]:
            return _refusal(
                412, "FAILED_PRECONDITION", "these candidates are of another connection"
            )
        try:
            fragment = (await self._read(request, MAX_FRAGMENT_BYTES)).decode(errors="replace")
            await connection.add_candidates(fragment)
        except web.HTTPRequestEntityTooLarge:
            return _refusal(413, "INVALID_ARGUMENT", "the fragment is too long")
        except RestartError as error:
            return _refusal(422, "UNIMPLEMENTED", error.message)
        except SightlineError as error:
            return _refusal(_STATUS.get(error.code, 500), error.code.name, error.message)
        return web.Response(status=204)

    async def _options(self, request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"Accept-Post": SDP, "Allow": "OPTIONS, POST"})

    async def _options_of_one(self, request: web.Request) -> web.Response:
        headers = {"Accept-Patch": FRAGMENT, "Allow": "DELETE, OPTIONS, PATCH"}
        return web.Response(status=204, headers=headers)

    async def _no_such_verb(self, request: web.Request) -> web.Response:
        """GET and HEAD of both are for others to define (RFC 9725, sections 4.1 and 4.2)."""
        one = "resource" in request.match_info
        response = _refusal(405, "UNIMPLEMENTED", "nothing is read here: a publisher writes")
        response.headers["Allow"] = "DELETE, OPTIONS, PATCH" if one else "OPTIONS, POST"
        return response

    def _find(self, request: web.Request) -> WhipConnection | None:
        connection = self._connections.find(request.match_info["resource"])
        if connection is None or connection.key != request.match_info["key"]:
            return None
        return connection


def link_of(server: RTCIceServer) -> str:
    """The Link header of an ICE server (RFC 9725, section 4.6)."""
    link = f'<{server.urls}>; rel="ice-server"'
    if server.username:
        link += f'; username="{server.username}"; credential="{server.credential}"'
        link += '; credential-type="password"'
    return link


def _key_of(request: web.Request) -> str:
    key = request.match_info.get("key")
    if key is None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return ""
    return key.strip()


def _peer_of(request: web.Request) -> str:
    address = request.transport.get_extra_info("peername") if request.transport else None
    return f"{address[0]}:{address[1]}" if address else "unknown"


def _refusal(status: int, code: str, message: str, reason: str = "") -> web.Response:
    return problem(status, code=code, message=message, reason=reason)
