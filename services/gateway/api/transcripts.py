"""What was said in a session's video, by HTTP."""

import time

from aiohttp import web

from services.gateway.api.audio.transcript import Spoken, subtitles
from services.gateway.api.callers import Callers
from services.gateway.api.messages import as_json
from services.gateway.api.operations import JSON, Parameter, operation
from services.gateway.api.recordings import FROM, UNTIL, moment_of
from services.gateway.api.viewed import viewed_session
from services.gateway.sessions.sessions import Sessions
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2

SECOND_NS = 1_000_000_000
FORMATS = ("json", "text", "vtt")


class TranscriptsApi:
    """GET of what was said. Who may look at a session may read that."""

    def __init__(self, sessions: Sessions, callers: Callers) -> None:
        self._sessions = sessions
        self._callers = callers

    @operation(
        "GET",
        "/api/sessions/{session}/transcript",
        "sessions",
        "What was said in the video",
        about="For sessions that listen (`options.listen`), for as long as it is kept. In `vtt`, "
        "times count from the first of it.",
        gives=gateway_pb2.GetTranscriptResponse,
        kinds=(JSON, "text/plain", "text/vtt"),
        parameters=(
            FROM,
            UNTIL,
            Parameter(
                name="format",
                about="json, text, or vtt, which are subtitles",
                schema={"type": "string", "enum": [*FORMATS]},
            ),
        ),
        refusals=(400, 401, 403, 404, 409, 503),
    )
    async def _transcript(self, request: web.Request) -> web.Response:
        session = await viewed_session(request, self._sessions, self._callers)
        form = request.query.get("format", "json")
        if form not in FORMATS:
            raise InvalidArgumentError("format is json, text or vtt")
        now_s = time.time()
        wanted = gateway_pb2.GetTranscriptRequest(
            from_ns=_ns(moment_of(request, "from", 0.0, now_s)),
            to_ns=_ns(moment_of(request, "to", 0.0, now_s)),
        )
        found = await self._sessions.media.said(session, wanted)
        if form == "json":
            return web.json_response(as_json(found))
        if form == "text":
            return web.Response(text="".join(f"{said.text}\n" for said in found.said))
        begin_ns = found.said[0].start_ns if found.said else 0
        spoken = [
            Spoken(
                said.text,
                (said.start_ns - begin_ns) / SECOND_NS,
                (said.end_ns - begin_ns) / SECOND_NS,
            )
            for said in found.said
        ]
        return web.Response(text=subtitles(spoken, "vtt"), content_type="text/vtt")


def _ns(at_s: float) -> int:
    return round(max(0.0, at_s) * SECOND_NS)
