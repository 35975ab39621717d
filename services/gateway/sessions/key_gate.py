"""Gate of publishing keys: who may publish into which session, for the servers that publishers
connect to."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from services.gateway.sessions.publisher import Publisher
from services.gateway.sessions.session import Session
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.source import FrameSink
from sightline.errors import AlreadyExistsError

log = logging.getLogger(__name__)

RELEASE_S = 5.0


class KeyGate:
    """The gate for publishers of one kind ("rtmp", "whip"): who knows a key may publish."""

    def __init__(self, sessions: Sessions, kind: str) -> None:
        self._sessions = sessions
        self._kind = kind
        self._publishers: dict[str, tuple[str, Publisher]] = {}  # by key, with their session's id
        self._changed = asyncio.Event()  # set when one has left

    async def check(self, key: str) -> None:
        await self._sessions.locate_by_key(key)

    async def accept(
        self, key: str, peer: str, evict: Callable[[], None] | None = None
    ) -> FrameSink:
        found = await self._sessions.locate_by_key(key)
        if isinstance(found, Session):
            await found.make_way()
            await self._released(key)
        if key in self._publishers:  # perhaps of a deleted session, and about to leave
            raise AlreadyExistsError("somebody is publishing with this key")
        session = await self._sessions.bring_home(found)
        publisher = session.admit(self._kind, evict=evict)
        self._publishers[key] = (session.id, publisher)
        log.info(
            "publisher arrived",
            extra={"session": session.id, "kind": self._kind, "peer": peer},
        )
        return publisher.sink

    async def _released(self, key: str) -> None:
        """Wait a moment for a publisher who has left its session and not yet this gate."""
        before = self._publishers.get(key)
        if before is None or not before[1].gone.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_S):
                while self._publishers.get(key) is before:
                    self._changed.clear()
                    await self._changed.wait()

    def released(self, key: str) -> None:
        session_id, publisher = self._publishers.pop(key, ("", None))
        self._changed.set()
        if publisher is not None:
            publisher.leave("publisher_left")
            log.info("publisher left", extra={"session": session_id, "kind": self._kind})
