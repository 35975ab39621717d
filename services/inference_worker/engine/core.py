"""What the device thread does: sessions, branches, steps and their results.

Nothing here is thread-safe, and nothing here waits: `Engine` calls it from its one thread, tests
call it by hand. Results go out through callbacks.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from services.inference_worker import metrics
from services.inference_worker.engine.batching import BatchBuilder
from services.inference_worker.engine.branching import Branching
from services.inference_worker.engine.jobs import (
    FLOWING_S,
    EngineSession,
    FinishReason,
    FrameJob,
    FrameReceipt,
    Generation,
    Seen,
)
from services.inference_worker.engine.parking import Parking
from services.inference_worker.engine.scheduler import Scheduler, StepLimits, StepPlan
from services.inference_worker.engine.step_health import StepHealth
from services.inference_worker.kv.trunk import SessionPages, TrunkShape
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import StreamingModel, most_segments
from services.inference_worker.model.layout import FrameLayout
from services.inference_worker.runner.batch import Run, RunOutput, Tubelet
from services.inference_worker.runner.runner import Runner
from sightline.errors import (
    AlreadyExistsError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Bounds of one worker. `branch_tokens`: of a question with its answer, and what the answers of
    one session share. `waiting_branches`: questions one session may have queued beyond those under
    way; `waiting_tokens`: of all that are queued, but for one of each session. `reuse_below`: a
    tubelet that changed less since the last encoded one is not encoded (`largest_change`); 0: all
    are. `park_after_s`: see `Parking`; `max_failed_steps`: see `StepHealth`."""

    max_sessions: int
    frame_queue: int
    branch_tokens: int
    waiting_branches: int
    max_window_segments: int
    max_failed_steps: int = 5
    waiting_tokens: int = 2**20
    reuse_below: float = 0.0
    park_after_s: float = 0.0


