"""Pictures pushed by HTTP, one a request: for cameras and programs that can do no more."""

import asyncio
from dataclasses import dataclass, field

from aiohttp import web

from services.common.bodies import read_text
from services.common.tasks import spawn
from services.gateway.api.callers import Callers
from services.gateway.api.completions.pictures import (
    MAX_PICTURE_BYTES,
    check_still,
    push_still,
)
from services.gateway.api.messages import as_json, number_of
from services.gateway.api.operations import Parameter, operation
from services.gateway.api.push_stream import session_to_push
from services.gateway.auth.caller import Permission
from services.gateway.sessions.publisher import Publisher
from services.gateway.sessions.session import Session
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.push import PushSource
from sightline.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError
from sightline.v1 import gateway_pb2

IDLE_S = 5.0  # without a picture, after which whoever pushed has left
KEY = "Sightline-Key"


@dataclass(slots=True, eq=False)
class _Pusher:
    """Whoever pushes to a session by requests, for as long as they come."""

    session: Session
    publisher: Publisher
    source: PushSource
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    received: int = 0
    last_ns: int = 0
    idle: asyncio.TimerHandle | None = None


class FramesApi:
    """`POST …/frames`. Between two pictures the pusher stays the session's publisher for a
    while."""

    def __init__(self, sessions: Sessions, callers: Callers) -> None:
        self._sessions = sessions
        self._callers = callers
        self._pushers: dict[str, _Pusher] = {}

    def add_to(self, app: web.Application) -> None:
        """Let go of everybody when the application ends."""
        app.on_shutdown.append(self._aclose)

    @operation(
        "POST",
        "/api/sessions/{session}/frames",
        "sessions",
        "Push a picture",
        about="JPEG or PNG as the body, into a session made with `push`. Whoever has not signed "
        "in, or may not publish, brings the session's key.",
        takes={"type": "string", "contentMediaType": "image/jpeg"},
        takes_kinds=("image/jpeg", "image/png"),
        gives=gateway_pb2.PushFramesResponse,
        parameters=(
            Parameter(name=KEY, where="header", about="The session's key"),
            Parameter(
                name="capture_ns",
                about="When it was taken, in nanoseconds since 1970; left out: now",
                schema={"type": "integer", "minimum": 0},
            ),
        ),
        refusals=(400, 401, 403, 404, 409, 429, 503),
    )
    async def push(self, request: web.Request) -> web.Response:
        name = request.match_info["session"]
        path = self._sessions.name_of(name)
        caller = await self._callers.of_request(
            request, Permission.PUBLISH, path=path, anonymous=True
        )
        opening = gateway_pb2.PushOpen(session=name, key=request.headers.get(KEY, ""))
        session = await session_to_push(self._sessions, opening, caller)
        capture_ns = number_of(request, "capture_ns", digits=19)
        picture = await read_text(request, MAX_PICTURE_BYTES)
        check_still(picture)
        if wait_s := self._sessions.quotas.pushed(session.tenant, len(picture)):
            await asyncio.sleep(wait_s)
        pusher = await self._pusher(session)
        async with pusher.turn:
            if 0 < capture_ns < pusher.last_ns:
                raise InvalidArgumentError("capture_ns is before that of the picture before")
            await push_still(pusher.source, picture, capture_ns)
            pusher.last_ns = capture_ns or pusher.last_ns
            pusher.received += 1
        counts = session.counts.copy()
        reply = gateway_pb2.PushFramesResponse(
            received=pusher.received,
            understood=counts.processed,
            dropped=counts.dropped.total(),
            understood_capture_ns=counts.understood_ns,
        )
        return web.json_response(as_json(reply))

    async def _pusher(self, session: Session) -> _Pusher:
        """Whoever pushes to the session by requests already, or now. Raises
        FailedPreconditionError while somebody else does."""
        pusher = self._pushers.get(session.id)
        if pusher is None or pusher.publisher.gone.is_set() or pusher.session is not session:
            await session.make_way()
            pusher = self._pushers.get(session.id, pusher)
        if pusher is None or pusher.publisher.gone.is_set() or pusher.session is not session:
            pusher = await self._admit(session)
        if pusher.idle is not None:
            pusher.idle.cancel()
        pusher.idle = asyncio.get_running_loop().call_later(IDLE_S, self._leave, pusher)
        return pusher

    async def _admit(self, session: Session) -> _Pusher:
        evicted: list[_Pusher] = []
        try:
            publisher = session.admit("push", evict=lambda: self._leave(evicted[0]))
        except AlreadyExistsError as error:
            raise FailedPreconditionError(error.message, reason=error.reason) from None
        source = PushSource(
            publisher.sink, lossless=session.spec.lossless, name=f"{session.id}:frames"
        )
        pusher = self._pushers[session.id] = _Pusher(session, publisher, source)
        evicted.append(pusher)
        await source.start()
        return pusher

    def _leave(self, pusher: _Pusher) -> None:
        spawn(self._end(pusher), name=f"{pusher.session.id}:frames:end")

    async def _end(self, pusher: _Pusher) -> None:
        if pusher.idle is not None:
            pusher.idle.cancel()
        if self._pushers.get(pusher.session.id) is pusher:
            del self._pushers[pusher.session.id]
        pusher.publisher.leave("publisher_left")
        await pusher.source.aclose()

    async def _aclose(self, app: web.Application) -> None:
        await asyncio.gather(*(self._end(pusher) for pusher in list(self._pushers.values())))
