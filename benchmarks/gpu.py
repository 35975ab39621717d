"""Models of 7 and 8 billion parameters on one GPU: the article's rows, and what is in them.

Random weights, drawn on the device, at the published shapes; frames of 448 × 448. The engine runs
as a worker has it, without the network around it: frames are handed over at the rate of a camera,
each session's at times of its own, and dropped where the credit is used up, as a gateway does.

- the article's four rows, with the time of every frame, of the frames that complete a segment (two
  frames are one in these models, so every other frame waits for the next one before the engine can
  begin), and of answers;
- how many sessions it holds at the rate that StreamingVLM gives one;
- the first token of a question, asked of a session that is quiet;
- steps by their shape, against the floor (see `floor`);
- attention alone: ours against torch's (see `attention`).

Without a GPU there is nothing to measure, and the exit code says so; `--quick` runs the whole of it
at tiny shapes on whatever there is, to show that it runs.
"""

import gc
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.attention import Case, compare
from benchmarks.feed import TIMEOUT_S, Asked, Feed, ask, show_together
from benchmarks.floor import Rates, decode_work, frame_work
from benchmarks.gpu_result import (
    HISTORY_ROUNDS,
    KINDS,
    MAX_QUEUE_MS,
    SESSIONS_FPS,
    Load,
    Measured,
    Shape,
    result,
)
from benchmarks.published import SMALL, noise
from benchmarks.random_model import QWEN3_VL_8B, QWEN25_VL_7B, random_engine
from benchmarks.report import Report, Result
from benchmarks.rows_result import ASK_EVERY_S, ROWS, Row
from benchmarks.samples import Latency
from services.inference_worker import metrics
from services.inference_worker.engine.jobs import FrameJob, FrameReceipt, Generation
from services.inference_worker.engine.thread import Engine
from services.inference_worker.model.family import Round
from services.inference_worker.model.published.model import PublishedModel

