"""Questions' branches: pages as they grow, answers that pause, windows that move under them."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from services.inference_worker.engine.admission import EngineLimits
from services.inference_worker.engine.core import EngineCore
from services.inference_worker.engine.jobs import FinishReason, FrameJob, FrameReceipt, Generation
from services.inference_worker.engine.scheduler import StepLimits
from services.inference_worker.kv.trunk import SessionPages
from services.inference_worker.model.family import StreamSpec
from services.inference_worker.model.layout import FrameLayout, SegmentTokens
from services.inference_worker.model.sampling import Sampling
from services.inference_worker.runner.batch import Run, RunOutput
from sightline.errors import ResourceExhaustedError
from tests.unit.tiny import Bench, Recorder, random_picture, tiny_model

QUESTION = [1, 10, 11, 12, 7]


def bench_of(*, horizon: int = 4096, window: int = 4, **options: Any) -> Bench:
    """Of a model that never ends its answers by itself."""
    model = tiny_model(window=window, horizon=horizon)
    model.stop_tokens = frozenset()
    return Bench(model, **options)


def positions(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The largest position of every run from now on."""
    found: list[int] = []
    execute = bench.runner.execute

    def noted(runs: list[Run], *rest: Any) -> Any:
        found.extend(max(place[0] for place in run.positions) for run in runs)
        return execute(runs, *rest)

    monkeypatch.setattr(bench.runner, "execute", noted)
    return found


# A window that moves back under running answers


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_a_rebase_does_not_wait_for_answers_and_changes_none(kv_dtype: str) -> None:
    """Of two streams with the same frames and questions one is moved back on the way."""
    said, moved = [], []
    for rebases in (False, True):
        rng = np.random.default_rng(1)
        bench = bench_of(kv_dtype=kv_dtype)
        bench.open("s")
        for number in range(8):
            bench.push("s", random_picture(rng), number)
        bench.run()
        session = bench.core.sessions["s"]
        recorders = [bench.ask("s", [*QUESTION, n], max_tokens=12) for n in range(3)]
        for number in range(8, 14):
            bench.turn()
            bench.turn()
            if number == 10:
                assert len(session.running) == 3
                session.rebase_due = rebases
            bench.push("s", random_picture(rng), number)
            bench.turn()
            bench.cache.check_integrity()
        bench.run()
        moved.append(session.trunk.cursor)
        said.append([recorder.tokens for recorder in recorders])
        assert all(recorder.reason == FinishReason.LENGTH for recorder in recorders)
    assert moved[1] < moved[0]
    assert said[1] == said[0]


def test_the_window_under_a_rebase_is_what_it_is_without_answers() -> None:
    """C, with copies: the next question is answered as in a session that nobody had asked when it
    was moved. Copied pages hold the same numbers as those that were rotated in place."""
    logits = []
    for asked in (False, True):
        rng = np.random.default_rng(2)
        bench = bench_of(horizon=20, window=3)
        bench.open("s")
        session = bench.core.sessions["s"]
        cursors = []
        for number in range(40):
            if asked and number % 5 == 0:
                bench.ask("s", QUESTION, max_tokens=30)
            bench.push("s", random_picture(rng), number)
            while session.frames or bench.engine._inbox:
                bench.turn()
            bench.core.prepare()
            bench.cache.check_integrity()
            cursors.append(session.trunk.cursor)
        assert max(cursors) <= 21
        if asked:
            assert len({id(job.branch.seen[-1]) for job in session.running if job.branch}) > 1
        bench.run()
        bench.ask("s", QUESTION)
        bench.run()
        logits.append(bench.runner.logits[-1])
    assert torch.allclose(logits[0], logits[1], atol=1e-5)


def test_a_rebase_finds_pages_when_answers_hold_all() -> None:
    """Answers that saw the window before it was moved pause, and say what they would have said."""
    rng = np.random.default_rng(3)
    pictures = [random_picture(rng) for _ in range(6)]
    said, moved, opened = [], [], 0
    for tokens in (400, 48):
        bench = bench_of(window=3, branch_tokens=tokens, num_pages=2048)
        bench.open("s")
        for number, picture in enumerate(pictures):
            bench.push("s", picture, number)
        bench.run()
        recorders = [bench.ask("s", [*QUESTION, n % 12], max_tokens=20) for n in range(6)]
        session = bench.core.sessions["s"]
        while not all(recorder.ended for recorder in recorders):
            bench.turn()
            if tokens == 48 and not opened and session.trunk.num_free < 3:
                session.rebase_due = True
                opened = sum(not recorder.ended for recorder in recorders) - len(session.waiting)
            bench.cache.check_integrity()
        moved.append(session.trunk.cursor)
        said.append([recorder.tokens for recorder in recorders])
    assert opened >= 3
    assert said[0][:opened] == said[1][:opened]
    assert moved[1] < moved[0]


