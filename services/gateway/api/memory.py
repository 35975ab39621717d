"""What is remembered of a session beyond its window, by HTTP."""

import math

from aiohttp import web

from services.gateway.api.callers import Callers
from services.gateway.api.conversation_routes import PAGE
from services.gateway.api.messages import as_json, number_of
from services.gateway.api.operations import Parameter, operation
from services.gateway.api.recordings import LATEST_S
from services.gateway.api.viewed import viewed_session
from services.gateway.memory.memories import Memories
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions
from sightline.errors import InvalidArgumentError, NotFoundError
from sightline.v1 import gateway_pb2

NS = 1_000_000_000
_MEMORY = "/api/sessions/{session}/memory"
_TIME = "in seconds since 1970, or before the newest frame where it is negative"
FROM = Parameter(name="from", about=f"Those that end later: {_TIME}", schema={"type": "number"})
UNTIL = Parameter(name="to", about=f"And begin earlier: {_TIME}", schema={"type": "number"})
TEXT = Parameter(name="text", about="Only moments with these words")
PICTURES = Parameter(
    name="pictures", about="1: with their pictures", schema={"type": "string", "enum": ["0", "1"]}
)


class MemoryApi:
    """GET of moments and of their pictures. Who may look at a session may look at those."""

    def __init__(self, sessions: Sessions, memories: Memories, callers: Callers) -> None:
        self._sessions = sessions
        self._memories = memories
        self._callers = callers

    @operation(
        "GET",
        _MEMORY,
        "sessions",
        "What is remembered beyond the window, the newest first",
        about="A line that the model wrote of each moment, its times, and what was said in it. "
        "None where the session has no memory.",
        gives=gateway_pb2.GetMemoryResponse,
        parameters=(*PAGE, TEXT, FROM, UNTIL, PICTURES),
        refusals=(400, 401, 403, 404, 503),
    )
    async def _read(self, request: web.Request) -> web.Response:
        session = await viewed_session(request, self._sessions, self._callers)
        wanted = gateway_pb2.GetMemoryRequest(
            session=session.id,
            text=request.query.get("text", ""),
            from_ns=_time_ns(request, "from", session),
            to_ns=_time_ns(request, "to", session),
            page_size=number_of(request, "page_size"),
            page_token=request.query.get("page_token", ""),
            pictures=request.query.get("pictures") == "1",
        )
        return web.json_response(as_json(await self._memories.read(wanted, session)))

    @operation(
        "GET",
        _MEMORY + "/{moment}.jpg",
        "sessions",
        "The picture of a moment that is remembered",
        kinds=("image/jpeg",),
        parameters=(
            Parameter(
                name="number",
                about="Which of its pictures, from 0",
                schema={"type": "integer", "minimum": 0},
            ),
        ),
        refusals=(400, 401, 403, 404, 503),
    )
    async def _picture(self, request: web.Request) -> web.Response:
        session = await viewed_session(request, self._sessions, self._callers)
        wanted = gateway_pb2.GetMemoryRequest(
            session=session.id, moment=request.match_info["moment"], pictures=True
        )
        found = (await self._memories.read(wanted, session)).moments
        number = number_of(request, "number")
        if not found or number >= len(found[0].pictures):
            raise NotFoundError("no such picture is remembered")
        return web.Response(
            body=found[0].pictures[number],
            content_type="image/jpeg",
            headers={"Cache-Control": "no-store"},
        )


def _time_ns(request: web.Request, name: str, session: AnySession) -> int:
    text = request.query.get(name, "")
    if not text:
        return 0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LATEST_S:  # nor what is no number
        raise InvalidArgumentError(f"`{name}` is a number of seconds")
    if value < 0:
        newest_ns = session.message().stats.last_capture_ns
        return max(1, newest_ns + round(value * NS))
    return round(value * NS)
