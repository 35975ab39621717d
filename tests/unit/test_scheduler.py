"""Who gets the device next: frames first, questions never forgotten."""

import random
from typing import Any

from services.inference_worker.engine.jobs import EngineSession, FrameJob, Generation
from services.inference_worker.engine.scheduler import (
    KEPT_WAITING,
    MOVED,
    MOVED_S,
    QUESTIONS_WAIT_S,
    Scheduler,
    StepLimits,
    StepPlan,
)
from services.inference_worker.kv.trunk import SessionPages, TrunkShape
from services.inference_worker.model.layout import FrameLayout

LAYOUT = FrameLayout(width=32, height=32, vision_tokens=4, segment_tokens=4, segment_advance=4)
LIMITS = StepLimits(
    tokens=64, question_tokens=8, question_sessions=2, burst_segments=1, batch_wait_s=0.005
)
FRAME_STEP_S, QUESTION_STEP_S = 0.009, 0.011
TOKEN_S = 0.0008  # of prompts


class Device:
    """A scheduler, sessions and a clock that steps advance."""

    def __init__(self, num_sessions: int) -> None:
        self.scheduler = Scheduler(LIMITS, tubelet=1)
        self.now_s = 100.0
        shape = TrunkShape(sink_tokens=1, segment_tokens=4, window_segments=2, branch_tokens=64)
        cache = SessionPages(1024, 16)
        self.sessions = [
            EngineSession(f"s{n}", cache.open_trunk(shape)) for n in range(num_sessions)
        ]

    def frame(self, session: int) -> None:
        job = FrameJob(b"", LAYOUT, 0, 0, self.now_s, lambda receipt: None)
        self.sessions[session].frames.append(job)
        self.sessions[session].last_frame_s = self.now_s

    def ask(self, session: int, tokens: int = 1) -> Generation:
        sink: Any = None
        job = Generation([1] * tokens, 64, sink, order=len(self.sessions[session].running))
        job.session = self.sessions[session]
        job.session.running.append(job)
        return job

    def step(self) -> StepPlan:
        plan = self.scheduler.plan(self.sessions, self.now_s)
        for session, tubelets in plan.frames:
            for _ in tubelets:
                session.frames.popleft()
        if not plan.empty:
            took_s = FRAME_STEP_S if plan.frames else QUESTION_STEP_S
            self.now_s += took_s
            self.scheduler.ran(plan, took_s, self.now_s)
        return plan


def test_frames_go_first_until_questions_have_waited_long() -> None:
    device = Device(1)
    device.ask(0)
    assert device.step().branches  # nothing else to do
    waited_s = 0.0
    while waited_s <= QUESTIONS_WAIT_S:
        device.frame(0)
        plan = device.step()
        assert plan.frames, waited_s
        waited_s += FRAME_STEP_S
    device.frame(0)
    assert device.step().branches
    assert device.step().frames  # and never twice while a frame waits


def test_a_question_asked_after_a_long_silence_waits_for_one_step_of_frames() -> None:
    device = Device(1)
    device.frame(0)
    device.step()
    device.ask(0)
    device.frame(0)
    assert device.step().branches


def test_neither_frames_nor_questions_starve() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        device = Device(4)
        for n in range(4):
            device.ask(n)
        last_question_s = last_frame_s = device.now_s
        for _ in range(400):
            for n in range(4):
                if rng.random() < 0.5 and len(device.sessions[n].frames) < 4:
                    device.frame(n)
            waiting = any(session.frames for session in device.sessions)
            plan = device.step()
            if plan.frames:
                last_frame_s = device.now_s
            else:
                last_question_s = device.now_s
            assert device.now_s - last_question_s <= QUESTIONS_WAIT_S + 2 * FRAME_STEP_S
            if waiting:
                assert device.now_s - last_frame_s <= QUESTION_STEP_S + 1e-9


def test_a_step_of_questions_is_short_while_video_flows() -> None:
    device = Device(4)
    for n in range(4):
        device.ask(n, tokens=20)
        device.ask(n)
    device.frame(0)
    device.step()
    plan = device.step()  # no step of questions has been for long
    assert plan.num_tokens == KEPT_WAITING * LIMITS.question_tokens
    asked = {n for n in range(4) for job, _ in plan.branches if job in device.sessions[n].running}
    assert len(asked) == LIMITS.question_sessions
    assert device.step().num_tokens == LIMITS.question_tokens
    device.now_s += 5  # nothing flows any more
    assert device.step().num_tokens == LIMITS.tokens


def test_questions_that_waited_for_a_replay_are_read_in_long_steps_for_a_moment() -> None:
    device = Device(2)
    for _ in range(5):
        device.ask(0, tokens=40)
    device.frame(1)
    device.sessions[0].replayed_s = device.now_s
    device.step()
    assert device.step().num_tokens == min(MOVED * LIMITS.question_tokens, LIMITS.tokens)
    device.now_s += QUESTIONS_WAIT_S
    device.frame(1)
    device.sessions[0].replayed_s -= MOVED_S
    device.step()
    as_long_as_its_frame = int(FRAME_STEP_S / (QUESTION_STEP_S / LIMITS.tokens))
    assert device.step().num_tokens == as_long_as_its_frame


def test_frames_that_would_fill_the_device_leave_half_of_it_to_many_prompts() -> None:
    device = Device(4)
    prompts: list[Generation] = []
    frames_s = read_s = 0.0
    for _ in range(400):
        for n in range(4):
            if not device.sessions[n].frames:
                device.frame(n)
            if len(prompts) < 8:
                prompts.append(device.ask(n, tokens=12))
        plan = device.scheduler.plan(device.sessions, device.now_s)
        took_s = FRAME_STEP_S if plan.frames else plan.num_tokens * TOKEN_S
        for session, _ in plan.frames:
            session.frames.popleft()
        for job, count in plan.branches:
            del job.pending[:count]
            if not job.pending:
                assert job.session is not None
                job.session.running.remove(job)
                prompts.remove(job)
        frames_s += took_s if plan.frames else 0.0
        read_s += 0.0 if plan.frames else took_s
        device.now_s += took_s
        device.scheduler.ran(plan, took_s, device.now_s)
    assert 0.4 < read_s / (read_s + frames_s) < 0.6


def test_an_answer_costs_frames_no_more_where_they_fill_the_device() -> None:
    """What it waited for is not made up in steps: each gives it one token."""
    device = Device(2)
    device.ask(0)
    ran = []
    for _ in range(200):
        for n in range(2):
            if not device.sessions[n].frames:
                device.frame(n)
        ran.append(bool(device.step().frames))
    assert ran.count(False) <= 200 * FRAME_STEP_S / QUESTIONS_WAIT_S
