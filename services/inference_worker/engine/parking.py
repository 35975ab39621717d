"""Which sessions leave the device's memory, and how they come back. Device thread only.

A session that has nothing to do is parked: its pages are copied to host memory, and what it was
reserved for it is free for others. The next frame or question brings it back bit for bit.

Where there is no room for it, its frames and questions wait, and it stands in a line for the place
of another whose turn is over, one that has nothing to do first. Turns are what keeps live sessions
that do not fit together from changing places with every frame: they last so long that moving pages
takes a small share of the time.
"""

from collections.abc import Callable

from services.inference_worker import metrics
from services.inference_worker.engine.jobs import FLOWING_S, EngineSession
from services.inference_worker.engine.step_health import StepHealth
from services.inference_worker.kv.trunk import SessionPages
from services.inference_worker.runner.runner import Runner
from sightline.errors import ResourceExhaustedError

YIELD_S = 5.0  # a session idle for so long makes room for a new one
TURN_S = 0.1  # a session that came to the device for frames stays for so long at least
MOVING_SHARE = 0.1  # of the time that changing places for frames may take …
PAUSE_S = 2.0  # … but no longer than this lies between two such changes
STAY_S = 0.5  # no turn is longer when a question waits, or nothing is to be done
OVERDUE_S = 5.0  # frames that wait for so long are as urgent as a question
PATIENCE_S = 10.0  # work that waited for so long is refused
LOOK_S = 0.02  # how often a line looks whether turns are over

ADVICE = "end or pause another, open it with a smaller window, or give the worker more KV memory"


