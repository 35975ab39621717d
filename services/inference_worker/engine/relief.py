"""Relief of memory that runs short, before anything fails for want of it. Device thread only.

Above `HIGH` of the KV pages, of the device's memory or of the host's, the oldest segments of the
sessions that have been idle for longest are given up first, those of parked ones included; then the
windows of the others shrink, of the least priority first. Below `LOW` that ends, and windows grow
again, one by one. Nobody is ended or refused for it: a session then remembers less.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping

from services.inference_worker import metrics
from services.inference_worker.engine.jobs import EngineSession
from services.inference_worker.engine.parking import YIELD_S, Parking
from services.inference_worker.kv.trunk import SessionPages
from services.inference_worker.runner.runner import Runner
from sightline.errors import ResourceExhaustedError

log = logging.getLogger(__name__)

HIGH, LOW = 0.9, 0.8
LOOK_S = 1.0
REGROW_S = 5.0  # between two windows that grow again
LEAST_SEGMENTS = 4  # that a session keeps

KV, DEVICE, HOST = "kv", "device", "host"
Shares = Callable[[], Mapping[str, float]]


class Relief:
    """Looks at memory once a second, and takes measures while it runs short.

    sessions: the core's, by id. parking: takes no more copies into host memory while that is short.
    shares: what of the device's and the host's memory is used, 0…1, by `DEVICE` and `HOST`.
    """

    def __init__(
        self,
        sessions: dict[str, EngineSession],
        cache: SessionPages,
        runner: Runner,
        parking: Parking,
        shares: Shares,
        clock: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._cache = cache
        self._runner = runner
        self._parking = parking
        self._shares = shares
        self._clock = clock
        self._short: set[str] = set()  # of KV, DEVICE, HOST
        self._looked_s = self._grown_s = float("-inf")

    @property
    def short(self) -> frozenset[str]:
        """Memory that runs short now."""
        return frozenset(self._short)

    def advance(self) -> None:
        """Look, when it is time, and take a measure for what is short."""
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        self._look()
        self._parking.suspended = HOST in self._short
        if DEVICE in self._short:
            self._runner.release_cached()
        if self._short:
            self._take_measures(now_s)
        elif now_s - self._grown_s >= REGROW_S:
            self._grown_s = now_s
            self._regrow()

    def _look(self) -> None:
        for what, share in ({KV: self._kv_share()} | dict(self._shares())).items():
            metrics.MEMORY_SHARE.labels(what).set(share)
            if share > HIGH and what not in self._short:
                self._short.add(what)
                log.warning("memory runs short", extra={"of": what, "used": round(share, 3)})
            elif share < LOW and what in self._short:
                self._short.discard(what)
                log.info("memory suffices again", extra={"of": what, "used": round(share, 3)})
            metrics.MEMORY_SHORT.labels(what).set(what in self._short)

    def _kv_share(self) -> float:
        return self._cache.pool.num_used / (self._cache.pool.num_pages - 1)

    def _take_measures(self, now_s: float) -> None:
        """Halve what idle sessions remember, the idlest first, and where none has more than the
        least, the window of one that is not idle. Of KV pages as many go as are needed; of what
        frees memory that is only seen at the next look, one session's a time."""
        for session in self._idlest(now_s):
            self._forget(session)
            if not self._needs_more():
                return
        if not self._idlest(now_s):
            for session in self._by_priority():
                if self._shrink(session) and not self._needs_more():
                    return

    def _needs_more(self) -> bool:
        return self._short == {KV} and self._kv_share() >= LOW

    def _idlest(self, now_s: float) -> list[EngineSession]:
        """Idle sessions that remember more than the least, the idlest first. For want of host
        memory alone only what parked ones hold there is of use."""
        parked_only = self._short == {HOST}
        found = [
            session
            for session in self._sessions.values()
            if session.idle
            and session.active_s + YIELD_S <= now_s
            and len(session.trunk.segments) > LEAST_SEGMENTS
            and (session.parked is not None or not parked_only)
        ]
        return sorted(found, key=lambda session: session.active_s)

    def _by_priority(self) -> list[EngineSession]:
        """Sessions whose window can shrink, the least priority first, then the longest window."""
        found = [
            session
            for session in self._sessions.values()
            if session.parked is None and session.trunk.shape.window_segments > LEAST_SEGMENTS
        ]
        return sorted(found, key=lambda each: (each.priority, -each.trunk.shape.window_segments))

    def _forget(self, session: EngineSession) -> None:
        """Give up the older half of what a session remembers."""
        trunk = session.trunk
        keep = max(LEAST_SEGMENTS, len(trunk.segments) // 2)
        if session.parked is not None:
            session.parked = self._trimmed(session, keep)
            self._parking.measure()
        gone = self._cache.forget_oldest(trunk, keep)
        metrics.KV_PAGES_USED.set(self._cache.pool.num_used)
        metrics.MEMORY_MEASURES.labels("forgotten").inc()
        log.info("session remembers less", extra={"session": session.id, "segments": gone})

    def _trimmed(self, session: EngineSession, keep: int) -> object:
        """A parked session's copy without the pages of its oldest segments."""
        sink, *segments = [len(places) for places in session.trunk.parked or ()]
        gone = sum(segments[: len(segments) - keep])
        return self._runner.trimmed(session.parked, sink + sum(segments), range(sink, sink + gone))

    def _shrink(self, session: EngineSession) -> bool:
        """Halve a session's window; False where answers under way still read all of it."""
        before = session.trunk.shape.window_segments
        window = max(LEAST_SEGMENTS, before // 2)
        with contextlib.suppress(ResourceExhaustedError):
            self._cache.resize(session.trunk, window)
            session.wanted_segments = session.wanted_segments or before
            metrics.MEMORY_MEASURES.labels("shrunk").inc()
            fields = {"session": session.id, "window": window, "wanted": session.wanted_segments}
            log.warning("window shrinks for want of memory", extra=fields)
            return True
        return False

    def _regrow(self) -> None:
        """Give the most important session whose window shrank what it had, where that fits."""
        shrunk = [each for each in self._sessions.values() if each.wanted_segments]
        for session in sorted(shrunk, key=lambda session: -session.priority):
            if session.parked is not None:
                continue
            with contextlib.suppress(ResourceExhaustedError):
                stale = self._cache.resize(session.trunk, session.wanted_segments)
                self._runner.clear(stale)
                session.wanted_segments = 0
                metrics.MEMORY_MEASURES.labels("regrown").inc()
                log.info("window grows again", extra={"session": session.id})
                return
