"""What runs in the next step. No tensors and no clock of its own here.

Frames go first. A step of frames packs one segment or more of every session that has one, oldest
first, under a token budget; a lone segment waits a few milliseconds for others, because a shared
step costs little more than its own. Questions do not ride along: their branches remember older
frames, and reading those would slow the new one down. A step of questions packs decode tokens and
parts of prompts; it runs when no frame waits, and every now and then even if some do. While video
flows it is kept short and to few sessions, and not begun when a frame is due before it would end,
so that a frame finds the device free however many people ask.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice, zip_longest
from typing import Any, Protocol

from services.inference_worker.kv.pool import Branch, Trunk
from services.inference_worker.model.layout import FrameLayout
from services.inference_worker.model.sampling import GREEDY, Sampling


class FinishReason(Enum):
    STOP = "stop"  # the model ended its answer
    LENGTH = "length"  # the token limit did
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class FrameReceipt:
    """How one frame went: seconds it waited for the engine, and seconds until it was understood."""

    sequence: int
    capture_ns: int
    queue_s: float
    latency_s: float
    reused_segments: int
    recomputed_segments: int
    replayed: bool = False


@dataclass(slots=True, eq=False)
class FrameJob:
    """One frame at the engine. `arrived_s` is monotonic; `done` is called from the device thread
    with a receipt, or with the error that ended its session. `picture`: the runner's, of the
    tubelet that begins with this frame, if it was made before its step."""

    pixels: bytes
    layout: FrameLayout
    capture_ns: int
    sequence: int
    arrived_s: float
    done: Callable[[FrameReceipt | Exception], None]
    interpolated: bool = False
    replayed: bool = False
    picture: Any = None


@dataclass(frozen=True, slots=True)
class Seen:
    """The video a branch was given: capture times of its oldest and newest frame, and how many."""

    first_capture_ns: int
    last_capture_ns: int
    num_frames: int


class BranchSink(Protocol):
    """Where a branch's results go. Called from the device thread; must return at once."""

    def started(self, seen: Seen) -> None:
        """The prompt is understood; a token or a score follows."""
        ...

    def token(self, token: int) -> None: ...

    def scored(self, score: float) -> None:
        """For `score_only` jobs: the probability of yes, 0…1. Nothing follows."""
        ...

    def finished(self, reason: FinishReason) -> None:
        """The answer is complete. Nothing follows."""
        ...

    def failed(self, error: Exception) -> None:
        """Nothing follows."""
        ...


@dataclass(slots=True, eq=False)
class BranchJob:
    """A question or a watch's check. `pending` tokens still have to run; the last one's logits
    give the next token. `after_frame`: frames submitted to the session before it was asked, which
    it must see. `max_tokens` bounds the answer alone. `before`: as of a `Prompt`. `needs_frame`: it
    fails where no frame was understood and none is on its way. `said`: every token so far, of the
    prompt and of the answer. `paused`: its branch gave its pages back, and reads all of that again
    when there is room."""

    pending: list[int]
    max_tokens: int
    sink: BranchSink
    score_only: bool = False
    sampling: Sampling = GREEDY
    before: int = 0
    needs_frame: bool = False
    after_frame: int = 0
    branch: Branch | None = None
    seen: Seen | None = None
    session: "SessionState | None" = None  # that it was asked of
    order: int = 0  # of opening
    paused: bool = False
    num_answered: int = 0
    generator: Any = None  # the runner's random state, made on first use
    prompt_tokens: int = 0
    said: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.pending)
        self.said = list(self.pending)

    def pause(self) -> None:
        """Begin again with all that was said, which gives the same token next."""
        self.paused = True
        self.pending = list(self.said)


