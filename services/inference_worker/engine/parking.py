"""Parking: which sessions leave the device's memory, and how they come back. Device thread only.

A session that has nothing to do is parked: its pages are copied to host memory, and what it was
reserved for it is free for others. The next frame or question brings it back bit for bit.

Sessions that have been idle for a moment make room for one that opens or comes back. Where that is
not enough, the opening is refused, or the work that wanted its session back: live sessions that do
not fit together do not change places with every frame, they are for other workers to serve.
"""

from collections.abc import Callable

from services.inference_worker import metrics
from services.inference_worker.engine.jobs import EngineSession
from services.inference_worker.engine.scheduler import left_s
from services.inference_worker.engine.step_health import StepHealth
from services.inference_worker.kv.trunk import SessionPages
from services.inference_worker.runner.runner import Runner
from sightline.errors import ResourceExhaustedError

YIELD_S = 5.0  # a session idle for so long makes room for another

ADVICE = "end or pause another, open it with a smaller window, or give the worker more KV memory"


class Parking:
    """Parks sessions after `after_s` without a frame or a question; 0: never any.

    sessions: the core's, by id. health: hears what the device raised. `paused`: while the engine
    warms up nobody is parked. `suspended`: nor while host memory is short.
    """

    def __init__(
        self,
        sessions: dict[str, EngineSession],
        cache: SessionPages,
        runner: Runner,
        after_s: float,
        clock: Callable[[], float],
        health: StepHealth,
    ) -> None:
        self.paused = False
        self.suspended = False
        self._sessions = sessions
        self._cache = cache
        self._runner = runner
        self._after_s = after_s
        self._clock = clock
        self._health = health

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until a session is to be parked or brought back; None when there is none."""
        if any(session.wanted for session in self._sessions.values()):
            return 0.0
        idle = self._idle(0.0, now_s)
        return left_s(idle[0].active_s + self._after_s, now_s) if idle else None

    def park_one(self) -> None:
        """Park the session that is idle for longest, if its time has come. One at a time, because
        the frames of others wait for it."""
        for session in self._idle(self._after_s, self._clock())[:1]:
            self._park(session, "idle")

    def spare_pages(self) -> int:
        """Reserved pages that idle sessions would yield to another."""
        return sum(self._cost(session) for session in self._idle(self._yield_s, self._clock()))

    def make_room(self, cost: int) -> None:
        """Park idle sessions until so many pages are free to be reserved. Raises
        ResourceExhaustedError where that would not do, parking none."""
        if cost <= self._cache.pool.num_unreserved + self.spare_pages():
            for session in self._idle(self._yield_s, self._clock()):
                if cost > self._cache.pool.num_unreserved:
                    self._park(session, "room")
        if cost > self._cache.pool.num_unreserved:
            raise ResourceExhaustedError(
                f"no room in the KV pool: a session needs {cost} pages, "
                f"{self._cache.pool.num_unreserved} are not reserved: {ADVICE}"
            )

    def wake(self, session: EngineSession) -> None:
        """Bring a session back now, if it is parked. Raises ResourceExhaustedError where there is
        no room for it, or where it could not be read back."""
        if session.parked is not None:
            self.make_room(self._cost(session))
            self._return(session)
        if session.parked is not None:
            raise ResourceExhaustedError(
                f"session {session.id} is parked and cannot be brought back now",
                retry_after_s=YIELD_S,
            )

    def bring_back(self) -> None:
        """Give parked sessions whose work needs them their pages again; where that fails, the work
        fails, and they stay parked."""
        for session in [each for each in self._sessions.values() if each.wanted]:
            try:
                self.make_room(self._cost(session))
            except ResourceExhaustedError as error:
                metrics.RETURNS.labels("refused").inc()
                _refuse(session, error)
            else:
                self._return(session)

    def forget(self, session: EngineSession) -> None:
        """Let go of a session's copy in host memory."""
        session.parked = None
        self.measure()

    @property
    def _yield_s(self) -> float:
        return min(YIELD_S, self._after_s)

    def _idle(self, least_s: float, now_s: float) -> list[EngineSession]:
        """Sessions that may be parked and were idle for so long, the longest first."""
        if self.paused or self.suspended or not self._after_s:
            return []
        idle = [
            session
            for session in self._sessions.values()
            if session.idle and session.parked is None and session.active_s + least_s <= now_s
        ]
        return sorted(idle, key=lambda session: session.active_s)

    def _return(self, session: EngineSession) -> None:
        pages = self._cache.bring_back(session.trunk)
        try:
            self._runner.clear(session.trunk.reservation.stale)
            self._runner.restore(pages, session.parked)
        except Exception as error:
            self._cache.park(session.trunk)
            metrics.RETURNS.labels("failed").inc()
            self._health.failed("return", error, ask_device=True)
            _refuse(session, error)
            return
        metrics.RETURNS.labels("returned").inc()
        self.forget(session)

    def _cost(self, session: EngineSession) -> int:
        return session.trunk.shape.cost(self._cache.pool.page_size)

    def _park(self, session: EngineSession, reason: str) -> None:
        """Save a session's pages and give them up. If they cannot be saved, it is not tried again
        at once."""
        try:
            session.parked = self._runner.save(self._cache.pages(session.trunk))
        except Exception as error:
            session.active_s = self._clock()
            self._health.failed("park", error, ask_device=True)
            return
        session.tubelet = None  # its visual tokens are on the device
        self._cache.park(session.trunk)
        metrics.PARKS.labels(reason).inc()
        self.measure()

    def measure(self) -> None:
        """Tell metrics what is parked."""
        copies = [s.parked for s in self._sessions.values() if s.parked is not None]
        metrics.PARKED_SESSIONS.set(len(copies))
        metrics.PARKED_BYTES.set(sum(copy.nbytes for copy in copies))
        metrics.KV_PAGES_USED.set(self._cache.pool.num_used)


def _refuse(session: EngineSession, error: Exception) -> None:
    """Fail what waits for a parked session; the session itself stays as it is."""
    frames = list(session.frames)
    jobs = [session.dequeue() for _ in range(len(session.waiting))]
    session.frames.clear()
    session.frames_taken += len(frames)
    metrics.FRAMES.labels("refused").inc(len(frames))
    for frame in frames:
        frame.done(error)
    for job in jobs:
        job.sink.failed(error)
