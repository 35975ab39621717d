"""Result of the benchmark on a GPU: its aims, tables and plot."""

from dataclasses import dataclass
from typing import Any

from benchmarks.attention import Timed
from benchmarks.floor import Rates
from benchmarks.report import Result, Table, Target
from benchmarks.rows_result import ASK_EVERY_S
from benchmarks.samples import Latency

HISTORY_ROUNDS = 10
MAX_FIRST_TOKEN_MS = 30.0
MIN_SESSIONS, SESSIONS_FPS = 8, 8  # StreamingVLM: 8 fps of one stream on one H100
MIN_PROCESSED = 0.99
MAX_QUEUE_MS = 1000.0  # a session that keeps up is never so late
KINDS = ("replayed", "captured", "eager")  # of steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Load of one row, or of one number of sessions. Latencies from arrival at the engine to state
    updated: of all frames, and of those that completed a segment."""

    title: str
    limit_ms: float
    sessions: int
    fps: float
    every_frame: Latency
    segment: Latency
    first_token: Latency
    whole_answer: Latency
    offered: int
    processed: int
    dropped: int
    failed: int
    steps: dict[str, float]

    @property
    def processed_share(self) -> float:
        return self.processed / max(1, self.offered)

    @property
    def kept_up(self) -> bool:
        on_time = self.segment.p95_ms <= MAX_QUEUE_MS
        return self.processed_share >= MIN_PROCESSED and on_time and not self.failed


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of step: what it took, and the least it could."""

    name: str
    floor_s: float
    measured_s: float


@dataclass(slots=True, kw_only=True)
class Measured:
    """Figures of one model."""

    model: str
    dtype: str
    device: str
    attention: str
    parameters: int
    segment_tokens: int
    window_tokens: int
    admitted: int
    session_mib: float
    memory_gib: float
    rates: Rates
    rows: list[Load]
    held: list[Load]
    first_token: Latency
    shapes: list[Shape]
    ways: list[Timed]

    @property
    def most_sessions(self) -> int:
        return max((load.sessions for load in self.held if load.kept_up), default=0)


def targets(found: Measured) -> list[Target]:
    model = found.model
    goals = []
    for load in found.rows:
        name = f"{model}: {load.title}"
        goals += [
            Target(f"{name}: every frame p95", load.every_frame.p95_ms, load.limit_ms, "ms"),
            Target(f"{name}: completed segment p95", load.segment.p95_ms, load.limit_ms, "ms"),
            Target(f"{name}: frames processed", load.processed_share, MIN_PROCESSED, at_least=True),
            Target(f"{name}: failures", load.failed, 0),
        ]
        if load.whole_answer.count:
            whole = load.whole_answer.p95_ms
            goals.append(Target(f"{name}: whole answer p95", whole, load.limit_ms, "ms"))
    return [
        *goals,
        Target(f"{model}: first token p95", found.first_token.p95_ms, MAX_FIRST_TOKEN_MS, "ms"),
        Target(
            f"{model}: sessions at {SESSIONS_FPS} fps",
            found.most_sessions,
            MIN_SESSIONS,
            at_least=True,
        ),
    ]


def result(measured: list[Measured], pixels: int, answer_tokens: int) -> Result:
    """Result for frames of `pixels` and answers of `answer_tokens`."""
    first = measured[0]
    missing = {
        f"{m.model}, {way.way} on {way.case}: {way.note}"
        for m in measured
        for way in m.ways
        if way.seconds is None
    }
    return Result(
        name="gpu",
        tables=[
            *(_rows_table(m) for m in measured),
            _models_table(measured),
            _shapes_table(measured),
            *(_ways_table(m) for m in measured),
        ],
        targets=[target for m in measured for target in targets(m)],
        figures={"models": measured},
        draw=lambda figure: _draw(figure, measured),
        dtype=first.dtype,
        device=first.device,
        notes=[
            f"random weights; attention: {first.attention}; frames of {pixels} pixels, two "
            "a segment: the first of each waits for the second before the engine can begin",
            "in the engine, from arrival to state updated; cameras, gateway and network left out",
            f"dialogue: every user asks every {ASK_EVERY_S:g} s with up to {HISTORY_ROUNDS} rounds "
            f"of history; answers of {answer_tokens} tokens",
            "attention: one layer with its writing of new tokens, scattered pages; FlexAttention "
            "with padded queries, varlen with windows that end on a page's end",
            *sorted(missing),
        ],
    )