QUESTION = "What is happening in the video?"
ANSWER = "A person puts a red cup on the table."


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Extent of the measurement. `sessions`: numbers of them that are tried at SESSIONS_FPS."""

    models: Mapping[str, Mapping[str, Any]]
    pixels: int
    warm_up_s: float
    measure_s: float
    users: int
    sessions: tuple[int, ...]
    turns: int
    answer_tokens: int
    kv_fraction: float
    attention_times: int
    window_pages: int
    tilings: tuple[tuple[int, int, int, int], ...]


FULL = Effort(
    models={"qwen2_5_vl": QWEN25_VL_7B, "qwen3_vl": QWEN3_VL_8B},
    pixels=448 * 448,
    warm_up_s=8.0,
    measure_s=30.0,
    users=10,
    sessions=(8, 12, 16, 24),
    turns=20,
    answer_tokens=8,
    kv_fraction=0.8,
    attention_times=50,
    window_pages=480,
    tilings=(
        (16, 64, 4, 3),
        (16, 128, 4, 3),
        (64, 64, 4, 3),
        (64, 128, 8, 2),
        (128, 64, 8, 3),
        (128, 64, 8, 2),
        (128, 128, 8, 2),
    ),
)
_TINY = {**SMALL, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
TINY = Effort(
    models={"qwen2_5_vl": _TINY, "qwen3_vl": _TINY},
    pixels=64 * 64,
    warm_up_s=0.5,
    measure_s=1.0,
    users=2,
    sessions=(1, 2),
    turns=2,
    answer_tokens=2,
    kv_fraction=0.05,
    attention_times=1,
    window_pages=3,
    tilings=((16, 16, 4, 2),),
)


class NoDeviceError(SystemExit):
    """Nothing was measured."""


def run(report: Report, *, quick: bool) -> Result:
    """Raises NoDeviceError where there is no GPU, unless it is only to be shown to run."""
    if not (quick or torch.cuda.is_available()):
        raise NoDeviceError("gpu: no CUDA device here; nothing was measured and nothing is written")
    effort = TINY if quick else FULL
    measured = []
    for index, (family, sizes) in enumerate(effort.models.items()):

        def tell(doing: str, done: float, family: str = family, index: int = index) -> None:
            report(f"{family}, {doing}", (index + done) / len(effort.models))

        measured.append(_measure(family, sizes, effort, tell))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return result(measured, effort.pixels, effort.answer_tokens)


def _measure(family: str, sizes: Mapping[str, Any], effort: Effort, tell: Report) -> Measured:
    tell("drawing weights", 0.0)
    engine, model = random_engine(family, sizes, effort.pixels, effort.kv_fraction)
    try:
        admitted = engine.snapshot().num_admissible
        frames = noise(model, 4 * model.spec.tubelet)
        rows = []
        for number, row in enumerate(ROWS):
            tell(row.title, 0.05 + 0.1 * number)
            rows.append(_load(engine, frames, row, min(row.users, effort.users), effort))
        held = []
        for number, sessions in enumerate(effort.sessions):
            if sessions > admitted:
                break
            tell(f"{sessions} sessions", 0.5 + 0.3 * number / len(effort.sessions))
            title = f"{sessions} sessions, {SESSIONS_FPS} fps"
            row = Row(title, sessions, SESSIONS_FPS, False, MAX_QUEUE_MS)
            held.append(_load(engine, frames, row, sessions, effort))
            if not held[-1].kept_up:
                break
        tell("steps", 0.8)
        rates = Rates.of(model, effort.users * model.spec.layout.segment_tokens)
        first_ms, shapes = _shapes(engine, model, frames, rates, effort)
        engine.check_integrity().result(TIMEOUT_S)
    finally:
        engine.stop()
    tell("attention", 0.9)
    runner = engine.core.runner
    segment = model.spec.layout.segment_tokens
    cases = [
        Case(name=f"{n} × {name}", sessions=n, queries=queries, window_pages=effort.window_pages)
        for name, queries in (("a token", 1), ("a segment", segment))
        for n in (1, effort.users)
    ]
    pages = engine.core.admission.shape().cost(engine.core.cache.pool.page_size)
    found = Measured(
        model=family,
        dtype=engine.dtype_name,
        device=engine.device_name,
        attention=runner.attention,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        segment_tokens=segment,
        window_tokens=_window(model),
        admitted=admitted,
        session_mib=pages * runner.store.page_bytes / 2**20,
        memory_gib=torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0,
        rates=rates,
        rows=rows,
        held=held,
        first_token=Latency.of_ms(first_ms),
        shapes=shapes,
        ways=[],
    )
    config, dtype, device = model.decoder.config, runner.dtype, runner.device
    del engine, runner, model  # the pool's memory
    gc.collect()
    for case in cases:
        found.ways += compare(
            config,
            case,
            16,
            dtype,
            device,
            tilings=effort.tilings,
            times=effort.attention_times,
        )
    return found


def _window(model: PublishedModel) -> int:
    spec = model.spec
    return len(model.sink_tokens()) + spec.window_segments * spec.layout.segment_tokens


@dataclass(slots=True)
class _User:
    """A camera and a viewer: frames at its rate, a question every ASK_EVERY_S if he asks."""

    engine: Engine
    session: str
    frames: list[bytes]
    interval_s: float
    due_s: float
    ask_s: float | None
    answer_tokens: int
    sent: int = 0
    in_flight: int = 0
    dropped: int = 0
    failed: int = 0
    every_ms: list[tuple[float, float]] = field(default_factory=list)  # when, how long
    segment_ms: list[tuple[float, float]] = field(default_factory=list)
    answers: list[Asked] = field(default_factory=list)

    def act(self, now_s: float) -> float:
        """Do what is due; when the next thing is."""
        while self.due_s <= now_s:
            self._show(now_s)
            self.due_s += self.interval_s
        if self.ask_s is not None and self.ask_s <= now_s:
            self._ask()
            self.ask_s += ASK_EVERY_S
        return self.due_s if self.ask_s is None else min(self.due_s, self.ask_s)

    def _show(self, now_s: float) -> None:
        if self.in_flight >= self.engine.limits.frame_queue:
            self.dropped += 1
            return
        self.sent += 1
        self.in_flight += 1
        completes = self.sent % self.engine.model.spec.tubelet == 0

        def done(receipt: FrameReceipt | Exception) -> None:  # the device thread
            self.in_flight -= 1
            if isinstance(receipt, Exception):
                self.failed += 1
                return
            entry = (time.monotonic(), 1000 * receipt.latency_s)
            self.every_ms.append(entry)
            if completes:
                self.segment_ms.append(entry)

        layout = self.engine.model.spec.layout
        pixels = self.frames[self.sent % len(self.frames)]
        capture_ns = int(1e9 * self.due_s)
        frame = FrameJob(pixels, layout, capture_ns, self.sent, now_s, done)
        self.engine.submit_frame(self.session, frame)

    def _ask(self) -> None:
        rounds = [Round(QUESTION, ANSWER)] * min(len(self.answers), HISTORY_ROUNDS)
        tokens = self.engine.model.question_tokens(rounds, QUESTION)
        asked = Asked(time.perf_counter())
        self.answers.append(asked)
        self.engine.submit_branch(self.session, Generation(tokens, self.answer_tokens, asked))


def _load(engine: Engine, frames: list[bytes], row: Row, users: int, effort: Effort) -> Load:
    """Windows are filled first; then frames and questions come as they would, for a while that is
    not measured and one that is."""
    feeds = [Feed(engine, f"{row.title} {n}", frames) for n in range(users)]
    try:
        for _ in range(engine.model.spec.window_segments):
            show_together(feeds)
        began_s = time.monotonic() + 0.01
        interval_s = 1.0 / row.fps
        people = [
            _User(
                engine,
                feed.session,
                frames,
                interval_s,
                began_s + n * interval_s / users,
                began_s + n * ASK_EVERY_S / users if row.dialogue else None,
                effort.answer_tokens,
            )
            for n, feed in enumerate(feeds)
        ]
        from_s = began_s + effort.warm_up_s
        until_s = from_s + effort.measure_s
        before: dict[str, float] | None = None
        lost = 0
        while (now_s := time.monotonic()) < until_s:
            if before is None and now_s >= from_s:
                before, lost = _steps(), sum(user.dropped for user in people)
            next_s = min(user.act(now_s) for user in people)
            time.sleep(max(0.0, min(next_s, until_s) - time.monotonic()))
        after = _steps()
        for user in people:
            for asked in user.answers:
                asked.done.wait(TIMEOUT_S)
        every, segment = (
            [ms for user in people for at_s, ms in getattr(user, name) if from_s <= at_s < until_s]
            for name in ("every_ms", "segment_ms")
        )
        asked_from = time.perf_counter() - time.monotonic() + from_s
        answers = [a for user in people for a in user.answers if a.asked_s >= asked_from]
        ended = [a for a in answers if a.error is None and a.ended_s]
        failed = sum(user.failed for user in people) + len(answers) - len(ended)
        return Load(
            title=row.title,
            limit_ms=row.article_ms,
            sessions=users,
            fps=row.fps,
            every_frame=Latency.of_ms(every),
            segment=Latency.of_ms(segment),
            first_token=Latency.of_ms([1000 * a.first_token_s for a in ended]),
            whole_answer=Latency.of_ms([1000 * (a.ended_s - a.asked_s) for a in ended]),
            offered=round(users * row.fps * effort.measure_s),
            processed=len(every),
            dropped=sum(user.dropped for user in people) - lost,
            failed=failed,
            steps={kind: after[kind] - (before or after)[kind] for kind in KINDS},
        )
    finally:
        for feed in feeds:
            feed.close()


def _steps() -> dict[str, float]:
    return {kind: metrics.DEVICE_STEPS.labels(kind)._value.get() for kind in KINDS}


def _shapes(
    engine: Engine, model: PublishedModel, frames: list[bytes], rates: Rates, effort: Effort
) -> tuple[list[float], list[Shape]]:
    """First tokens in milliseconds, and steps of one kind at a time."""
    spec = model.spec
    number = min(effort.users, engine.snapshot().num_admissible)
    feeds = [Feed(engine, f"shapes {n}", frames) for n in range(number)]
    for _ in range(spec.window_segments):
        show_together(feeds)
    # Medians of whole rounds: sessions may meet in one step or be cut by WORKER_STEP_TOKENS.
    alone = [_round_s(feeds[:1]) for _ in range(effort.turns)]
    together = [_round_s(feeds) for _ in range(effort.turns)]
    first_ms, token_s = list[float](), list[float]()
    for _ in range(effort.turns):
        asked = ask(engine, feeds[0].session, QUESTION, 1 + effort.answer_tokens)
        first_ms.append(1000 * asked.first_token_s)
        token_s.append((asked.ended_s - asked.first_s) / effort.answer_tokens)
    for feed in feeds:
        feed.close()
    segment, window = spec.layout.segment_tokens, _window(model)
    works = {
        "a frame segment": (frame_work(model, 1, segment, window - segment), alone),
        f"{number} frame segments": (
            frame_work(model, number, segment, window - segment),
            together,
        ),
        "an answer's token": (decode_work(model, 1, window), token_s),
    }
    return first_ms, [
        Shape(name, work.floor_s(rates), statistics.median(spent))
        for name, (work, spent) in works.items()
    ]


def _round_s(feeds: list[Feed]) -> float:
    started_s = time.perf_counter()
    show_together(feeds)
    return time.perf_counter() - started_s