class Parking:
    """Parks sessions after `after_s` without a frame or a question; 0: never any.

    sessions: the core's, by id. health: hears what the device raised. `paused`: while the engine
    warms up nobody is parked. `num_waiting`: parked sessions in the line; any thread may read it.
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
        self.num_waiting = 0
        self._sessions = sessions
        self._cache = cache
        self._runner = runner
        self._after_s = after_s
        self._clock = clock
        self._health = health
        self._move_s = 0.0  # smoothed: what a change of places takes
        self._changed_s = float("-inf")

    def wait_s(self) -> float | None:
        """Until a session is to be parked or the line may move; None when nobody waits."""
        if self.num_waiting:
            return LOOK_S
        idle = self._idle(0.0)
        return max(0.0, idle[0].active_s + self._after_s - self._clock()) if idle else None

    def park_one(self) -> None:
        """Park the session that is idle for longest, if its time has come. One at a time, because
        the frames of others wait for it."""
        for session in self._idle(self._after_s)[:1]:
            self._park(session, "idle")

    def spare_pages(self) -> int:
        """Reserved pages that idle sessions would yield to a new one. Any thread may ask."""
        return sum(self._cost(session) for session in self._idle(self._yield_s))

    def admit(self, cost: int) -> None:
        """Make room for a new session of that cost. Raises ResourceExhaustedError where there is
        none, or where sessions that are open already wait for theirs."""
        if self._line():
            raise ResourceExhaustedError(f"sessions take turns for want of room: {ADVICE}")
        idle = self._idle(self._yield_s)
        if cost <= self._cache.pool.num_unreserved + sum(self._cost(session) for session in idle):
            for session in idle:
                if cost > self._cache.pool.num_unreserved:
                    self._park(session, "room")
        if cost > self._cache.pool.num_unreserved:
            raise ResourceExhaustedError(
                f"no room in the KV pool: a session needs {cost} pages, "
                f"{self._cache.pool.num_unreserved} are not reserved: {ADVICE}"
            )

    def take_turns(self) -> None:
        """Bring back parked sessions that are wanted, in the order of the line, as far as there is
        room or somebody's turn is over. Work that waited too long is refused."""
        line = self._line()
        while line and self._return(line[0]):
            del line[0]
        now_s = self._clock()
        for session in line:
            assert session.wanted_s is not None
            if now_s - session.wanted_s >= PATIENCE_S:
                metrics.RETURNS.labels("refused").inc()
                _refuse(
                    session,
                    ResourceExhaustedError(
                        f"session {session.id} is parked and had no turn for {PATIENCE_S:g} s, "
                        f"because more sessions are in use than fit: {ADVICE}"
                    ),
                )
        if self.num_waiting != len(line):
            self.num_waiting = len(line)
            metrics.WAITING_SESSIONS.set(len(line))

    def forget(self, session: EngineSession) -> None:
        """Let go of a session's copy in host memory."""
        session.parked = None
        self._measure()

    @property
    def _yield_s(self) -> float:
        return min(YIELD_S, self._after_s)

    def _idle(self, least_s: float) -> list[EngineSession]:
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

    def _line(self) -> list[EngineSession]:
        """Who waits: those that are asked or overdue, then the others; among them who is away for
        longest comes first."""
        now_s = self._clock()
        line: list[tuple[bool, float, int, EngineSession]] = []
        for session in self._sessions.values():
            session.leaving = False
            if not session.wanted:
                session.wanted_s = None
                continue
            if session.wanted_s is None:
                session.wanted_s = now_s
            patient = not session.asked and now_s - session.wanted_s < OVERDUE_S
            line.append((patient, session.moved_s, len(line), session))
        return [place[-1] for place in sorted(line)]

    def _return(self, session: EngineSession) -> bool:
        """Whether it no longer waits: it is back, or its return failed and its work with it."""
        missing = self._cost(session) - self._cache.pool.num_unreserved
        leave: list[EngineSession] = []
        for other in self._leavers(session):
            if missing > 0:
                missing -= self._cost(other)
                leave.append(other)
        started_s = self._clock()
        hurried = leave and not session.asked and started_s - self._changed_s < self._pause_s
        if missing > 0 or hurried:
            return False
        for other in leave:  # no answer begins any more; those under way end first
            other.leaving = bool(other.running)
        if any(other.running for other in leave):
            return False
        if not all(self._park(other, "room") for other in leave):
            return False
        pages = self._cache.bring_back(session.trunk)
        try:
            self._runner.clear(session.trunk.reservation.stale)
            self._runner.restore(pages, session.parked)
        except Exception as error:
            self._cache.park(session.trunk)
            metrics.RETURNS.labels("failed").inc()
            self._health.failed("return", error, ask_device=True)
            _refuse(session, error)
            return True
        session.moved_s = self._clock()
        if leave:
            self._changed_s = session.moved_s
            move_s = session.moved_s - started_s
            self._move_s += 0.2 * (move_s - self._move_s) if self._move_s else move_s
        session.wanted_s = None
        metrics.RETURNS.labels("returned").inc()
        self.forget(session)
        return True

    def _leavers(self, claimant: EngineSession) -> list[EngineSession]:
        """Whose place it may take now: first those without answers under way, of these first those
        that have nothing to do."""
        now_s, turn_s = self._clock(), max(TURN_S, self._pause_s)
        leavers: list[tuple[bool, bool, float, int, EngineSession]] = []
        for other in self._sessions.values():
            calm = other.idle and now_s - other.last_frame_s >= FLOWING_S
            stay_s = min(turn_s, STAY_S)
            if not (calm or claimant.asked):
                stay_s = 2 * turn_s if other.asked else turn_s
            if other.parked is None and now_s - other.moved_s >= stay_s:
                since_s = other.active_s if calm else other.moved_s
                leavers.append((bool(other.running), not calm, since_s, len(leavers), other))
        return [leaver[-1] for leaver in sorted(leavers)]

    @property
    def _pause_s(self) -> float:
        return min(PAUSE_S, self._move_s / MOVING_SHARE)

    def _cost(self, session: EngineSession) -> int:
        return session.trunk.shape.cost(self._cache.pool.page_size)

    def _park(self, session: EngineSession, reason: str) -> bool:
        """Whether it could be saved. If not, it is not tried again at once."""
        session.moved_s = self._clock()
        try:
            session.parked = self._runner.save(self._cache.pages(session.trunk))
        except Exception as error:
            session.active_s = self._clock()
            self._health.failed("park", error, ask_device=True)
            return False
        session.tubelet = None  # its visual tokens are on the device
        self._cache.park(session.trunk)
        metrics.PARKS.labels(reason).inc()
        self._measure()
        return True

    def _measure(self) -> None:
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
    session.wanted_s = None
    metrics.FRAMES.labels("refused").inc(len(frames))
    for frame in frames:
        frame.done(error)
    for job in jobs:
        job.sink.failed(error)
