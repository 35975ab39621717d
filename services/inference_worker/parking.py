"""Which sessions leave the device's memory, and how they come back. Device thread only.

A session that has nothing to do is parked: its pages are copied to host memory, and what it was
promised is free for others. The next frame or question brings it back bit for bit, if need be in
the place of others that have nothing to do.
"""

import logging
from collections.abc import Callable

from services.inference_worker import metrics
from services.inference_worker.kv_cache import KVCache
from services.inference_worker.runner import Runner
from services.inference_worker.scheduler import SessionState
from sightline.errors import ResourceExhaustedError

log = logging.getLogger(__name__)

YIELD_S = 5.0
"""A session idle for so long makes room for a new one."""


class Parking:
    """Parks sessions after `after_s` without a frame or a question; 0: never any.

    sessions: the core's, by id. `paused`: while the engine warms up nobody is parked.
    """

    def __init__(
        self,
        sessions: dict[str, SessionState],
        cache: KVCache,
        runner: Runner,
        after_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.paused = False
        self._sessions = sessions
        self._cache = cache
        self._runner = runner
        self._after_s = after_s
        self._clock = clock

    def wait_s(self) -> float | None:
        """Until the next session is to be parked; None when nobody is."""
        idle = self._idle(0.0)
        return max(0.0, idle[0].active_s + self._after_s - self._clock()) if idle else None

    def park_one(self) -> None:
        """Park the session that is idle for longest, if its time has come. One at a time, because
        the frames of others wait for it."""
        for session in self._idle(self._after_s)[:1]:
            try:
                self._park(session, "idle")
            except Exception:
                session.active_s = self._clock()  # not again at once
                log.exception("parking failed", extra={"session": session.id})

    def spare_pages(self) -> int:
        """Reserved pages that idle sessions would yield to a new one. Any thread may ask."""
        return sum(self._cost(session) for session in self._idle(self._yield_s))

    def admit(self, cost: int) -> None:
        """Make room for a new session of that cost, if that can be done."""
        self._make_room(cost, self._yield_s)

    def bring_back(self, session: SessionState) -> None:
        """Before a session's work: give it its pages again. Raises ResourceExhaustedError when
        others need theirs; it stays parked then."""
        if session.parked is None:
            return
        self._make_room(self._cost(session), 0.0)
        try:
            pages = self._cache.bring_back(session.trunk)
        except ResourceExhaustedError as error:
            metrics.RETURNS.labels("refused").inc()
            raise ResourceExhaustedError(
                f"session {session.id} is parked and cannot return now: {error.message}"
            ) from error
        try:
            self._runner.restore(pages, session.parked)
        except Exception:
            self._cache.park(session.trunk)
            metrics.RETURNS.labels("failed").inc()
            raise
        metrics.RETURNS.labels("returned").inc()
        self.forget(session)

    def forget(self, session: SessionState) -> None:
        """Let go of a session's copy in host memory."""
        session.parked = None
        self._measure()

    @property
    def _yield_s(self) -> float:
        return min(YIELD_S, self._after_s)

    def _idle(self, least_s: float) -> list[SessionState]:
        """Sessions that may be parked and were idle for so long, the longest first."""
        if self.paused or not self._after_s:
            return []
        now_s = self._clock()
        idle = [
            session
            for session in list(self._sessions.values())
            if session.idle and session.parked is None and session.active_s + least_s <= now_s
        ]
        return sorted(idle, key=lambda session: session.active_s)

    def _cost(self, session: SessionState) -> int:
        return session.trunk.shape.cost(self._cache.pool.page_size)

    def _make_room(self, cost: int, least_s: float) -> None:
        """Park idle sessions until a session of that cost fits; nobody, if it would not then."""
        idle = self._idle(least_s)
        missing = cost - self._cache.pool.num_unreserved
        if missing > sum(self._cost(session) for session in idle):
            return
        for session in idle:
            if missing <= 0:
                break
            missing -= self._cost(session)
            self._park(session, "room")

    def _park(self, session: SessionState, reason: str) -> None:
        session.parked = self._runner.save(self._cache.pages(session.trunk))
        session.picture = None  # its visual tokens are on the device
        self._cache.park(session.trunk)
        metrics.PARKS.labels(reason).inc()
        self._measure()

    def _measure(self) -> None:
        copies = [s.parked for s in self._sessions.values() if s.parked is not None]
        metrics.PARKED_SESSIONS.set(len(copies))
        metrics.PARKED_BYTES.set(sum(copy.nbytes for copy in copies))
        metrics.KV_PAGES_USED.set(self._cache.pool.num_used)
