"""What must hold of the engine (invariants A, B, D), in float32 to 1e-4, and how it fails."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.inference_worker import metrics
from services.inference_worker.assembly import build_engine
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.jobs import FinishReason, FrameJob, FrameReceipt, Generation
from services.inference_worker.kv.trunk import Segment
from services.inference_worker.model.family import Round, prompt_of
from services.inference_worker.model.rotary import angles, rotate, shift
from services.inference_worker.runner.batch import Run
from sightline.errors import (
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from tests.unit.tiny import Bench, Recorder, random_picture, reference_logits, tiny_model
from training.answerers import DenseAnswerer

TOLERANCE = 1e-4
QUESTION = [1, 10, 11, 12, 7]


@settings(max_examples=20, deadline=None)
@given(
    frames=st.integers(0, 14),
    window=st.integers(1, 6),
    page_size=st.sampled_from([2, 3, 4, 8]),
    burst=st.integers(1, 3),
    prefill=st.integers(1, 8),
    question=st.lists(st.integers(0, 15), min_size=1, max_size=12),
    seed=st.integers(0, 2**16),
)
def test_streamed_logits_equal_a_masked_dense_forward(
    frames: int,
    window: int,
    page_size: int,
    burst: int,
    prefill: int,
    question: list[int],
    seed: int,
) -> None:
    """A before eviction (frames <= window) and B after it."""
    rng = np.random.default_rng(seed)
    model = tiny_model(window, seed=seed)
    bench = Bench(model, page_size=page_size, burst=burst, prefill=prefill)
    bench.open("s")
    pictures = [random_picture(rng) for _ in range(frames)]
    for number, picture in enumerate(pictures):
        bench.push("s", picture, number)
    recorder = bench.ask("s", question)
    bench.run()
    assert recorder.error is None
    expected = reference_logits(model, pictures, window, question)[-1]
    assert torch.allclose(bench.runner.logits[-1], expected, atol=TOLERANCE)
    bench.cache.check_integrity()


@settings(max_examples=20, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 7)), min_size=2, max_size=4
    ),  # (window, frames shown with it)
    page_size=st.sampled_from([2, 4, 8]),
    parked=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_a_window_changes_while_frames_come(
    parts: list[tuple[int, int]], page_size: int, parked: bool, seed: int
) -> None:
    """A longer window fills from the next frame on, a shorter one keeps the newest."""
    rng = np.random.default_rng(seed)
    now_s = 0.0
    model = tiny_model(parts[0][0], seed=seed)
    bench = Bench(model, page_size=page_size, park_after_s=1.0, clock=lambda: now_s)
    bench.open("s")
    pictures: list[np.ndarray] = []
    present, there = 0, []  # frames now, and when each was computed
    for window, frames in parts:
        if parked:
            now_s += 10
            bench.core.advance()
            assert bench.core.sessions["s"].parked is not None
        resized = bench.engine.resize_session("s", window, model.spec.layout)
        bench.run()
        assert resized.result(timeout=0) == window
        bench.cache.check_integrity()
        present = min(present, window)
        for _ in range(frames):
            pictures.append(random_picture(rng))
            bench.push("s", pictures[-1], len(pictures))
            present = min(present + 1, window)
            there.append(present)
        bench.run()
    recorder = bench.ask("s", QUESTION)
    bench.run()
    assert recorder.error is None
    expected = reference_logits(model, pictures, [*there, present], QUESTION)[-1]
    assert torch.allclose(bench.runner.logits[-1], expected, atol=TOLERANCE)
    bench.cache.check_integrity()


def test_a_window_that_does_not_fit_changes_nothing() -> None:
    model = tiny_model(4)
    bench = Bench(model, num_pages=120, page_size=4, branch_tokens=12)
    bench.open("s")
    pictures = [random_picture(np.random.default_rng(n)) for n in range(6)]
    for number, picture in enumerate(pictures):
        bench.push("s", picture, number)
    answering = bench.ask("s", QUESTION, max_tokens=7)
    for window, error in (
        (64, ResourceExhaustedError),
        (65, InvalidArgumentError),
        (1, ResourceExhaustedError),  # the answer reads the frames that would go
    ):
        while len(answering.tokens) < 5:
            bench.turn()
        refused = bench.engine.resize_session("s", window, model.spec.layout)
        bench.turn()
        assert isinstance(refused.exception(timeout=0), error)
        bench.cache.check_integrity()
    bench.run()
    assert answering.error is None
    recorder = bench.ask("s", QUESTION)
    bench.run()
    expected = reference_logits(model, pictures, 4, QUESTION)[-1]
    assert torch.allclose(bench.runner.logits[-1], expected, atol=TOLERANCE)
    assert recorder.seen is not None
    assert recorder.seen.num_frames == 4
    unknown = bench.engine.resize_session("other", 2, model.spec.layout)
    bench.turn()
    assert isinstance(unknown.exception(timeout=0), NotFoundError)


def test_every_answer_token_equals_the_dense_forward() -> None:
    rng = np.random.default_rng(1)
    model = tiny_model(window=3)
    bench = Bench(model)
    bench.open("s")
    pictures = [random_picture(rng) for _ in range(5)]
    for number, picture in enumerate(pictures):
        bench.push("s", picture, number)
    recorder = bench.ask("s", QUESTION, max_tokens=6)
    bench.run()
    assert recorder.ended
    whole = QUESTION + recorder.tokens
    expected = reference_logits(model, pictures, 3, whole)
    for n, logits in enumerate(bench.runner.logits):
        assert torch.allclose(logits, expected[len(QUESTION) - 1 + n], atol=TOLERANCE)


@settings(max_examples=10, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_any_batch_equals_each_session_alone(data: st.DataObject, seed: int) -> None:
    """D: sessions that share steps, in any interleaving, get what they would get alone."""
    rng = np.random.default_rng(seed)
    model = tiny_model(window=3, seed=seed)
    withdrawn = metrics.SEGMENTS_WITHDRAWN._value.get()
    bench = Bench(model, burst=2)
    names = ["a", "b", "c"]
    pictures: dict[str, list[np.ndarray]] = {name: [] for name in names}
    asked: list[tuple[Recorder, str, int]] = []
    for name in names:
        bench.open(name)
    for _ in range(data.draw(st.integers(5, 25))):
        name = data.draw(st.sampled_from(names))
        action = data.draw(st.sampled_from(["push", "push", "ask", "turn"]))
        if action == "push":
            picture = random_picture(rng)
            pictures[name].append(picture)
            bench.push(name, picture, len(pictures[name]))
        elif action == "ask":
            asked.append((bench.ask(name, QUESTION, max_tokens=4), name, len(pictures[name])))
        else:
            bench.turn()
    bench.run()
    bench.cache.check_integrity()
    # Two answers that pin more of the past than a session may hold go on without some of it.
    assume(metrics.SEGMENTS_WITHDRAWN._value.get() == withdrawn)
    for recorder, name, submitted in asked:
        assert recorder.seen is not None
        newest = recorder.seen.last_capture_ns  # pictures are numbered from 1
        assert newest >= submitted
        alone = Bench(model)
        alone.open("s")
        for number, picture in enumerate(pictures[name][:newest]):
            alone.push("s", picture, number)
        expected = alone.ask("s", QUESTION, max_tokens=4)
        alone.run()
        assert recorder.tokens == expected.tokens
        assert recorder.reason == expected.reason


@pytest.mark.parametrize("prefill", [3, 64])
@pytest.mark.parametrize("history_before", [False, True])
def test_a_conversation_is_read_as_in_training(prefill: int, history_before: bool) -> None:
    """However the prompt is cut into steps: positions are those that training lays out."""
    rng = np.random.default_rng(4)
    model = tiny_model(window=3, history_before=history_before)
    bench, dense = Bench(model, prefill=prefill), DenseAnswerer(model)
    bench.open("s")
    for number in range(5):
        picture = random_picture(rng)
        bench.push("s", picture, number)
        dense.push(picture, number)
    rounds = [Round("what is red", "circle")] * 4
    prompt = prompt_of(model, rounds, "what is it")
    assert (prompt.before > 0) is history_before
    bench.ask("s", prompt.tokens, before=prompt.before)
    bench.run()
    expected = dense.scores(prompt.tokens, prompt.before)
    assert torch.allclose(bench.runner.logits[-1], expected, atol=TOLERANCE)


def test_a_question_stands_as_near_to_the_frames_after_any_conversation() -> None:
    model = tiny_model()
    bench = Bench(model)
    bench.open("s")
    bench.push("s", random_picture(np.random.default_rng(0)))
    bench.run()
    placed: list[tuple[int, int, int]] = []
    execute = bench.runner.execute

    def watched(runs: list[Run], *rest: object) -> object:
        placed.extend(place for run in runs for place in run.positions)
        return execute(runs, *rest)  # type: ignore[arg-type]

    bench.runner.execute = watched  # type: ignore[method-assign, assignment]
    cursor, first = bench.core.sessions["s"].trunk.cursor, list[int]()
    for count in (0, 1, 10):
        placed.clear()
        prompt = prompt_of(model, [Round("what is red", "circle")] * count, "what is it")
        bench.ask("s", prompt.tokens, before=prompt.before)
        bench.run()
        times = [time for time, _, _ in placed]
        assert times == list(range(times[0], times[0] + len(times)))  # order and distances kept
        assert times[prompt.before] == cursor
        first.append(times[0])
    assert first == sorted(first, reverse=True)
    assert first[-1] < 0  # longer than the video so far, and no matter


def test_without_a_frame_there_is_no_answer() -> None:
    bench = Bench(tiny_model())
    bench.open("s")
    asked = [bench.ask("s", QUESTION, needs_frame=True, score_only=s) for s in (False, True)]
    bench.run()
    for recorder in asked:
        assert isinstance(recorder.error, FailedPreconditionError)
        assert (recorder.tokens, recorder.score) == ([], None)
    picture = random_picture(np.random.default_rng(0))
    bench.push("s", picture, 2)
    recorder = bench.ask("s", QUESTION, needs_frame=True)
    bench.run()
    assert recorder.seen is not None
    assert recorder.seen.num_frames == 1


def test_a_branch_leaves_the_trunk_bit_identical() -> None:
    rng = np.random.default_rng(2)
    bench = Bench(tiny_model(window=3))
    bench.open("s")
    for number in range(5):
        bench.push("s", random_picture(rng), number)
    bench.run()
    trunk = bench.core.sessions["s"].trunk
    pages = [page for segment in trunk.resident() for page in segment.pages]
    before = bench.runner.save(pages)
    recorders = [bench.ask("s", QUESTION, max_tokens=8) for _ in range(5)]
    bench.run()
    assert all(recorder.ended for recorder in recorders)
    assert torch.equal(bench.runner.save(pages), before)


def test_questions_do_not_change_later_answers() -> None:
    rng = np.random.default_rng(3)
    pictures = [random_picture(rng) for _ in range(8)]
    final = []
    for curious in (False, True):
        bench = Bench(tiny_model(window=3))
        bench.open("s")
        for number, picture in enumerate(pictures):
            bench.push("s", picture, number)
            if curious:
                bench.ask("s", QUESTION, max_tokens=3)
            bench.run()
        bench.ask("s", QUESTION)
        bench.run()
        final.append(bench.runner.logits[-1])
    assert torch.allclose(final[0], final[1], atol=TOLERANCE)


def test_shifted_keys_equal_keys_rotated_at_the_new_position() -> None:
    """C at its root: rebasing a rotated key is exact."""
    torch.manual_seed(0)
    omega = torch.rand(8, 3)
    keys = torch.randn(5, 2, 16)
    positions = torch.randint(40, 100, (5, 3))
    rotated = rotate(keys, *angles(omega, positions))
    moved = shift(rotated, omega, -37)
    assert torch.allclose(moved, rotate(keys, *angles(omega, positions - 37)), atol=TOLERANCE)


def test_rebase_keeps_the_window_and_bounds_positions() -> None:
    """With the sink out of sight, positions enter attention only as differences, so that a stream
    that is rebased again and again answers as one that never is."""
    rng = np.random.default_rng(4)
    pictures = [random_picture(rng) for _ in range(40)]
    answers, cursors = [], []
    for horizon in (4096, 20):
        model = tiny_model(window=3, horizon=horizon)
        bench = Bench(model)
        bench.open("s")
        session = bench.core.sessions["s"]
        session.trunk.sink.num_tokens = 0  # nobody attends to the sink
        for number, picture in enumerate(pictures):
            bench.push("s", picture, number)
            bench.run()
            cursors.append((horizon, session.trunk.cursor))
        bench.ask("s", QUESTION)
        bench.run()
        answers.append(bench.runner.logits[-1])
    assert max(cursor for horizon, cursor in cursors if horizon == 20) <= 21
    assert max(cursor for horizon, cursor in cursors if horizon == 4096) > 40
    assert torch.allclose(answers[0], answers[1], atol=1e-3)


def _show_with_gap(bench: Bench, missing: int) -> tuple[Segment, Segment]:
    """Two frames with others missing between them, as the window holds them."""
    bench.open("s")
    for number, before in ((1, 0), (2, missing)):
        pixels = random_picture(np.random.default_rng(number)).tobytes()
        frame = FrameJob(
            pixels,
            bench.model.spec.layout,
            number,
            number,
            0.0,
            bench.results.append,
            missing=before,
        )
        bench.engine.submit_frame("s", frame)
        bench.run()
    first, second = bench.core.sessions["s"].trunk.segments
    return first, second


def test_time_passes_for_missing_frames_and_nothing_is_shown_for_them() -> None:
    advance = tiny_model().spec.layout.segment_advance
    for missing in (0, 1, 5):
        bench = Bench(tiny_model())
        first, second = _show_with_gap(bench, missing)
        assert second.cursor - first.cursor == (1 + missing) * advance
        recorder = bench.ask("s", QUESTION)
        bench.run()
        assert recorder.seen is not None
        assert recorder.seen.num_frames == 2
        assert torch.isfinite(bench.runner.logits[-1]).all()
        bench.cache.check_integrity()


def test_missing_frames_do_not_drive_a_window_out_of_the_model_s_range() -> None:
    bench = Bench(tiny_model(horizon=64))
    first, second = _show_with_gap(bench, 1000)
    advance = bench.model.spec.layout.segment_advance
    assert advance < second.cursor - first.cursor <= 32 + advance
    assert second.cursor < 64


def test_a_model_that_is_told_the_time_lets_none_pass() -> None:
    model = tiny_model()
    model.spec = replace(model.spec, time_by_position=False)
    first, second = _show_with_gap(Bench(model), 5)
    assert second.cursor - first.cursor == model.spec.layout.segment_advance


def test_a_question_sees_every_frame_submitted_before_it() -> None:
    rng = np.random.default_rng(6)
    bench = Bench(tiny_model(window=8))
    bench.open("s")
    for number in range(1, 4):
        bench.push("s", random_picture(rng), number)
    recorder = bench.ask("s", QUESTION)
    bench.push("s", random_picture(rng), 4)
    bench.run()
    assert recorder.seen is not None
    assert (recorder.seen.first_capture_ns, recorder.seen.last_capture_ns) in {(1, 3), (1, 4)}


def test_cancel_returns_every_page_and_says_so() -> None:
    bench = Bench(tiny_model())
    bench.open("s")
    bench.push("s", random_picture(np.random.default_rng(7)), 1)
    bench.run()
    used = bench.cache.pool.num_used
    recorder = Recorder()
    job = Generation(list(QUESTION), 100, recorder)
    bench.engine.submit_branch("s", job)
    bench.turn()
    bench.turn()
    bench.engine.cancel(job)
    bench.run()
    assert recorder.reason == FinishReason.CANCELLED
    assert bench.cache.pool.num_used == used
    bench.cache.check_integrity()


def test_a_released_session_fails_its_open_work() -> None:
    bench = Bench(tiny_model())
    bench.open("s")
    bench.push("s", random_picture(np.random.default_rng(8)), 1)
    recorder = bench.ask("s", QUESTION, max_tokens=8)
    bench.turn()
    bench.engine.close_session("s")
    bench.run()
    assert isinstance(recorder.error, NotFoundError)
    assert bench.cache.pool.num_used == 0
    bench.cache.check_integrity()


def test_a_full_pool_refuses_the_next_session_and_serves_the_others() -> None:
    model = tiny_model()
    cost = Bench(model).core.admission.shape(0).cost(4)
    bench = Bench(model, num_pages=2 * cost + 1)
    bench.open("a")
    bench.open("b")
    with pytest.raises(ResourceExhaustedError):
        bench.open("c")
    recorder = bench.ask("a", QUESTION)
    bench.run()
    assert recorder.ended
    assert recorder.error is None


def test_answers_that_outlive_the_window_never_take_room_from_frames() -> None:
    """Branches opened at many moments pin old pages; frames go on, and so do the answers."""
    rng = np.random.default_rng(9)
    model = tiny_model(window=3)
    model.stop_tokens = frozenset()  # long answers
    cost = Bench(model).core.admission.shape(0).cost(4)
    bench = Bench(model, num_pages=cost + 1)
    bench.open("s")
    recorders = []
    for number in range(40):
        bench.push("s", random_picture(rng), number)
        if number % 3 == 0:
            recorders.append(bench.ask("s", QUESTION, max_tokens=24))
        bench.turn()
        bench.turn()
        bench.turn()
        bench.cache.check_integrity()
    withdrawn = min(len(job.branch.seen) for job in bench.core.sessions["s"].running if job.branch)
    bench.run()
    assert withdrawn < 4  # some answer had lost part of what it began with
    assert all(isinstance(result, FrameReceipt) for result in bench.results)
    assert all(recorder.reason == FinishReason.LENGTH for recorder in recorders)
    assert all(len(recorder.tokens) == 24 for recorder in recorders)


def test_one_bad_part_of_a_step_hurts_only_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tiny_model())
    for name in ("good", "bad"):
        bench.open(name)
    execute = bench.runner.execute

    def faulty(runs: list[Run]) -> list[object]:
        if any(13 in run.tokens for run in runs):
            raise RuntimeError("a fault on the device")
        return execute(runs)

    monkeypatch.setattr(bench.runner, "execute", faulty)
    good = bench.ask("good", QUESTION, max_tokens=2)
    bad = bench.ask("bad", [13])
    bench.run()
    assert good.error is None
    assert isinstance(bad.error, InternalError)
    bench.cache.check_integrity()


def test_scores_that_are_not_numbers_fail_the_question() -> None:
    bench = Bench(tiny_model())
    bench.open("s")
    bench.model.decoder.embedding.weight.data[13] = float("nan")
    bad = bench.ask("s", [13])
    bench.run()
    assert isinstance(bad.error, InternalError)
    assert bench.cache.pool.num_used == bench.cache.pool.pages_for(len(bench.model.sink_tokens()))


def _ask_nonsense(bench: Bench, session: str, cancelled: bool = False) -> None:
    """Questions at once, and all fail, or nobody wants them before they do: their pages hold no
    numbers."""
    weight = bench.model.decoder.embedding.weight.data
    kept = weight[13].clone()
    weight[13] = float("nan")
    recorders = [bench.ask(session, [13] * 15) for _ in range(4)]
    if cancelled:
        bench.turn()
        bench.turn()
        jobs = list(bench.core.sessions[session].running)
        assert any(job.branch and job.branch.num_tokens for job in jobs)
        for job in jobs:
            bench.engine.cancel(job)
    bench.run()
    assert cancelled or all(isinstance(recorder.error, InternalError) for recorder in recorders)
    weight[13] = kept


def test_what_is_not_a_number_stays_in_its_session() -> None:
    """Pages are used again, and the next session may fill only a part of them, and reads over
    those that it does not use."""
    rng = np.random.default_rng(11)
    bench = Bench(tiny_model(), page_size=16, branch_tokens=64)
    bench.open("bad")
    _ask_nonsense(bench, "bad")
    for part in bench.runner.store.parts:  # as frames might leave it that were never asked about
        part[:, bench.engine.core.sessions["bad"].trunk.reservation.pages] = float("nan")
    bench.cache.pool._used[:] = True
    bench.engine.close_session("bad")
    bench.open("good")
    for number in range(4):
        bench.push("good", random_picture(rng), number)
    recorder = bench.ask("good", QUESTION)
    bench.run()
    assert recorder.error is None


@pytest.mark.parametrize("cancelled", [False, True])
def test_what_is_not_a_number_ends_with_its_question(cancelled: bool) -> None:
    """The session goes on, in the pages that the question had and over them."""
    rng = np.random.default_rng(12)
    bench = Bench(tiny_model(), page_size=16, branch_tokens=256, prefill=40)
    bench.open("s")
    _ask_nonsense(bench, "s", cancelled)
    for number in range(8):
        bench.push("s", random_picture(rng), number)
        recorder = bench.ask("s", QUESTION)
        bench.run()
        assert recorder.error is None


def test_questions_without_a_session_or_without_end_are_refused() -> None:
    bench = Bench(tiny_model())
    bench.open("s")
    unknown = bench.ask("nobody", QUESTION)
    endless = bench.ask("s", [1] * 500)
    bench.run()
    assert isinstance(unknown.error, NotFoundError)
    assert isinstance(endless.error, InvalidArgumentError)


def test_a_frame_beyond_the_sessions_size_is_refused() -> None:
    bench = Bench(tiny_model())
    bench.open("s")
    layout = replace(bench.model.spec.layout, segment_tokens=100)
    frame = FrameJob(b"", layout, 1, 1, 0.0, bench.results.append)
    bench.engine.submit_frame("s", frame)
    bench.run()
    assert isinstance(bench.results[0], InvalidArgumentError)
    bench.cache.check_integrity()


def test_more_frames_than_credit_are_refused_to_their_sender() -> None:
    bench = Bench(tiny_model(), frame_queue=2)
    bench.open("s")
    picture = random_picture(np.random.default_rng(10))
    for number in range(3):
        bench.push("s", picture, number)
    bench.run()
    kinds = [type(result) for result in bench.results]
    assert sorted(kind.__name__ for kind in kinds) == [
        "FrameReceipt",
        "FrameReceipt",
        "ResourceExhaustedError",
    ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_worker_runs_in_the_precision_it_is_told(dtype: str) -> None:
    config = WorkerConfig.from_env({"WORKER_DTYPE": dtype, "WORKER_KV_MEMORY_BYTES": str(2**26)})
    engine = build_engine(replace(config, threads=1, max_sessions=1))
    core = engine.core
    assert engine.dtype_name == dtype
    core.open_session("s")
    recorder = Recorder()
    core.submit_branch("s", Generation(engine.model.question_tokens([], "What?"), 4, recorder))
    while not recorder.ended:
        engine.turn()
    assert recorder.error is None


def test_the_thread_warms_up_serves_and_stops() -> None:
    bench = Bench(tiny_model())
    bench.engine.start().result(timeout=60)
    assert bench.cache.pool.num_used == 0
    bench.engine.open_session("s").result(timeout=10)
    bench.engine.check_integrity().result(timeout=10)
    bench.engine.stop()
    assert bench.cache.pool.num_used == 0
    with pytest.raises(Exception, match="shutting down"):
        bench.engine.open_session("t").result(timeout=1)


def test_work_that_nobody_waits_for_any_more_is_not_begun() -> None:
    bench = Bench(tiny_model())
    opening = bench.engine.open_session("s")
    assert opening.cancel()
    bench.run()
    assert not bench.core.sessions
    bench.open("s")


def test_a_thread_that_cannot_go_on_says_so_and_takes_no_more_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(tiny_model())
    bench.engine.start().result(timeout=60)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    for name in ("idle_s", "reset"):
        monkeypatch.setattr(bench.core, name, lambda *_: 1 / 0)
    bench.engine.open_session("s")
    assert bench.engine.ended.result(timeout=10) is None
    with pytest.raises(UnavailableError):
        bench.engine.open_session("t").result(timeout=1)