def test_questions_without_pause_keep_positions_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody always has an answer under way, so that a rebase that waited would never come."""
    rng = np.random.default_rng(4)
    bench = bench_of(horizon=40, window=3)
    bench.open("s")
    session = bench.core.sessions["s"]
    found = positions(bench, monkeypatch)
    picture = random_picture(rng)
    for number in range(200):
        bench.push("s", picture, number)
        bench.ask("s", QUESTION, max_tokens=20)
        for _ in range(3):
            bench.turn()
        assert session.running
        while len(session.waiting) > 20:
            bench.turn()
    assert max(found) <= 41 + len(QUESTION) + 20
    bench.run()
    bench.cache.check_integrity()


# Published models: 8,192 positions, segments of 81 tokens, answers of 500


class Counting:
    """A model of whose tensors nothing is asked: SmolVLM2-2.2B's numbers."""

    stop_tokens: frozenset[int] = frozenset()
    yes_token, no_token = 1, 2

    def __init__(self) -> None:
        layout = FrameLayout(
            width=384, height=384, vision_tokens=81, segment_tokens=98, segment_advance=98
        )
        self.spec = StreamSpec(
            name="counting",
            layout=layout,
            tubelet=1,
            causal_segments=True,
            window_segments=30,
            position_horizon=8192 - 4096,
            branch_positions=4096,
            preferred_fps=1.0,
            history_rounds=10,
            max_answer_tokens=512,
        )

    def sink_tokens(self) -> list[int]:
        return [0] * 20

    def costliest(self, max_pixels: int) -> FrameLayout:
        return self.spec.layout

    def segment(self, layout: FrameLayout, cursor: int, seconds: float) -> SegmentTokens:
        count = layout.segment_tokens
        return SegmentTokens([0] * count, [(cursor + n,) * 3 for n in range(count)], count)


class Positions:
    """A runner that only looks at positions, and at who reads what."""

    overlaps = False

    def __init__(self) -> None:
        self.largest = 0
        self.moved = 0

    def execute(self, runs: list[Run], ahead: Any = ()) -> list[RunOutput | None]:
        self.largest = max(self.largest, *(place[0] for run in runs for place in run.positions))
        return [RunOutput(3, 0.5, True) if run.want_output else None for run in runs]

    def shift(self, pages: list[int], into: list[int], delta: int) -> None:
        self.moved += 1

    def clear(self, pages: list[int]) -> None: ...

    def is_lost(self) -> bool:
        return False


@pytest.mark.parametrize("prompt", [60, 3500])
def test_8192_positions_at_ten_frames_a_second_with_answers_of_500_tokens(prompt: int) -> None:
    """Three answers at a time, always, for three minutes; with long histories, too."""
    model, runner = Counting(), Positions()
    cache = SessionPages(4096, 16)
    core = EngineCore(
        model,  # type: ignore[arg-type]
        runner,  # type: ignore[arg-type]
        cache,
        StepLimits(
            tokens=1024,
            question_tokens=512,
            question_sessions=8,
            burst_segments=4,
            batch_wait_s=0.0,
        ),
        EngineLimits(
            max_sessions=1,
            frame_queue=4,
            branch_tokens=4096,
            waiting_branches=64,
            max_window_segments=60,
        ),
        clock=lambda: 0.0,
    )
    core.open_session("s")
    session = core.sessions["s"]
    results: list[Any] = []
    recorders: list[Recorder] = []
    for number in range(1800):
        core.submit_frame(
            "s", FrameJob(b"", model.spec.layout, number, number, 0.0, results.append)
        )
        while sum(not recorder.ended for recorder in recorders) < 3:
            recorders.append(Recorder())
            core.submit_branch("s", Generation([4] * prompt, 500, recorders[-1]))
        for _ in range(8):  # 70 tokens a second each
            core.prepare()
            core.run_step()
    cache.check_integrity()
    assert runner.largest < 8192
    assert runner.moved >= 10
    assert all(isinstance(result, FrameReceipt) for result in results)
    finished = [recorder for recorder in recorders if recorder.ended]
    assert len(finished) > 10
    assert all(recorder.reason == FinishReason.LENGTH for recorder in finished)
    assert session.trunk.cursor < 8192


# Pages as answers grow


def solo(sampling: Sampling, count: int) -> list[list[int]]:
    """What each question is answered when nobody else asks."""
    said = []
    for number in range(count):
        bench = bench_of(branch_tokens=128)
        show(bench)
        recorder = bench.ask("s", [*QUESTION, number % 12], 40, replace(sampling, seed=number))
        bench.run()
        said.append(recorder.tokens)
    return said


def show(bench: Bench) -> None:
    bench.open("s")
    rng = np.random.default_rng(5)
    for number in range(5):
        bench.push("s", random_picture(rng), number)
    bench.run()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.5, top_p=0.9)])
def test_answers_that_pause_say_what_they_say_alone(sampling: Sampling) -> None:
    """Twelve answers that need ten times the pages there are, and end in the order of asking."""
    bench = bench_of(branch_tokens=56)
    show(bench)
    pauses = counting_pauses(bench)
    ended: list[int] = []
    recorders = [Ending(number, ended) for number in range(12)]
    for number, recorder in enumerate(recorders):
        tokens = [*QUESTION, number % 12]
        job = Generation(tokens, 40, recorder, sampling=replace(sampling, seed=number))
        bench.engine.submit_branch("s", job)
    while bench.busy:
        bench.turn()
        bench.cache.check_integrity()
    assert pauses()
    assert ended == list(range(12))
    assert [recorder.tokens for recorder in recorders] == solo(sampling, 12)