@dataclass(slots=True)
class EngineStats:
    """Running totals, written by the device thread, read by anyone."""

    busy_s: float = 0.0
    steps: int = 0
    frames: int = 0


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
    ) -> None:
        self.model = model
        self.runner = runner
        self.cache = cache
        self.limits = limits
        self.sessions: dict[str, EngineSession] = {}
        self.stats = EngineStats()
        self.recent_queue_s: deque[tuple[float, float]] = deque(maxlen=4096)  # (when, how long)
        self._scheduler = Scheduler(step_limits, model.spec.tubelet)
        self._clock = clock
        self._builder = BatchBuilder(model, cache, runner, limits.reuse_below)
        self.health = StepHealth(
            limits.max_failed_steps,
            runner.is_lost,
            lambda: runner.execute([self._builder.of_nothing()]),
        )
        self._parking = Parking(
            self.sessions, cache, runner, limits.park_after_s, clock, self.health
        )
        self._branching = Branching(model, cache, runner)

    def shape(self, window_segments: int = 0, max_pixels: int = 0) -> TrunkShape:
        """What a session of this window and frame size may hold; 0 means the model's own."""
        limits = self._scheduler.limits
        return self.shape_of(self.model, self.limits, limits, window_segments, max_pixels)

    @staticmethod
    def shape_of(
        model: StreamingModel,
        limits: EngineLimits,
        step: StepLimits,
        window_segments: int = 0,
        max_pixels: int = 0,
    ) -> TrunkShape:
        """`shape`, before there is an engine: the pool is laid out by it."""
        return TrunkShape(
            sink_tokens=len(model.sink_tokens()),
            segment_tokens=model.costliest(max_pixels).segment_tokens,
            window_segments=window_segments or model.spec.window_segments,
            branch_tokens=limits.branch_tokens,
            burst_segments=step.burst_segments,
        )

    def num_admissible(self) -> int:
        """Sessions of the default window that would still be admitted."""
        if self._parking.num_waiting:
            return 0
        by_count = self.limits.max_sessions - len(self.sessions)
        by_room = self.cache.num_admissible(self.shape(), self._parking.spare_pages())
        return max(0, min(by_count, by_room))

    # Steps

    def wait_s(self) -> float | None:
        """How long the next step should wait for company, for a session's turn, or for one to be
        parked; None when there is nothing to do."""
        self._parking.take_turns()
        self.open_branches()
        wait_s = self._scheduler.wait_s(self._resident(), self._clock())
        if wait_s is None or self._parking.num_waiting:
            waits_s = (wait_s, self._parking.wait_s())
            return min((one_s for one_s in waits_s if one_s is not None), default=None)
        return wait_s

    def run_step(self) -> None:
        """StepPlan and run one step over whatever is ready, and park a session that is due."""
        self._step(self._scheduler.plan(self._resident(), self._clock()))
        self._parking.park_one()

    def _resident(self) -> list[EngineSession]:
        return [session for session in self.sessions.values() if session.parked is None]

    def open_branches(self) -> None:
        """Move windows back that are due, and give waiting jobs their branch when their frames are
        in and there is room."""
        prompt_tokens = self._scheduler.prompt_tokens(self._resident(), self._clock())
        for session in list(self.sessions.values()):
            while session.frames and session.frames[0].interpolated:
                self._pass_over(session, session.frames.popleft())
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
        started_s = self._clock()
        runs: list[Run] = []
        owners: list[tuple[EngineSession, list[FrameJob]] | Generation] = []
        groups = {session.id: n for n, session in enumerate(self.sessions.values())}
        for session, tubelets in plan.frames:
            sizes = [tubelet[0].layout.segment_tokens for tubelet in tubelets]
            self._branching.make_room(session, sizes)
            start = len(runs)
            try:
                for tubelet in tubelets:
                    runs.append(self._builder.of_tubelet(groups[session.id], session, tubelet))
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
            session_id = self._under_way(job)
            if session_id is None:
                continue
            try:
                if not self._branching.find_pages(self.sessions[session_id], job, count):
                    continue
                runs.append(self._builder.of_branch(groups[session_id], job, count))
                owners.append(job)
            except ResourceExhaustedError as error:
                log.exception("no pages for an answer", extra={"session": session_id})
                self._drop(job)
                job.sink.failed(error)
        outputs = self._execute(runs, self._builder.waiting_tubelets(self.sessions.values()))
        self.cache.end_step()
        now_s = self._clock()
        for owner, output in zip(owners, outputs, strict=True):
            if isinstance(owner, Generation):
                self._advance_branch(owner, output)
            else:
                self._acknowledge(*owner, output, started_s, now_s)
        self._observe(plan, now_s - started_s, now_s)

    def _execute(self, runs: list[Run], ahead: list[Tubelet]) -> list[RunOutput | Exception | None]:
        """Run a step; if it raises, run each part alone so that one failure hurts one caller."""
        if not runs:
            return []
        try:
            outputs = list[RunOutput | Exception | None](self.runner.execute(runs, ahead))
        except Exception:
            metrics.STEP_FAILURES.labels("batch").inc()
            log.exception("step failed; running its parts alone", extra={"runs": len(runs)})
            outputs = self._execute_alone(runs)
        else:
            self.health.succeeded()
        return outputs

    def _execute_alone(self, runs: list[Run]) -> list[RunOutput | Exception | None]:
        outputs: list[RunOutput | Exception | None] = []
        failure: Exception | None = None
        for run in runs:
            if not self.health.check():
                outputs.append(self.health.failure)
                continue
            try:
                outputs += self.runner.execute([run])
            except Exception as error:
                metrics.STEP_FAILURES.labels("run").inc()
                log.exception("part of a step failed")
                failure = error
                outputs.append(InternalError("the model failed on this input"))
        if len(runs) > sum(isinstance(output, Exception) for output in outputs):
            self.health.succeeded()
        elif failure is not None:
            questions = not any(run.tubelet for run in runs)
            self.health.failed("step", failure, ask_device=questions)
        if self.health.failure is not None:
            return [self.health.failure] * len(runs)
        return outputs

    # Results

    def _advance_branch(self, job: Generation, output: RunOutput | Exception | None) -> None:
        if output is None:  # more of the prompt to come
            return
        if isinstance(output, RunOutput) and not output.finite:
            output = InternalError("the model produced no valid scores")
        if isinstance(output, Exception):
            self._drop(job, clear=self.health.failure is None)
            job.sink.failed(output)
            return
        if job.num_answered == 0:
            assert job.seen is not None
            job.sink.started(job.seen)
        if job.score_only:
            self._drop(job)
            job.sink.scored(output.score)
            return
        if output.token in self.model.stop_tokens:
            self._drop(job)
            job.sink.finished(FinishReason.STOP)
            return
        job.sink.token(output.token)
        job.num_answered += 1
        job.pending = [output.token]
        job.said.append(output.token)
        if job.num_answered >= job.max_tokens:
            self._drop(job)
            job.sink.finished(FinishReason.LENGTH)

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
        historical = len(session.trunk.segments) - 1
        session.reused_segments += historical
        metrics.SEGMENTS_READ.labels("reused").inc(historical)
        if tubelet[0].replayed:
            session.recomputed_segments += 1
            metrics.SEGMENTS_READ.labels("recomputed").inc()
        for frame in tubelet:
            self._receipt(session, frame, started_s, now_s)
        metrics.FRAMES.labels("understood").inc(len(tubelet))
        self.stats.frames += len(tubelet)

    def _pass_over(self, session: EngineSession, frame: FrameJob) -> None:
        """An interpolated frame repeats what the model has seen: its visual tokens stay those of
        the frame before, and time does not advance for the decoder. So the state stays as it is."""
        session.frames_taken += 1
        metrics.FRAMES.labels("interpolated").inc()
        now_s = self._clock()
        self._receipt(session, frame, now_s, now_s)

    def _receipt(
        self, session: EngineSession, frame: FrameJob, started_s: float, now_s: float
    ) -> None:
        queue_s, latency_s = started_s - frame.arrived_s, now_s - frame.arrived_s
        metrics.FRAME_QUEUE.observe(queue_s)
        metrics.FRAME_LATENCY.observe(latency_s)
        self.recent_queue_s.append((now_s, queue_s))
        frame.done(
            FrameReceipt(
                frame.sequence,
                frame.capture_ns,
                queue_s,
                latency_s,
                session.reused_segments,
                session.recomputed_segments,
                frame.replayed,
            )
        )

    def _observe(self, plan: StepPlan, step_s: float, now_s: float) -> None:
        self._scheduler.ran(plan, step_s, now_s)
        self.stats.busy_s += step_s
        self.stats.steps += 1
        metrics.STEP_SECONDS.observe(step_s)
        metrics.STEP_TOKENS.observe(plan.num_tokens)
        metrics.STEP_SEGMENTS.observe(sum(len(tubelets) for _, tubelets in plan.frames))
        metrics.KV_PAGES_USED.set(self.cache.pool.num_used)

    def _drop(self, job: Generation, clear: bool = False) -> None:
        """Take a running job off its session and give its pages back. `clear`: they may hold what
        is no number, and the session's next steps read over them."""
        assert job.branch is not None
        assert job.session is not None
        if clear:
            self.runner.clear(job.branch.pages)
        job.session.running.remove(job)
        job.session.active_s = self._clock()
        self.cache.close_branch(job.branch)

    def _under_way(self, job: Generation) -> str | None:
        """The session of a planned job; None when that has ended, or it paused for an older one."""
        if job.branch is None or job.branch.closed or job.paused or job.session is None:
            return None
        return job.session.id

    # Commands

    def open_session(self, session_id: str, window_segments: int = 0, max_pixels: int = 0) -> None:
        if not 0 <= window_segments <= self.limits.max_window_segments:
            raise InvalidArgumentError(
                f"window of {window_segments} segments; 1 to {self.limits.max_window_segments}"
            )
        self._check_range(
            window_segments or self.model.spec.window_segments, self.model.spec.layout
        )
        if session_id in self.sessions:
            raise AlreadyExistsError(f"session {session_id} is open")
        if len(self.sessions) >= self.limits.max_sessions:
            raise ResourceExhaustedError(f"the worker holds {self.limits.max_sessions} sessions")
        shape = self.shape(window_segments, max_pixels)
        self._parking.admit(shape.cost(self.cache.pool.page_size))
        trunk = self.cache.open_trunk(shape)
        try:
            self.runner.clear(trunk.reservation.stale)
            self.runner.execute([self._builder.of_sink(trunk)])
        except Exception as error:
            self.cache.close_trunk(trunk)
            self.health.failed("sink", error)
            raise
        self.health.succeeded()
        now_s = self._clock()
        self.sessions[session_id] = EngineSession(session_id, trunk, active_s=now_s, moved_s=now_s)
        metrics.SESSIONS.set(len(self.sessions))

    def _check_range(self, window_segments: int, layout: FrameLayout) -> None:
        """Raise InvalidArgumentError for a window beyond what the model was trained for."""
        most = most_segments(self.model, layout)
        if window_segments > most:
            raise InvalidArgumentError(
                f"window of {window_segments} segments; with frames of {layout.width}×"
                f"{layout.height}, {most} fit into the positions this model was trained for"
            )

    @property
    def branch_tokens(self) -> int:
        """The most tokens of one question and its answer."""
        beyond = self.model.spec.branch_positions
        return min(self.limits.branch_tokens, beyond) if beyond else self.limits.branch_tokens

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
            if len(session.frames) >= self.limits.frame_queue:
                raise ResourceExhaustedError("more frames in flight than the credit allows")
            if frame.layout.segment_tokens > session.trunk.shape.segment_tokens:
                raise InvalidArgumentError("the frame is larger than its session was opened for")
            self._check_range(session.trunk.shape.window_segments, frame.layout)
        except Exception as error:
            metrics.FRAMES.labels("refused").inc()
            frame.done(error)
            return
        since_s = frame.arrived_s - session.last_frame_s
        if session.frames_submitted and 0 < since_s < FLOWING_S:
            known_s = session.frame_interval_s or since_s
            session.frame_interval_s = known_s + 0.2 * (since_s - known_s)
        session.last_frame_s = frame.arrived_s
        session.active_s = self._clock()
        session.frames_submitted += 1
        session.frames.append(frame)

    def submit_branch(self, session_id: str, job: Generation) -> None:
        try:
            session = self._session(session_id)
            length = len(job.pending) + job.max_tokens
            if length > self.branch_tokens:
                raise InvalidArgumentError(
                    f"question and answer need {length} tokens; {self.branch_tokens} fit"
                )
            if len(session.waiting) >= self.limits.waiting_branches:
                raise ResourceExhaustedError("too many questions are waiting on this session")
            queued = sum(other.waiting_tokens for other in self.sessions.values())
            if session.waiting and queued + len(job.pending) > self.limits.waiting_tokens:
                raise ResourceExhaustedError("too much text is waiting on this worker")
        except Exception as error:
            job.sink.failed(error)
            return
        job.after_frame = (
            session.frames_submitted - session.frames_submitted % self.model.spec.tubelet
        )
        session.active_s = self._clock()
        session.enqueue(job)

    def cancel(self, job: Generation) -> None:
        if job.branch is not None:
            if job.branch.closed:
                return
            self._drop(job, clear=not job.num_answered)
        elif job.session is not None and job in job.session.waiting:
            job.session.withdraw(job)
        else:
            return
        job.sink.finished(FinishReason.CANCELLED)

    def warm_up(self) -> None:
        """Run every batch bucket once, so that no user pays for first-use costs: frames of 1, 2,
        4 … sessions together, a prompt, a decode step, a rebase. Raises ModelError for weights that
        give no numbers."""
        self._parking.paused = True
        ended = _Discard()
        spec = self.model.spec
        blank = bytes(spec.layout.frame_bytes)
        count, names = 1, list[str]()
        while count <= min(16, self.num_admissible() + len(names)):
            with contextlib.suppress(ResourceExhaustedError):
                while len(names) < count:
                    self.open_session(f"warm-up {len(names)}")
                    names.append(f"warm-up {len(names)}")
            for session in self.sessions.values():
                session.frames.extend(
                    FrameJob(blank, spec.layout, 0, 0, self._clock(), done=ended.understood)
                    for _ in range(spec.tubelet)
                )
            self.run_step()
            ended.check(spec.name, self.runner.dtype)
            count *= 2
        for session in self.sessions.values():
            job = Generation(self.model.question_tokens([], "warm up"), 2, ended)
            session.enqueue(job)
        sessions = list(self.sessions.values())
        while any(session.waiting or session.running for session in sessions):
            self.open_branches()
            self.run_step()
        ended.check(spec.name, self.runner.dtype)
        if sessions:
            self._branching.rebase(sessions[0])
        for name in names:
            self.end_session(name, UnavailableError("warm-up is over"))
        self._parking.paused = False
        self.stats = EngineStats()
        self.recent_queue_s.clear()
        self.cache.check_integrity()


class _Discard:
    """A sink for results nobody wants, but for the first failure."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def check(self, name: str, dtype: torch.dtype) -> None:
        """Raise ModelError where something failed."""
        if self.error is not None:
            kind = str(dtype).removeprefix("torch.")
            raise ModelError(
                f"{name} cannot answer: {self.error}. Its weights are spoilt, or do not fit into "
                f"{kind}: WORKER_DTYPE chooses another"
            )

    def understood(self, receipt: FrameReceipt | Exception) -> None:
        if isinstance(receipt, Exception):
            self.failed(receipt)

    def started(self, seen: Seen) -> None: ...
    def token(self, token: int) -> None: ...
    def scored(self, score: float) -> None: ...
    def finished(self, reason: FinishReason) -> None: ...

    def failed(self, error: Exception) -> None:
        self.error = self.error or error
