"""`POST /v1/realtime/calls`: Realtime conversations by WebRTC, for browsers above all."""

import logging

from aiohttp import web
from aiortc import RTCIceServer

from services.common.in_flight import share
from services.common.metrics import REFUSED
from services.gateway import metrics
from services.gateway.api.messages import place_of_request
from services.gateway.api.operations import operation
from services.gateway.api.realtime.call import RealtimeCall
from services.gateway.api.realtime.call_request import FORM, read_call
from services.gateway.api.realtime.door import RealtimeApi
from services.gateway.api.realtime.fields import WireError
from services.gateway.config import GatewayConfig
from services.gateway.sources.whip.ice import parse_ice_server
from services.gateway.sources.whip.offer import check_call, without_hidden_addresses
from services.gateway.sources.whip.server import SDP
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

PATH = "/v1/realtime/calls"


class CallsApi:
    """The calls of this gateway. `door` says who comes, and what they want."""

    def __init__(self, config: GatewayConfig, door: RealtimeApi, port: WebRtcPort) -> None:
        self._door = door
        self._port = port
        self._most = config.max_calls
        self._trusted = config.trusted()
        self._ice_servers = [RTCIceServer(**parse_ice_server(url)) for url in config.ice_servers]
        self._calls: Connections[RealtimeCall] = Connections("call", self._left)
        self._closing = False

    async def aclose(self) -> None:
        """End every call."""
        self._closing = True
        await self._calls.aclose("draining")

    @operation(
        "POST",
        PATH,
        "openai",
        "A Realtime conversation by WebRTC",
        about="The body is an SDP offer with sound in Opus and a data channel `oai-events`, or a "
        "form with it as `sdp` and settings as `session`. The reply is the answer; its Location "
        "is the call's, and `POST …/hangup` ends it. `?session=` names what it is about.",
        takes={"type": "string"},
        takes_kinds=(SDP, FORM),
        kinds=(SDP,),
        status=201,
        refusals=(400, 401, 403, 404, 429, 503),
    )
    async def create(self, request: web.Request) -> web.Response:
        caller, settings = await self._door.enter(request)
        asked = await read_call(request)
        try:
            settings = settings.updated(asked.session)
        except WireError as error:
            raise InvalidArgumentError(error.message) from None
        check_call(asked.offer)
        await self._door.check(settings, caller)
        place = place_of_request(request, self._trusted)
        self._admit(place)
        model = request.query.get("model", "") or str(asked.session.get("model") or "")
        call = RealtimeCall(
            lambda visitor: self._door.conversation(visitor, model, by_track=True),
            settings,
            caller,
            place,
            self._door.authoriser(request, caller),
            self._port,
            self._ice_servers,
        )
        self._calls.add(call)
        metrics.REALTIME_CALLS.set(len(self._calls))
        try:
            answer = await call.negotiate(without_hidden_addresses(asked.offer))
            if self._closing:
                raise UnavailableError("the gateway is draining", reason=Reason.DRAINING)
        except BaseException:
            await self._calls.close(call, "error")
            raise
        self._calls.serve(call)
        headers = {"Location": f"{PATH}/{call.id}"}
        return web.Response(status=201, body=answer.encode(), content_type=SDP, headers=headers)

    @operation(
        "POST",
        PATH + "/{call}/hangup",
        "openai",
        "End a call",
        gives={"type": "object"},
        refusals=(401, 403, 404),
    )
    async def hang_up(self, request: web.Request) -> web.Response:
        await self._door.enter(request)
        call = self._calls.find(request.match_info["call"])
        if call is None:
            raise NotFoundError("no such call")
        await self._calls.end(call, "hung_up")
        return web.json_response({})

    def _admit(self, place: str) -> None:
        """Raise ResourceExhaustedError when there are as many as may be, or `place` has its
        share."""
        if self._closing:
            raise UnavailableError("the gateway is draining", reason=Reason.DRAINING)
        calls = list(self._calls)
        here = [call for call in calls if place and call.place == place]
        full = len(calls) >= self._most
        if full or (here and len(here) >= share(self._most, len(calls) - len(here))):
            REFUSED.labels("calls", "full" if full else "share").inc()
            raise ResourceExhaustedError(
                f"{len(calls)} calls are open already", reason=Reason.TOO_MANY_CALLS
            )

    def _left(self, call: RealtimeCall, reason: str) -> None:
        metrics.REALTIME_CALLS.set(len(self._calls))
        metrics.REALTIME_CALLS_CLOSED.labels(_ENDS.get(reason, "hung_up_here")).inc()


# What is counted; other reasons are the session's.
_ENDS = {
    each: each
    for each in ("left", "unreachable", "error", "draining", "hung_up", "slow_reader", "refused")
}
