"""Scheduler: what runs in the next step. No tensors and no clock of its own here.

Frames go first. A step of frames packs one segment or more of every session that has one, oldest
first, under a token budget; a lone segment waits a few milliseconds for others, because a shared
step costs little more than its own. Questions do not ride along: their branches remember older
frames, and reading those would slow the new one down. A step of questions packs decode tokens and
parts of prompts; it runs when no frame waits, and every now and then even if some do. While video
flows it is kept short and to few sessions, and not begun when a frame is due before it would end,
so that a frame finds the device free however many people ask. Where frames alone would fill the
device, it is as long as the frames were that questions waited for: each then has half of it, and
the sessions' frame rates follow the load.
"""

from dataclasses import dataclass, field
from itertools import islice, zip_longest

from services.inference_worker.engine.jobs import FLOWING_S, EngineSession, FrameJob, Generation


@dataclass(slots=True)
class StepPlan:
    """The next step. `frames`: per session, whole tubelets to append; `branches`: a job and how
    many of its pending tokens run now."""

    frames: list[tuple[EngineSession, list[list[FrameJob]]]] = field(default_factory=list)
    branches: list[tuple[Generation, int]] = field(default_factory=list)
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


PARTIAL_S = 0.25  # a tubelet that gets no more frames for so long, or two intervals, goes as it is
QUESTIONS_WAIT_S = 0.03  # frames keep questions from the device no longer than this
BACKGROUND_WAIT_S = 1.0  # and what is asked in the background no longer than this
KEPT_WAITING = 3  # a step of questions that frames kept waiting holds so much more
MOVED = 8  # and so much more where they waited for a window to be replayed
MOVED_S = 1.0  # for so long after that
SOON_S = 1e-6
LATE_S = 0.003  # how long a step of questions waits for a frame that is overdue
MOST_OWED_S = 0.1  # that a step of questions is longer for the frames it waited for


class _Owed:
    """Device time that frames owe to the prompts which waited for them."""

    def __init__(self) -> None:
        self._owed_s = 0.0
        self._token_s = 0.0  # smoothed, of prompts; 0: unknown

    @property
    def tokens(self) -> int:
        """Tokens of prompts that are read in that time."""
        return int(self._owed_s / self._token_s) if self._token_s else 0

    def frames_ran(self, step_s: float) -> None:
        self._owed_s = min(MOST_OWED_S, self._owed_s + step_s)

    def prompts_ran(self, step_s: float, num_tokens: int) -> None:
        token_s = step_s / num_tokens
        self._token_s += (0.2 if self._token_s else 1.0) * (token_s - self._token_s)
        self._owed_s = max(0.0, self._owed_s - step_s)

    def settle(self) -> None:
        """Nothing waits: nothing is owed."""
        self._owed_s = 0.0


