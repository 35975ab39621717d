"""Who may publish into which session, for the servers that publishers connect to."""

import logging

from services.gateway.sessions.publisher import Publisher
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.source import FrameSink
from sightline.errors import AlreadyExistsError

log = logging.getLogger(__name__)


class KeyGate:
    """The gate for publishers of one kind ("rtmp", "whip"): who knows a key may publish."""

    def __init__(self, sessions: Sessions, kind: str) -> None:
        self._sessions = sessions
        self._kind = kind
        self._publishers: dict[str, tuple[str, Publisher]] = {}  # by key, with their session's id

    async def accept(self, key: str, peer: str) -> FrameSink:
        found = await self._sessions.locate_by_key(key)
        if key in self._publishers:  # perhaps of a deleted session, and about to leave
            raise AlreadyExistsError("somebody is publishing with this key")
        session = await self._sessions.bring_home(found)
        publisher = session.admit(self._kind)
        self._publishers[key] = (session.id, publisher)
        log.info(
            "publisher arrived",
            extra={"session": session.id, "kind": self._kind, "peer": peer},
        )
        return publisher.sink

    def released(self, key: str) -> None:
        session_id, publisher = self._publishers.pop(key, ("", None))
        if publisher is not None:
            publisher.leave("publisher_left")
            log.info("publisher left", extra={"session": session_id, "kind": self._kind})
