"""Who may publish into which session, for the servers that publishers connect to."""

import logging

from services.gateway.sessions.session import Session
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.source import Picture, PictureSink
from sightline.errors import AlreadyExistsError, InvalidArgumentError

log = logging.getLogger(__name__)


class Gate:
    """Lets publishers of one kind ("rtmp", "whip") into the sessions whose key they know."""

    def __init__(self, sessions: Sessions, kind: str) -> None:
        self._sessions = sessions
        self._kind = kind
        self._open: dict[str, Session] = {}  # by key

    async def accept(self, key: str, peer: str) -> PictureSink:
        session = self._sessions.find_by_key(key)
        if key in self._open:  # perhaps of a deleted session, with its publisher about to leave
            raise AlreadyExistsError("somebody is publishing with this key")
        sink = session.admit(self._kind)
        self._open[key] = session
        log.info(
            "publisher arrived",
            extra={"session": session.id, "kind": self._kind, "peer": peer},
        )
        return _Door(session, sink)

    def released(self, key: str) -> None:
        session = self._open.pop(key, None)
        if session is not None:
            session.release()
            log.info("publisher left", extra={"session": session.id, "kind": self._kind})


class _Door:
    """A session's sink that refuses pictures once the session is deleted, which makes its
    publisher's connection end.
    """

    def __init__(self, session: Session, sink: PictureSink) -> None:
        self._session = session
        self._sink = sink
        self.budget = sink.budget
        self.ended = sink.ended
        self.dropped = sink.dropped
        self.noted = sink.noted

    def picture(self, picture: Picture) -> None:
        if not self._session.alive:
            raise InvalidArgumentError("the session was deleted")
        self._sink.picture(picture)
