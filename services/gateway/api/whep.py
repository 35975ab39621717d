"""WHEP (draft-ietf-wish-whep): browsers and players watch a session by WebRTC."""

import logging
import secrets

from aiohttp import web
from aiortc import RTCIceServer

from services.common.bodies import read_text
from services.common.in_flight import share
from services.common.metrics import REFUSED
from services.common.problems import problem
from services.common.tasks import spawn
from services.gateway import metrics
from services.gateway.api.callers import Callers
from services.gateway.api.messages import place_of_request
from services.gateway.api.viewed import session_in_path
from services.gateway.auth.caller import Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.playback.connection import PlaybackConnection
from services.gateway.playback.programme import Programme
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.whip.codecs import take_every_codec
from services.gateway.sources.whip.ice import parse_ice_server
from services.gateway.sources.whip.microphone_track import Hear
from services.gateway.sources.whip.offer import (
    UnsupportedVideoError,
    check_offer,
    without_hidden_addresses,
)
from services.gateway.sources.whip.peer import RestartError
from services.gateway.sources.whip.server import FRAGMENT, SDP, link_of
from services.gateway.viewers.viewers import Viewers
from services.gateway.webrtc.connections import Connections
from services.gateway.webrtc.port import WebRtcPort
from sightline.errors import (
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from sightline.reasons import Reason

log = logging.getLogger(__name__)

PATH = "/whep/{session}"


class _Watcher(PlaybackConnection):
    """A connection, and whom it serves."""

    def __init__(
        self,
        session: AnySession,
        programme: Programme,
        caller: Caller,
        place: str,
        port: WebRtcPort,
        ice_servers: list[RTCIceServer],
        hear: Hear | None,
    ) -> None:
        super().__init__(programme, port, ice_servers, hear)
        self.session = session
        self.caller = caller
        self.place = place


class WhepApi:
    """POST of an offer to /whep/<session> watches it, DELETE of its Location ends. Who may look at
    a session may watch it. A `SessionListener`.

    With `?handle=` of a viewer's line the offer's microphone is that viewer's.
    """

    def __init__(
        self,
        config: GatewayConfig,
        sessions: Sessions,
        viewers: Viewers,
        callers: Callers,
        port: WebRtcPort,
    ) -> None:
        self._viewers = viewers
        self._config = config
        self._port = port
        self._sessions = sessions
        self._callers = callers
        self._trusted = config.trusted()
        self._ice_servers = [RTCIceServer(**parse_ice_server(url)) for url in config.ice_servers]
        self._watchers: Connections[_Watcher] = Connections("whep", self._left)
        self._closing = False
        take_every_codec()
        sessions.listen(self)

    def add_to(self, app: web.Application) -> None:
        """Register the routes, before the application starts and before the page's routes."""
        one = PATH + "/{resource}"
        app.router.add_post(PATH, self._post)
        app.router.add_route("OPTIONS", PATH, self._options)
        app.router.add_get(PATH, self._no_such_verb)
        app.router.add_delete(one, self._delete)
        app.router.add_patch(one, self._patch)
        app.router.add_route("OPTIONS", one, self._options)
        app.router.add_get(one, self._no_such_verb)

    async def aclose(self) -> None:
        """Send everybody away."""
        self._closing = True
        await self._watchers.aclose("draining")

    # --- a SessionListener ------------------------------------------------------------------

    def session_changed(self, session: AnySession) -> None:
        for watcher in self._of(session):
            if not watcher.caller.is_current() or not watcher.caller.sees(session):
                self._send_away(watcher, "signed_out")

    def session_replaced(self, before: AnySession, now: AnySession) -> None:
        for watcher in self._of(before):
            self._send_away(watcher, "session_moved")

    def session_deleted(self, session: AnySession, reason: str) -> None:
        for watcher in self._of(session):
            self._send_away(watcher, "session_deleted")

    # --- HTTP -------------------------------------------------------------------------------

    async def _post(self, request: web.Request) -> web.Response:
        session, caller = await session_in_path(
            request, self._sessions, self._callers, Permission.VIEW
        )
        caller.check(Permission.VIEW, session)
        if request.content_type != SDP:
            raise web.HTTPUnsupportedMediaType(reason=f"an offer is {SDP}")
        hear = None
        if handle := request.query.get("handle"):
            caller.check(Permission.ASK, session)
            hear = self._viewers.of_handle(handle, session).hear
        offer = await _read(request)
        try:
            check_offer(offer)
            place = place_of_request(request, self._trusted)
            watcher = self._admit(session, caller, place, hear)
            answer = await self._start(watcher, without_hidden_addresses(offer))
        except UnsupportedVideoError as error:
            raise web.HTTPNotAcceptable(reason=error.message) from None
        response = web.Response(
            status=201,
            body=answer.encode(),
            content_type=SDP,
            headers={
                "Location": f"/whep/{session.id}/{watcher.id}",
                "ETag": f'"{secrets.token_hex(8)}"',
            },
        )
        for server in self._ice_servers:
            response.headers.add("Link", link_of(server))
        return response

    async def _delete(self, request: web.Request) -> web.Response:
        await self._watchers.end(await self._find(request), "left")
        return web.Response(status=200)

    async def _patch(self, request: web.Request) -> web.Response:
        """Trickle ICE: candidates of the viewer's. Not ICE restarts."""
        watcher = await self._find(request)
        if request.content_type != FRAGMENT:
            raise web.HTTPUnsupportedMediaType(reason=f"candidates are {FRAGMENT}")
        try:
            await watcher.add_candidates(await _read(request))
        except RestartError as error:
            raise web.HTTPUnprocessableEntity(reason=error.message) from None
        return web.Response(status=204)

    async def _options(self, request: web.Request) -> web.Response:
        if "resource" in request.match_info:
            headers = {"Accept-Patch": FRAGMENT, "Allow": "DELETE, OPTIONS, PATCH"}
        else:
            headers = {"Accept-Post": SDP, "Allow": "OPTIONS, POST"}
        return web.Response(status=204, headers=headers)

    async def _no_such_verb(self, request: web.Request) -> web.Response:
        """GET and HEAD: the draft leaves them to others."""
        allowed = "DELETE, OPTIONS, PATCH" if "resource" in request.match_info else "OPTIONS, POST"
        message = "video is asked for with an offer: POST"
        response = problem(405, code="INVALID_ARGUMENT", message=message)
        response.headers["Allow"] = allowed
        return response

    async def _caller(self, request: web.Request) -> Caller:
        path = self._sessions.name_of(request.match_info["session"])
        return await self._callers.of_request(request, Permission.VIEW, path=path)

    async def _find(self, request: web.Request) -> _Watcher:
        """The connection in the address, whose id only its viewer knows."""
        caller = await self._caller(request)
        watcher = self._watchers.find(request.match_info["resource"])
        name = request.match_info["session"]
        if watcher is None or name not in (watcher.session.id, watcher.session.name):
            raise NotFoundError("no such WHEP session")
        caller.check(Permission.VIEW, watcher.session)
        return watcher

    # --- watchers ---------------------------------------------------------------------------

    def _admit(
        self, session: AnySession, caller: Caller, place: str, hear: Hear | None
    ) -> _Watcher:
        """Raises ResourceExhaustedError when the session, or `place`, has its share of viewers."""
        if self._closing:
            raise UnavailableError("the gateway is draining")
        most, watchers = self._config.max_viewers, self._of(session)
        here = [one for one in watchers if place and one.place == place]
        if len(watchers) >= most or (here and len(here) >= share(most, len(watchers) - len(here))):
            REFUSED.labels("gateway", "quota").inc()
            raise ResourceExhaustedError(
                f"{len(watchers)} viewers watch this session already",
                reason=Reason.TOO_MANY_VIEWERS,
            )
        programme = self._sessions.media.programme(session)
        watcher = _Watcher(session, programme, caller, place, self._port, self._ice_servers, hear)
        self._watchers.add(watcher)
        metrics.WHEP_VIEWERS.set(len(self._watchers))
        session.viewers += 1
        session.touch()
        return watcher

    async def _start(self, watcher: _Watcher, offer: str) -> str:
        try:
            answer = await watcher.negotiate(offer)
            if self._closing:
                raise UnavailableError("the gateway is draining")
        except BaseException:
            await self._watchers.close(watcher, "error")
            raise
        self._watchers.serve(watcher)
        return answer

    def _send_away(self, watcher: _Watcher, reason: str) -> None:
        ending = self._watchers.end(watcher, reason)
        spawn(ending, name=f"whep:{watcher.session.id}:end")

    def _left(self, watcher: _Watcher, reason: str) -> None:
        metrics.WHEP_VIEWERS.set(len(self._watchers))
        metrics.WHEP_CLOSED.labels(reason).inc()
        watcher.session.viewers -= 1
        watcher.session.touch()

    def _of(self, session: AnySession) -> list[_Watcher]:
        return [watcher for watcher in self._watchers if watcher.session is session]


async def _read(request: web.Request) -> str:
    """The request's text. Raises what `read_text` does, and InvalidArgumentError."""
    try:
        return (await read_text(request)).decode()
    except UnicodeDecodeError:
        raise InvalidArgumentError("the request is not text") from None