def _rows_table(m: Measured) -> Table:
    def pair(latency: Latency) -> str:
        return f"{latency.p50_ms:.1f} / {latency.p95_ms:.1f}" if latency.count else ""

    loads = [*m.rows, *m.held]
    rows = [
        (
            load.title,
            f"{load.limit_ms:g}" if load in m.rows else "",
            pair(load.every_frame),
            pair(load.segment),
            pair(load.first_token),
            pair(load.whole_answer),
            f"{100 * load.processed_share:.1f} %",
            "/".join(f"{load.steps[kind]:.0f}" for kind in KINDS),
        )
        for load in loads
    ]
    headings = (
        "",
        "article, 4×A100",
        "every frame p50/p95",
        "completed segment",
        "first token",
        "whole answer",
        "processed",
        "steps " + "/".join(KINDS),
    )
    return Table(f"{m.model} on one GPU, latencies in ms", headings, rows)


def _models_table(measured: list[Measured]) -> Table:
    rows = [
        (
            m.model,
            f"{m.parameters / 1e9:.2f} G",
            str(m.segment_tokens),
            str(m.window_tokens),
            f"{m.session_mib:.0f}",
            str(m.admitted),
            str(m.most_sessions),
            f"{m.memory_gib:.1f}",
            f"{m.first_token.p50_ms:.1f} / {m.first_token.p95_ms:.1f}",
        )
        for m in measured
    ]
    headings = (
        "",
        "parameters",
        "tokens a segment",
        "a window",
        "KV MiB a session",
        "sessions admitted",
        f"sessions kept up at {SESSIONS_FPS} fps",
        "GiB",
        "first token p50/p95, ms",
    )
    return Table("Models and sessions", headings, rows)


def _shapes_table(measured: list[Measured]) -> Table:
    rows = [
        (
            f"{m.model}: {shape.name}",
            f"{1000 * shape.floor_s:.2f}",
            f"{1000 * shape.measured_s:.2f}",
            f"{100 * shape.floor_s / shape.measured_s:.0f} %",
        )
        for m in measured
        for shape in m.shapes
    ]
    return Table("Against the floor", ("", "floor, ms", "measured, ms", "share"), rows)


def _ways_table(m: Measured) -> Table:
    cases = list(dict.fromkeys(way.case for way in m.ways))
    names = list(dict.fromkeys(way.way for way in m.ways))
    by_name = {(way.way, way.case): way for way in m.ways}

    def cell(name: str, case: str) -> str:
        way = by_name.get((name, case))
        if way is None or way.seconds is None:
            return "not here"
        return f"{1e6 * way.seconds:.0f} (±{way.error:.0e})"

    rows = [(name, *(cell(name, case) for case in cases)) for name in names]
    headings = ("sessions × what is new", *cases)
    return Table(f"{m.model}: attention of one layer, µs (largest difference)", headings, rows)


def _draw(figure: Any, measured: list[Measured]) -> None:
    left, right = figure.subplots(1, 2)
    titles = [load.title for load in measured[0].rows]
    series = {"article (4×A100)": [load.limit_ms for load in measured[0].rows]}
    for m in measured:
        series[f"{m.model}: every frame p95"] = [load.every_frame.p95_ms for load in m.rows]
        series[f"{m.model}: whole answer p95"] = [load.whole_answer.p95_ms for load in m.rows]
    width = 0.8 / len(series)
    for index, (label, heights) in enumerate(series.items()):
        places = [place + width * (index - len(series) / 2 + 0.5) for place in range(len(titles))]
        colour = "lightgrey" if index == 0 else None
        left.bar(places, heights, width, label=label, color=colour)
    left.set_xticks(range(len(titles)), titles)
    left.tick_params(axis="x", labelsize=7)
    left.set_ylabel("ms")
    left.legend(fontsize=7)
    for m in measured:
        for way in ("gather", "FlexAttention", "varlen", "block"):
            found = [(w.case, 1e6 * w.seconds) for w in m.ways if w.way == way and w.seconds]
            if found:
                right.plot(*zip(*found, strict=True), marker="o", label=f"{m.model}: {way}")
    right.set_yscale("log")
    right.set_xlabel("sessions × what is new")
    right.set_ylabel("attention of a layer (µs)")
    right.legend(fontsize=7)
