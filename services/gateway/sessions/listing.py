"""Pages of the list of sessions. A token names a place in it, not a state: sessions that come and
go between two pages neither shift nor repeat the others."""

import re
from collections.abc import Iterable

from services.gateway.sessions.labels import has_labels
from services.gateway.sessions.remote_session import AnySession
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2

MAX_PAGE = 1000
_TOKEN = re.compile(r"([0-9]{1,19})\.([0-9a-f]{1,64})")


def page_of(
    sessions: Iterable[AnySession], request: gateway_pb2.ListSessionsRequest
) -> gateway_pb2.ListSessionsResponse:
    """The page that a request asks for, oldest sessions first. Raises InvalidArgumentError for a
    token that no page gave."""
    after = _place(request.page_token) if request.page_token else (0, "")
    wanted = dict(request.labels)
    found = sorted(
        ((session.created_ns, session.id), session)
        for session in sessions
        if has_labels(session.labels, wanted) and (session.created_ns, session.id) > after
    )
    size = min(request.page_size, MAX_PAGE) or len(found)
    page, token = found[:size], ""
    if len(found) > size:
        created_ns, session_id = page[-1][0]
        token = f"{created_ns}.{session_id}"
    return gateway_pb2.ListSessionsResponse(
        sessions=[session.message() for _, session in page], next_page_token=token
    )


def _place(token: str) -> tuple[int, str]:
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise InvalidArgumentError("page_token is none that a page gave")
    return int(match[1]), match[2]
