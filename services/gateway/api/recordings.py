"""What was seen: a piece of a session's recording, by HTTP."""

import math
import time

from aiohttp import web

from services.gateway.api.callers import Callers
from services.gateway.api.operations import Parameter, operation
from services.gateway.auth.caller import Permission
from services.gateway.sessions.sessions import Sessions
from sightline.errors import InvalidArgumentError

_TIME = "in seconds since 1970, or before now where it is negative"
FROM = Parameter(
    name="from", about=f"The begin, {_TIME}; everything kept by default", schema={"type": "number"}
)
UNTIL = Parameter(name="to", about=f"The end, {_TIME}; now by default", schema={"type": "number"})


class RecordingsApi:
    """GET of the seconds around a moment. Who may look at a session may look at those."""

    def __init__(self, sessions: Sessions, callers: Callers) -> None:
        self._sessions = sessions
        self._callers = callers

    @operation(
        "GET",
        "/api/sessions/{session}/recording",
        "sessions",
        "Video and sound of some seconds ago",
        about="A fragmented MP4, from the last keyframe before `from`. The headers "
        "`Sightline-From` and `Sightline-To` say when its first and last picture were taken. Not "
        "found where nothing of that time is kept, which is so unless the server records.",
        kinds=("video/mp4",),
        parameters=(FROM, UNTIL),
        refusals=(400, 401, 403, 404, 503),
    )
    async def _recording(self, request: web.Request) -> web.Response:
        name = request.match_info["session"]
        path = self._sessions.name_of(name)
        caller = await self._callers.of_request(request, Permission.VIEW, path=path)
        session = await self._sessions.locate(name, caller)
        caller.check(Permission.VIEW, session)
        now_s = time.time()
        from_s = _time(request, "from", 0.0, now_s)
        until_s = _time(request, "to", now_s, now_s)
        if from_s > until_s:
            raise InvalidArgumentError("`from` is later than `to`")
        clip = await self._sessions.clip(session, from_s, until_s)
        return web.Response(
            body=clip.data,
            content_type="video/mp4",
            headers={
                "Sightline-From": f"{clip.start_s:.3f}",
                "Sightline-To": f"{clip.end_s:.3f}",
                "Cache-Control": "no-store",
            },
        )


def _time(request: web.Request, name: str, default_s: float, now_s: float) -> float:
    text = request.query.get(name, "")
    if not text:
        return default_s
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidArgumentError(f"`{name}` is a number of seconds")
    return now_s + value if value < 0 else value