class Scheduler:
    """Plans steps over the sessions it is given. Called by the device thread only."""

    def __init__(self, limits: StepLimits, tubelet: int) -> None:
        self.limits = limits
        self.tubelet = tubelet
        self._frames_ran_last = False
        self._questions_ran_s = float("-inf")
        # Smoothed duration of steps of questions: of answers alone, and with prompts.
        self._question_step_s = {False: 0.0, True: 0.0}
        self._owed = _Owed()
        self._prompts_wait = False
        self._turn = 0

    def wait_s(self, sessions: list[EngineSession], now_s: float) -> float | None:
        """Seconds that the next step should wait: 0 to run now, None when there is nothing to
        run."""
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
        return left_s(oldest + self.limits.batch_wait_s, now_s)

    def _ready(self, sessions: list[EngineSession], now_s: float) -> list[EngineSession]:
        """Sessions with a whole tubelet, or with a part of one that waited long enough."""
        return [
            session
            for session in sessions
            if len(session.frames) >= self.tubelet
            or (session.frames and self._patience_s(session, now_s) == 0.0)
        ]

    def _patience_s(self, session: EngineSession, now_s: float) -> float:
        """Seconds that a part of a tubelet still waits for the rest: a still picture, and the last
        frame of a video, are completed by repeating them."""
        until_s = session.last_frame_s + max(PARTIAL_S, 2 * session.frame_interval_s)
        return left_s(until_s, now_s)

    def _hold_s(self, sessions: list[EngineSession], now_s: float) -> float:
        """Seconds that a step of questions leaves the device to a frame that is about to come.
        Right after a step of frames it does not: where many sessions stream, a frame is always
        due."""
        if self._frames_ran_last:
            return 0.0
        due_s = [
            session.last_frame_s + session.frame_interval_s
            for session in sessions
            if session.frame_interval_s and now_s - session.last_frame_s < FLOWING_S
        ]
        coming = [at_s for at_s in due_s if now_s < at_s + LATE_S]
        prompts = any(job.num_unread > 1 for session in sessions for job in session.running)
        if not coming or min(coming) > now_s + self._question_step_s[prompts]:
            return 0.0
        return left_s(min(coming) + LATE_S, now_s)

    def plan(self, sessions: list[EngineSession], now_s: float) -> StepPlan:
        """The next step, empty when nothing can run."""
        plan = StepPlan()
        jobs = [job for each in sessions for job in each.running if not job.paused]
        asked = [job for job in jobs if not job.background]
        patience_s = QUESTIONS_WAIT_S if asked else BACKGROUND_WAIT_S
        jobs = asked or jobs
        self._prompts_wait = any(job.num_unread > 1 for job in jobs)
        overdue = self._frames_ran_last and now_s > self._questions_ran_s + patience_s
        if not (jobs and overdue):
            self._plan_frames(plan, self._ready(sessions, now_s))
        if jobs and not plan.frames:
            flowing = _flowing(sessions, now_s)
            if not flowing or overdue or _moved(sessions, now_s):
                budget = self.prompt_tokens(sessions, now_s)
            else:  # many questions would delay frames; one alone is read in fewer steps
                budget = (2 if len(jobs) == 1 else 1) * self.limits.question_tokens
            self._plan_questions(plan, jobs, flowing, budget)
        return plan

    def prompt_tokens(self, sessions: list[EngineSession], now_s: float) -> int:
        """Tokens of a session's prompts that are worth opening branches for: what a step can read.
        Questions that are read later should see newer frames."""
        if not _flowing(sessions, now_s):
            return self.limits.tokens
        kept_waiting = KEPT_WAITING * self.limits.question_tokens
        moved = MOVED * self.limits.question_tokens if _moved(sessions, now_s) else 0
        return max(kept_waiting, min(max(moved, self._owed.tokens), self.limits.tokens))

    def ran(self, plan: StepPlan, step_s: float, now_s: float) -> None:
        """A planned step has run, took so long and ended now."""
        self._frames_ran_last = bool(plan.frames)
        if not self._prompts_wait:
            self._owed.settle()
        elif plan.frames:
            self._owed.frames_ran(step_s)
        if not plan.frames:
            self._questions_ran_s = now_s
            prompts = any(count > 1 for _, count in plan.branches)
            self._question_step_s[prompts] += 0.2 * (step_s - self._question_step_s[prompts])
            if prompts:
                self._owed.prompts_ran(step_s, plan.num_tokens)

    def _plan_questions(
        self,
        plan: StepPlan,
        jobs: list[Generation],
        flowing: bool,
        budget: int,
    ) -> None:
        """A token of every answer under way, or of each session's oldest ones, then prompts, one
        after the other: prompts that share steps would all be read late."""
        windows = self.limits.question_sessions if flowing else len(jobs)
        if self._owed.tokens:  # as many more as the step is longer
            usual = KEPT_WAITING * self.limits.question_tokens
            windows *= max(1, budget // usual)
        self._turn += 1
        jobs.sort(key=lambda job: job.order)
        answers = self._in_turn([job for job in jobs if job.num_unread == 1], windows)
        prompts = [job for job in jobs if job.num_unread > 1]
        read: set[EngineSession | None] = set()
        for job in answers + prompts:
            if not job.alone and job.session not in read and len(read) >= windows:
                continue
            count = job.num_next(budget)
            if count:
                if not job.alone:  # it reads no window
                    read.add(job.session)
                plan.branches.append((job, count))
                plan.num_tokens += count
                budget -= count

    def _in_turn(self, answers: list[Generation], windows: int) -> list[Generation]:
        """Answers, the oldest first: the oldest of every session, then the second of each, and so
        on; who is first among sessions changes with every step."""
        if not answers:
            return []
        by_session: dict[EngineSession | None, list[Generation]] = {}
        for job in answers:
            by_session.setdefault(job.session, []).append(job)
        lists = list(by_session.values())
        first = self._turn * windows % len(lists)
        rounds = zip_longest(*lists[first:], *lists[:first])
        return [job for jobs in rounds for job in jobs if job is not None]

    def _plan_frames(self, plan: StepPlan, ready: list[EngineSession]) -> None:
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


def _flowing(sessions: list[EngineSession], now_s: float) -> bool:
    """Whether one of them is live."""
    return any(now_s - session.last_frame_s < FLOWING_S for session in sessions)


def _moved(sessions: list[EngineSession], now_s: float) -> bool:
    """Whether questions waited until one of them had its window again."""
    return any(
        now_s - session.replayed_s < MOVED_S and (session.running or session.waiting)
        for session in sessions
    )


def left_s(until_s: float, now_s: float) -> float:
    """Seconds until a moment; none where so few are left that a clock may not tell them."""
    left_s = until_s - now_s
    return left_s if left_s > SOON_S else 0.0