@dataclass(slots=True, eq=False)
class SessionState:
    """A session on the device thread. `frames_taken` counts frames that left the queue.
    `waiting` jobs have no branch yet, `waiting_tokens` in all; `running` ones do. `picture`: the
    runner's, of the newest encoded tubelet. `active_s`: when it last had a frame or a question, or
    ended an answer. `parked`: the runner's copy of its pages, while it has none. `moved_s`: when it
    came to the device, or left it. `wanted_s`: since when its work waits for its pages. `leaving`:
    it gets no new branches, because its place goes to another."""

    id: str
    trunk: Trunk
    frames: deque[FrameJob] = field(default_factory=deque)
    waiting: deque[BranchJob] = field(default_factory=deque)
    running: list[BranchJob] = field(default_factory=list)
    waiting_tokens: int = 0
    frames_submitted: int = 0
    frames_taken: int = 0
    reused_segments: int = 0
    recomputed_segments: int = 0
    last_frame_s: float = 0.0
    frame_interval_s: float = 0.0  # smoothed; 0: unknown
    rebase_due: bool = False
    first_capture_ns: int | None = None
    picture: Any = None
    active_s: float = 0.0
    parked: Any = None
    moved_s: float = 0.0
    wanted_s: float | None = None
    leaving: bool = False

    def enqueue(self, job: BranchJob) -> None:
        """Let a job wait for its branch."""
        job.session = self
        self.waiting.append(job)
        self.waiting_tokens += job.prompt_tokens

    def dequeue(self) -> BranchJob:
        """The job that waits for longest; it waits no more."""
        job = self.waiting.popleft()
        self.waiting_tokens -= job.prompt_tokens
        return job

    def withdraw(self, job: BranchJob) -> None:
        """Let a waiting job wait no more."""
        self.waiting.remove(job)
        self.waiting_tokens -= job.prompt_tokens

    @property
    def unread_tokens(self) -> int:
        """Of prompts that are being read."""
        reading = (len(job.pending) for job in self.running if not job.paused)
        return sum(count for count in reading if count > 1)

    @property
    def idle(self) -> bool:
        """Nothing to do."""
        return not (self.frames or self.waiting or self.running)

    @property
    def wanted(self) -> bool:
        """Parked, with work that needs its pages; interpolated frames do not."""
        if self.parked is None:
            return False
        return bool(self.waiting) or any(not frame.interpolated for frame in self.frames)

    @property
    def asked(self) -> bool:
        """Somebody waits for an answer; checks of watches can wait."""
        return any(not job.score_only for job in (*self.running, *self.waiting))


@dataclass(slots=True)
class Plan:
    """The next step. `frames`: per session, whole tubelets to append; `branches`: a job and how
    many of its pending tokens run now."""

    frames: list[tuple[SessionState, list[list[FrameJob]]]] = field(default_factory=list)
    branches: list[tuple[BranchJob, int]] = field(default_factory=list)
    num_tokens: int = 0

    @property
    def empty(self) -> bool:
        return not self.frames and not self.branches


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """Bounds of one step. While video flows, a step of questions holds `question_tokens`, or a
    few times that, and reads the windows of at most `question_sessions`.
    `burst_segments` is for sessions that are read faster than live; `batch_wait_s` is how long a
    segment may wait for company."""

    tokens: int
    question_tokens: int
    question_sessions: int
    burst_segments: int
    batch_wait_s: float


FLOWING_S = 1.0  # a session whose last frame is younger is live
PARTIAL_S = 0.25  # a tubelet that gets no more frames for so long, or two intervals, goes as it is
QUESTIONS_WAIT_S = 0.03  # frames keep questions from the device no longer than this
KEPT_WAITING = 3  # a step of questions that frames kept waiting holds so much more
LATE_S = 0.003  # how long a step of questions waits for a frame that is overdue


