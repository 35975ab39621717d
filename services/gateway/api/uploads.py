"""Files by HTTP: what is dropped on the page becomes a session, and goes when that is over."""

from typing import Any

from aiohttp import web

from services.common.bodies import too_large
from services.common.places import Trusted
from services.gateway.api.addresses import Addresses
from services.gateway.api.callers import Callers
from services.gateway.api.messages import as_json, place_of_request
from services.gateway.api.operations import Parameter, operation
from services.gateway.auth.caller import Permission
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.uploads import Uploads
from sightline.v1 import gateway_pb2

PART_BYTES = 1024 * 1024
LIMITS: dict[str, Any] = {
    "type": "object",
    "required": ["file_bytes"],
    "properties": {"file_bytes": {"type": "integer", "minimum": 0}},
}
_PATH = "/api/uploads"


class UploadsApi:
    """Routes of uploads. A `SessionListener`: a file is removed with the session that showed it."""

    def __init__(
        self,
        uploads: Uploads,
        sessions: Sessions,
        addresses: Addresses,
        callers: Callers,
        trusted: Trusted,
    ) -> None:
        self._trusted = trusted
        self._uploads = uploads
        self._sessions = sessions
        self._addresses = addresses
        self._callers = callers
        self._shown: dict[str, str] = {}  # by session
        sessions.listen(self)

    @operation(
        "GET",
        _PATH,
        "sessions",
        "How large a file may be that is handed over; 0: none are taken",
        gives=LIMITS,
        refusals=(401,),
        anonymous=True,
    )
    async def limits(self, request: web.Request) -> web.Response:
        await self._callers.of_request(request, anonymous=True)
        return web.json_response({"file_bytes": self._uploads.file_bytes})

    @operation(
        "POST",
        _PATH,
        "sessions",
        "Watch a video file that is handed over",
        about="The body is the file. It is kept for as long as its session is there.",
        takes={"type": "string", "format": "binary"},
        takes_kinds=("application/octet-stream",),
        gives=gateway_pb2.Session,
        status=201,
        parameters=(
            Parameter(name="name", about="The session's name"),
            Parameter(name="model", about="A model or a pool"),
            Parameter(
                name="loop",
                about="1: start again at the end",
                schema={"type": "string", "enum": ["0", "1"]},
            ),
        ),
        refusals=(400, 401, 403, 404, 409, 411, 429, 503),
    )
    async def take(self, request: web.Request) -> web.Response:
        options = gateway_pb2.SessionOptions(
            name=request.query.get("name", ""), loop=request.query.get("loop") == "1"
        )
        caller = await self._callers.of_request(request, Permission.ADMIN, path=options.name)
        # All that can be refused is refused before the file is on its way.
        caller.check(Permission.ADMIN)
        caller.check_name(options.name)
        size = request.content_length
        if size is None:
            raise web.HTTPLengthRequired(reason="a file comes with its Content-Length")
        if 0 < self._uploads.file_bytes < size:
            raise too_large(self._uploads.file_bytes, size)
        place = place_of_request(request, self._trusted)
        self._uploads.check(size, place)
        self._sessions.check_room()
        parts = request.content.iter_chunked(PART_BYTES)
        source = await self._uploads.receive(aiter(parts), size, place)
        wanted = gateway_pb2.CreateSessionRequest(
            source=source, options=options, model=request.query.get("model", "")
        )
        try:
            session = await self._sessions.create(wanted, caller=caller)
        except BaseException:
            self._uploads.discard(source)
            raise
        self._shown[session.id] = source
        return web.json_response(as_json(self._addresses.with_keys(session)), status=201)

    # --- of sessions ------------------------------------------------------------------------

    def session_changed(self, session: AnySession) -> None: ...

    def session_deleted(self, session: AnySession, reason: str) -> None:
        if (source := self._shown.pop(session.id, None)) is not None:
            self._uploads.discard(source)

    def session_replaced(self, before: AnySession, now: AnySession) -> None: ...