class Ending(Recorder):
    """Notes its number when it ends."""

    def __init__(self, number: int, ended: list[int]) -> None:
        super().__init__()
        self.number = number
        self.into = ended

    def finished(self, reason: FinishReason) -> None:
        super().finished(reason)
        self.into.append(self.number)


def counting_pauses(bench: Bench) -> Callable[[], int]:
    emptied: list[int] = []
    pause = bench.core._branching._pause

    def counted(job: Generation) -> None:
        emptied.append(job.order)
        pause(job)

    bench.core._branching._pause = counted  # type: ignore[method-assign]
    return lambda: len(emptied)


def test_200_questions_at_once_are_all_answered_in_order_while_frames_flow() -> None:
    rng = np.random.default_rng(6)
    bench = bench_of(branch_tokens=128, waiting_branches=200)
    bench.open("s")
    bench.push("s", random_picture(rng), 0)
    bench.run()
    ended: list[int] = []
    for number in range(200):
        job = Generation([*QUESTION, number % 12], 1 + number % 8, Ending(number, ended))
        bench.engine.submit_branch("s", job)
    number = 0
    while bench.busy:
        if number < 120 and not bench.core.sessions["s"].frames:
            number += 1
            bench.push("s", random_picture(rng), number)
        bench.turn()
        if number % 16 == 0:
            bench.cache.check_integrity()
    assert sorted(ended) == list(range(200))
    # An answer of one token overtakes those of eight that began with it, and no others.
    assert max(abs(place - number) for place, number in enumerate(ended)) < 24
    assert len(bench.results) == number + 1
    assert all(isinstance(result, FrameReceipt) for result in bench.results)
    trunk = bench.core.sessions["s"].trunk
    assert bench.cache.pool.num_used == len(bench.cache.pages(trunk))


def test_only_new_questions_are_refused_when_too_many_wait() -> None:
    bench = bench_of(waiting_branches=4)
    bench.open("s")
    recorders = [bench.ask("s", QUESTION, max_tokens=4) for _ in range(10)]
    bench.run()
    refused = [r for r in recorders if isinstance(r.error, ResourceExhaustedError)]
    assert len(refused) == 6
    assert refused == recorders[4:]
    assert all(recorder.reason == FinishReason.LENGTH for recorder in recorders[:4])


def test_waiting_text_is_bounded_over_sessions_and_none_is_shut_out() -> None:
    bench = bench_of(waiting_branches=32)
    limits = replace(bench.core.admission.limits, waiting_tokens=20)
    bench.core.admission.limits = limits
    bench.open("a")
    bench.open("b")
    many = [bench.ask("a", QUESTION) for _ in range(8)]
    other = bench.ask("b", QUESTION)
    bench.run()
    assert [recorder.error is None for recorder in many] == [True] * 4 + [False] * 4
    assert other.error is None
    assert not any(session.waiting_tokens for session in bench.core.sessions.values())


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))]
)
def test_any_order_of_work_keeps_the_accounts(seed: int) -> None:
    """Frames, questions, cancels, windows that move back, sessions that end; pages for a third of
    what is asked."""
    generator = random.Random(seed)
    rng = np.random.default_rng(seed)
    picture = random_picture(rng)
    bench = bench_of(
        horizon=24, window=3, branch_tokens=generator.choice([24, 40, 96]), burst=2, prefill=16
    )
    jobs: list[tuple[Generation, Recorder]] = []
    sessions = ["a", "b"]
    for name in sessions:
        bench.open(name)
    for number in range(250):
        name = generator.choice(sessions)
        match generator.randrange(8):
            case 0 | 1:
                bench.push(name, picture, number)
            case 2 | 3 | 4:
                recorder = Recorder()
                length = generator.randrange(1, 10)
                job = Generation(
                    [generator.randrange(12)] * length, 1 + generator.randrange(14), recorder
                )
                bench.engine.submit_branch(name, job)
                jobs.append((job, recorder))
            case 5 if jobs:
                bench.engine.cancel(generator.choice(jobs)[0])
            case 6 if generator.random() < 0.1:
                bench.engine.close_session(name)
                bench.engine.open_session(name)
        bench.turn()
        bench.core.prepare()
        bench.cache.check_integrity()
        for session in bench.core.sessions.values():
            running = [job for job in session.running if not job.paused]
            paused = [job.order for job in session.running if job.paused]
            assert not session.running or running  # somebody always goes on
            assert not paused or max(job.order for job in running) < min(paused)
    bench.run()
    assert all(recorder.ended for _, recorder in jobs)
    assert not any(session.trunk.branches for session in bench.core.sessions.values())
    bench.cache.check_integrity()