class Scheduler:
    """Plans steps over the sessions it is given. Called by the device thread only."""

    def __init__(self, limits: StepLimits, tubelet: int) -> None:
        self.limits = limits
        self.tubelet = tubelet
        self._frames_ran_last = False
        self._questions_ran_s = float("-inf")
        # Smoothed duration of steps of questions: of answers alone, and with prompts.
        self._question_step_s = {False: 0.0, True: 0.0}
        self._turn = 0

    def wait_s(self, sessions: list[SessionState], now_s: float) -> float | None:
        """How long the next step should wait: 0 to run now, None when there is nothing to run."""
        ready = self._ready(sessions, now_s)
        asked = any(session.running for session in sessions)
        if asked:
            return 0.0 if ready else self._hold_s(sessions, now_s)
        if not ready:
            partial = [self._patience_s(session, now_s) for session in sessions if session.frames]
            return min(partial, default=None)
        # Sessions whose next frame is likely to come within the wait are worth waiting for.
        expected = sum(now_s - session.last_frame_s < FLOWING_S for session in sessions)
        if len(ready) >= expected:
            return 0.0
        oldest = min(session.frames[0].arrived_s for session in ready)
        return max(0.0, oldest + self.limits.batch_wait_s - now_s)

    def _ready(self, sessions: list[SessionState], now_s: float) -> list[SessionState]:
        """Those with a whole tubelet, or with a part of one that waited long enough."""
        return [
            session
            for session in sessions
            if len(session.frames) >= self.tubelet
            or (session.frames and self._patience_s(session, now_s) == 0.0)
        ]

    def _patience_s(self, session: SessionState, now_s: float) -> float:
        """How long a part of a tubelet still waits for the rest: a still picture, and the last
        frame of a video, are completed by repeating them."""
        until_s = session.last_frame_s + max(PARTIAL_S, 2 * session.frame_interval_s)
        return max(0.0, until_s - now_s)

    def _hold_s(self, sessions: list[SessionState], now_s: float) -> float:
        """How long a step of questions leaves the device to a frame that is about to come. Right
        after a step of frames it does not: where many sessions stream, a frame is always due."""
        if self._frames_ran_last:
            return 0.0
        due_s = [
            session.last_frame_s + session.frame_interval_s
            for session in sessions
            if session.frame_interval_s and now_s - session.last_frame_s < FLOWING_S
        ]
        coming = [at_s for at_s in due_s if now_s < at_s + LATE_S]
        prompts = any(len(job.pending) > 1 for session in sessions for job in session.running)
        if not coming or min(coming) > now_s + self._question_step_s[prompts]:
            return 0.0
        return min(coming) + LATE_S - now_s

    def plan(self, sessions: list[SessionState], now_s: float) -> Plan:
        """The next step, empty when nothing can run."""
        plan = Plan()
        jobs = [(each, job) for each in sessions for job in each.running if not job.paused]
        overdue = self._frames_ran_last and now_s > self._questions_ran_s + QUESTIONS_WAIT_S
        if not (jobs and overdue):
            self._plan_frames(plan, self._ready(sessions, now_s))
        if jobs and not plan.frames:
            self._plan_questions(plan, jobs, _flowing(sessions, now_s), overdue)
        return plan

    def prompt_tokens(self, sessions: list[SessionState], now_s: float) -> int:
        """How much of a session's prompts is worth opening branches for: what a step can read.
        Questions that are read later should see newer frames."""
        if not _flowing(sessions, now_s):
            return self.limits.tokens
        return KEPT_WAITING * self.limits.question_tokens

    def ran(self, plan: Plan, step_s: float, now_s: float) -> None:
        """A planned step has run, took so long and ended now."""
        self._frames_ran_last = bool(plan.frames)
        if not plan.frames:
            self._questions_ran_s = now_s
            prompts = any(count > 1 for _, count in plan.branches)
            self._question_step_s[prompts] += 0.2 * (step_s - self._question_step_s[prompts])

    def _plan_questions(
        self,
        plan: Plan,
        jobs: list[tuple[SessionState, BranchJob]],
        flowing: bool,
        overdue: bool,
    ) -> None:
        """A token of every answer under way, or of each session's oldest ones, then prompts, one
        after the other: prompts that share steps would all be read late."""
        # Long prompts must be read in time where frames leave few steps; and it is many questions
        # that would delay frames, one alone is read in fewer steps.
        times = KEPT_WAITING if overdue else 2 if len(jobs) == 1 else 1
        budget = times * self.limits.question_tokens if flowing else self.limits.tokens
        windows = self.limits.question_sessions if flowing else len(jobs)
        self._turn += 1
        jobs.sort(key=lambda entry: entry[1].order)
        answers = self._in_turn([entry for entry in jobs if len(entry[1].pending) == 1], windows)
        prompts = [entry for entry in jobs if len(entry[1].pending) > 1]
        read: set[str] = set()
        for session, job in answers + prompts:
            if session.id not in read and len(read) >= windows:
                continue
            count = min(len(job.pending), budget)
            if count:
                read.add(session.id)
                plan.branches.append((job, count))
                plan.num_tokens += count
                budget -= count

    def _in_turn(
        self, answers: list[tuple[SessionState, BranchJob]], windows: int
    ) -> list[tuple[SessionState, BranchJob]]:
        """Answers, the oldest first: the oldest of every session, then the second of each, and so
        on; who is first among sessions changes with every step."""
        if not answers:
            return []
        by_session: dict[str, list[tuple[SessionState, BranchJob]]] = {}
        for entry in answers:
            by_session.setdefault(entry[0].id, []).append(entry)
        lists = list(by_session.values())
        first = self._turn * windows % len(lists)
        rounds = zip_longest(*lists[first:], *lists[:first])
        return [entry for entries in rounds for entry in entries if entry is not None]

    def _plan_frames(self, plan: Plan, ready: list[SessionState]) -> None:
        ready.sort(key=lambda session: session.frames[0].arrived_s)
        for turn in range(self.limits.burst_segments):
            for session in ready:
                start = turn * self.tubelet
                if turn and len(session.frames) < start + self.tubelet:
                    continue
                tubelet = list(islice(session.frames, start, start + self.tubelet))
                size = tubelet[0].layout.segment_tokens
                if plan.frames and plan.num_tokens + size > self.limits.tokens:
                    return
                if turn == 0:
                    plan.frames.append((session, [tubelet]))
                else:
                    next(entry for entry in plan.frames if entry[0] is session)[1].append(tubelet)
                plan.num_tokens += size


def _flowing(sessions: list[SessionState], now_s: float) -> bool:
    """Whether one of them is live."""
    return any(now_s - session.last_frame_s < FLOWING_S for session in sessions)
