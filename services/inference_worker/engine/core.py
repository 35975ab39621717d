"""Core of the engine: sessions, branches, steps and their results, on the device thread.

Nothing here is thread-safe, and nothing here waits: `Engine` calls it from its one thread, tests
call it by hand. Results go out through callbacks.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from services.inference_worker import metrics
from services.inference_worker.engine.admission import Admission, EngineLimits
from services.inference_worker.engine.batching import BatchBuilder
from services.inference_worker.engine.branching import Branching
from services.inference_worker.engine.execution import Execution
from services.inference_worker.engine.generations import Generations
from services.inference_worker.engine.jobs import (
    FLOWING_S,
    EngineSession,
    FrameJob,
    Generation,
    Newest,
    PastPicture,
)
from services.inference_worker.engine.parking import Parking
from services.inference_worker.engine.relief import Relief, Shares
from services.inference_worker.engine.scheduler import Scheduler, StepLimits, StepPlan
from services.inference_worker.engine.snapshot import EngineSnapshot
from services.inference_worker.engine.step_health import StepHealth
from services.inference_worker.engine.totals import Totals
from services.inference_worker.kv.trunk import SessionPages
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.model.layout import FrameLayout
from services.inference_worker.runner.batch import Run, RunOutput
from services.inference_worker.runner.runner import Runner
from sightline.errors import (
    AlreadyExistsError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
)

log = logging.getLogger(__name__)


class EngineCore:
    """Streams sessions through one model on one device, one step at a time."""

    def __init__(
        self,
        model: StreamingModel,
        runner: Runner,
        cache: SessionPages,
        step_limits: StepLimits,
        limits: EngineLimits,
        clock: Callable[[], float] = time.monotonic,
        memory_shares: Shares = dict,
    ) -> None:
        """memory_shares: see `Relief`."""
        self.model = model
        self.runner = runner
        self.cache = cache
        self.clock = clock
        self.sessions: dict[str, EngineSession] = {}
        self.admission = Admission(model, limits, step_limits.burst_segments)
        self._usual = self.admission.shape()
        self._scheduler = Scheduler(step_limits, model.spec.tubelet)
        self._builder = BatchBuilder(model, cache, runner, limits.reuse_below)
        self.health = StepHealth(
            limits.max_failed_steps,
            runner.is_lost,
            lambda: runner.execute([self._builder.of_nothing()]),
        )
        self._execution = Execution(runner, self.health)
        self._parking = Parking(
            self.sessions, cache, runner, limits.park_after_s, clock, self.health
        )
        self._relief = Relief(self.sessions, cache, runner, self._parking, memory_shares, clock)
        self._branching = Branching(model, cache, runner)
        self._generations = Generations(model, cache, runner, self.health, clock)
        self._num_opened = 0
        self.session_ended: Callable[[], None] = lambda: None
        """Called when a session has ended, before its work hears of that."""
        self.forget_totals()

    def forget_totals(self) -> None:
        """Begin to count anew: what the warm-up took is nobody's."""
        self._totals = Totals()

    def num_admissible(self) -> int:
        """Sessions of the default window that would still be admitted."""
        by_count = self.admission.limits.max_sessions - len(self.sessions)
        by_room = self.cache.num_admissible(self._usual, self._parking.spare_pages())
        return max(0, min(by_count, by_room))

    def snapshot(self) -> EngineSnapshot:
        """The state of this moment."""
        sessions, pool = self.sessions.values(), self.cache.pool
        return EngineSnapshot(
            sessions=frozenset(self.sessions),
            num_admissible=self.num_admissible(),
            num_running=sum(len(session.running) for session in sessions),
            num_waiting=sum(len(session.waiting) for session in sessions),
            pages_used=pool.num_used,
            pages_promised=pool.num_reserved,
            pages_total=pool.num_pages - 1,
            session_pages=self._usual.cost(pool.page_size),
            busy_s=self._totals.busy_s,
            steps=self._totals.steps,
            frames=self._totals.frames,
            queued_s=tuple(self._totals.queued_s),
        )

    # Steps

    def idle_s(self, now_s: float) -> float | None:
        """Seconds in which `advance` has nothing to do: 0 where it has, None until there is more
        work. A step may wait for company, and a session for being parked."""
        resident = self._resident()
        prompt_tokens = self._scheduler.prompt_tokens(resident, now_s)
        for session in resident:
            if session.rebase_due or (
                (session.running or session.waiting)
                and self._branching.due(session, prompt_tokens) is not None
            ):
                return 0.0
        waits_s = self._scheduler.wait_s(resident, now_s), self._parking.wait_s(now_s)
        return min((wait_s for wait_s in waits_s if wait_s is not None), default=None)

    def advance(self) -> None:
        """Do what is due: bring sessions back, open branches, run one step over whatever is ready,
        park a session, and see that memory suffices."""
        self._parking.bring_back()
        self.prepare()
        if self._scheduler.wait_s(self._resident(), self.clock()) == 0.0:
            self.run_step()
        self._parking.park_one()
        self._relief.advance()

    def run_step(self) -> None:
        """Plan and run one step, though it might have waited for company."""
        self._step(self._scheduler.plan(self._resident(), self.clock()))

    def _resident(self) -> list[EngineSession]:
        return [session for session in self.sessions.values() if session.parked is None]

    def prepare(self) -> None:
        """Move windows back that are due, and give waiting jobs their branch when their frames are
        in and there is room."""
        prompt_tokens = self._scheduler.prompt_tokens(self._resident(), self.clock())
        for session in list(self.sessions.values()):
            if session.parked is not None:
                continue
            try:
                if session.rebase_due:
                    self._branching.rebase(session)
                if session.running or session.waiting:
                    self._branching.open(session, prompt_tokens)
            except Exception as error:  # nobody knows how far its keys were moved
                self.health.failed("rebase", error)
                self.end_session(session.id, InternalError("the session could not be moved back"))

    def _step(self, plan: StepPlan) -> None:
        if plan.empty:
            return
        started_s = self.clock()
        runs: list[Run] = []
        owners: list[tuple[EngineSession, list[FrameJob]] | Generation] = []
        for session, tubelets in plan.frames:
            sizes = [tubelet[0].layout.segment_tokens for tubelet in tubelets]
            self._branching.make_room(session, sizes)
            start = len(runs)
            try:
                for tubelet in tubelets:
                    runs.append(self._builder.of_tubelet(session, tubelet))
                    owners.append((session, tubelet))
            except ResourceExhaustedError as error:  # what was promised is not there: our fault
                log.exception("no pages for a frame", extra={"session": session.id})
                taken = tubelets[: len(runs) - start + 1]
                del runs[start:], owners[start:]
                self.end_session(session.id, error)
                for frame in (frame for tubelet in taken for frame in tubelet):
                    frame.done(error)
        # The oldest first: whoever is in the step already need not pause for those who follow.
        for job, count in sorted(plan.branches, key=lambda entry: entry[0].order):
            if job.branch is None or job.branch.closed or job.paused:
                continue  # its session has ended, or it paused for an older one
            try:
                if not self._branching.find_pages(job, count):
                    continue
                runs.append(self._builder.of_branch(job, count))
                owners.append(job)
            except ResourceExhaustedError as error:
                log.exception("no pages for an answer")
                self._generations.drop(job)
                job.sink.failed(error)
        outputs = self._execution.run(runs, self._builder.waiting_tubelets(self.sessions.values()))
        self.cache.end_step()
        now_s = self.clock()
        for owner, output in zip(owners, outputs, strict=True):
            if isinstance(owner, Generation):
                self._generations.advance(owner, output)
            else:
                self._acknowledge(*owner, output, started_s, now_s)
        self._scheduler.ran(plan, now_s - started_s, now_s)
        self._totals.ran(plan, now_s - started_s)
        metrics.KV_PAGES_USED.set(self.cache.pool.num_used)

    # Results

    def _acknowledge(
        self,
        session: EngineSession,
        tubelet: list[FrameJob],
        output: RunOutput | Exception | None,
        started_s: float,
        now_s: float,
    ) -> None:
        if isinstance(output, Exception):  # the session's state can no longer be trusted
            self.end_session(session.id, output)
            for frame in tubelet:
                frame.done(output)
            return
        self._totals.understood(session, tubelet)
        if tubelet[0].replayed:
            session.replayed_s = now_s
        for frame in tubelet:
            frame.done(self._totals.receipt(session, frame, started_s, now_s))

    # Commands

    @contextlib.contextmanager
    def never_parking(self) -> Iterator[None]:
        """Context in which no session is parked."""
        self._parking.paused = True
        try:
            yield
        finally:
            self._parking.paused = False

    def open_session(
        self, session_id: str, window_segments: int = 0, max_pixels: int = 0, priority: int = 0
    ) -> None:
        self.admission.check_window(window_segments)
        if session_id in self.sessions:
            raise AlreadyExistsError(f"session {session_id} is open")
        if len(self.sessions) >= self.admission.limits.max_sessions:
            most = self.admission.limits.max_sessions
            raise ResourceExhaustedError(f"the worker holds {most} sessions")
        shape = self.admission.shape(window_segments, max_pixels)
        self._parking.make_room(shape.cost(self.cache.pool.page_size))
        trunk = self.cache.open_trunk(shape)
        try:
            self.runner.clear(trunk.reservation.stale)
            self.runner.execute([self._builder.of_sink(trunk)])
        except Exception as error:
            self.cache.close_trunk(trunk)
            self.health.failed("sink", error)
            raise
        self.health.succeeded()
        self._num_opened += 1
        session = EngineSession(
            session_id, trunk, self._num_opened, active_s=self.clock(), priority=priority
        )
        self.sessions[session_id] = session
        metrics.SESSIONS.set(len(self.sessions))

    def newest(self, session_id: str) -> Newest | None:
        """The newest frame of a session and what the encoder made of it, see `Runner.embedding`;
        None before the first."""
        session = self._session(session_id)
        tubelet = session.tubelet
        if tubelet is None or not session.trunk.segments:
            return None
        captured_ns = session.trunk.segments[-1].captured_ns[1]
        picture = PastPicture(tubelet.pixels[-1], tubelet.layout, captured_ns)
        return Newest(picture, self.runner.embedding(tubelet))

    def resize_session(self, session_id: str, window_segments: int, layout: FrameLayout) -> int:
        """Give a session another window; 0: the model's own. Returns its segments. `layout`: that
        of the session's frames."""
        session = self._session(session_id)
        wanted = window_segments or self.model.spec.window_segments
        self.admission.check_window(wanted, layout)
        shape = session.trunk.shape
        page_size = self.cache.pool.page_size
        session.active_s = self.clock()
        self._parking.wake(session)
        more = replace(shape, window_segments=wanted).cost(page_size) - shape.cost(page_size)
        if more > 0:
            self._parking.make_room(more)
        if stale := self.cache.resize(session.trunk, wanted):
            self.runner.clear(stale)
        session.wanted_segments = 0
        return wanted

    def rebase(self, session_id: str) -> None:
        """Move a session's window back now."""
        self._branching.rebase(self._session(session_id))

    def close_session(self, session_id: str) -> bool:
        if session_id not in self.sessions:
            return False
        self.end_session(session_id, NotFoundError(f"session {session_id} was released"))
        return True

    def end_session(self, session_id: str, error: Exception) -> None:
        session = self.sessions.pop(session_id)
        self.cache.close_trunk(session.trunk)
        self._parking.forget(session)
        metrics.SESSIONS.set(len(self.sessions))
        self.session_ended()
        for frame in session.frames:
            frame.done(error)
        for job in (*session.running, *session.waiting):
            job.sink.failed(error)

    def reset(self, error: Exception) -> None:
        """End every session, because nobody knows what state they are in. Raises AssertionError
        where pages are lost all the same."""
        for session_id in list(self.sessions):
            self.end_session(session_id, error)
        self.cache.end_step()
        self.cache.check_integrity()

    def _session(self, session_id: str) -> EngineSession:
        session = self.sessions.get(session_id)
        if session is None:
            raise NotFoundError(f"no session {session_id} on this worker")
        return session

    def submit_frame(self, session_id: str, frame: FrameJob) -> None:
        try:
            session = self._session(session_id)
            self.admission.check_frame(session, frame)
        except Exception as error:
            metrics.FRAMES.labels("refused").inc()
            frame.done(error)
            return
        since_s = frame.arrived_s - session.last_frame_s
        if session.frames_submitted and 0 < since_s < FLOWING_S and not frame.replayed:
            known_s = session.frame_interval_s or since_s
            session.frame_interval_s = known_s + 0.2 * (since_s - known_s)
        session.last_frame_s = frame.arrived_s
        session.active_s = self.clock()
        session.frames_submitted += 1
        session.frames.append(frame)

    def submit_branch(self, session_id: str, job: Generation) -> None:
        try:
            session = self._session(session_id)
            queued = sum(other.waiting_tokens for other in self.sessions.values())
            self.admission.check_generation(session, job, queued)
        except Exception as error:
            job.sink.failed(error)
            return
        job.after_frame = (
            session.frames_submitted - session.frames_submitted % self.model.spec.tubelet
        )
        session.active_s = self.clock()
        session.enqueue(job)

    def cancel(self, job: Generation) -> None:
        self._generations.cancel(job)
