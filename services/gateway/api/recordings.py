"""What was seen: a piece of a session's recording, by HTTP."""

import math
import time

from aiohttp import web

from services.gateway.api.callers import Callers
from services.gateway.api.operations import Parameter, operation
from services.gateway.api.viewed import viewed_session
from services.gateway.playback.hls import KINDS, PLAYLIST
from services.gateway.sessions.sessions import Sessions
from sightline.errors import InvalidArgumentError

LATEST_S = 2**62 // 1_000_000_000  # which the contract's nanoseconds hold
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
        session = await viewed_session(request, self._sessions, self._callers)
        now_s = time.time()
        from_s = moment_of(request, "from", 0.0, now_s)
        until_s = moment_of(request, "to", now_s, now_s)
        if from_s > until_s:
            raise InvalidArgumentError("`from` is later than `to`")
        clip = await self._sessions.media.clip(session, from_s, until_s)
        return web.Response(
            body=clip.data,
            content_type="video/mp4",
            headers={
                "Sightline-From": f"{clip.start_s:.3f}",
                "Sightline-To": f"{clip.end_s:.3f}",
                "Cache-Control": "no-store",
            },
        )

    @operation(
        "GET",
        "/api/sessions/{session}/hls/{file}",
        "sessions",
        "The recording as HLS",
        about=f"`{PLAYLIST}` is the live playlist, back to the oldest picture that is kept; it "
        "names the other files. Not found unless the server records.",
        kinds=tuple(KINDS.values()),
        refusals=(401, 403, 404, 503),
    )
    async def _hls(self, request: web.Request) -> web.Response:
        session, name = (
            await viewed_session(request, self._sessions, self._callers),
            request.match_info["file"],
        )
        data = await self._sessions.media.hls(session, name)
        return web.Response(
            body=data,
            content_type=KINDS[name.rpartition(".")[2]],
            headers={"Cache-Control": "no-store"},
        )


def moment_of(request: web.Request, name: str, default_s: float, now_s: float) -> float:
    """A time from the query, in seconds since 1970. Raises InvalidArgumentError."""
    text = request.query.get(name, "")
    if not text:
        return default_s
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LATEST_S:  # nor what is no number
        raise InvalidArgumentError(f"`{name}` is a number of seconds")
    return now_s + value if value < 0 else value
