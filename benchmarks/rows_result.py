"""Result of the article's four rows: their figures, targets, tables and plot."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.publisher import Sent
from benchmarks.report import Result, Table, Target
from benchmarks.samples import Latency
from sightline.v1 import inference_pb2

ASK_EVERY_S = 2.0
MAX_DROPS = 0.001
MIN_HITS = 0.999
PROBE_EVERY_S = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the article's table. `article_ms`: its end-to-end latency, on four A100."""

    title: str
    users: int
    fps: int
    dialogue: bool
    article_ms: float


ROWS = (
    Row("1 user, 30 fps", 1, 30, False, 45),
    Row("1 user, 30 fps, dialogue", 1, 30, True, 120),
    Row("10 users, 15 fps", 10, 15, False, 210),
    Row("10 users, 10 fps, dialogue", 10, 10, True, 380),
)


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers that all viewers of a row saw in the measured time."""

    first_token: Latency
    whole: Latency
    frame_age: Latency
    mean_tokens: float
    mean_history_rounds: float
    failures: list[str]
    late_questions: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one row. `frame_*`: from the gateway's sampler; `capture_to_understood`: from the
    camera."""

    row: Row
    seconds: float
    frames: int
    frame_p50_ms: float
    frame_p95_ms: float
    frame_share_within_article: float
    worst_session_p95_ms: float
    queue_p95_ms: float
    step_p50_ms: float
    steps_per_s: float
    capture_to_understood: Latency
    fps_offered: float
    fps_processed: float
    sampled: int
    dropped: dict[str, int]
    kv_hit_ratio: float
    answers: Answers | None
    cores: dict[str, float]
    rss_mib: dict[str, float]
    sent: list[Sent]

    @property
    def drop_ratio(self) -> float:
        return sum(self.dropped.values()) / max(1, self.sampled)


def targets(measured: Measured) -> list[Target]:
    """Targets of one row."""
    row, title = measured.row, measured.row.title
    found = [
        Target(f"{title}: frame latency p95", measured.frame_p95_ms, row.article_ms, "ms"),
        Target(
            f"{title}: capture to understood p95",
            measured.capture_to_understood.p95_ms,
            row.article_ms,
            "ms",
        ),
    ]
    if measured.answers is not None:
        whole = measured.answers.whole
        found.append(Target(f"{title}: whole answer p95", whole.p95_ms, row.article_ms, "ms"))
        share = whole.count * ASK_EVERY_S / (row.users * measured.seconds)
        found.append(Target(f"{title}: answers of those due", share, 0.95, at_least=True))
        found.append(Target(f"{title}: failed answers", len(measured.answers.failures), 0))
    return [
        *found,
        Target(f"{title}: frames dropped", measured.drop_ratio, MAX_DROPS),
        Target(f"{title}: KV hit ratio", measured.kv_hit_ratio, MIN_HITS, at_least=True),
        Target(
            f"{title}: frames processed of those offered",
            measured.fps_processed / measured.fps_offered,
            0.99,
            at_least=True,
        ),
    ]


def result(rows: list[Measured], model: inference_pb2.ModelDescription) -> Result:
    headings = tuple(measured.row.title for measured in rows)
    return Result(
        name="rows",
        tables=[
            Table("The article's rows, latencies in ms", ("", *headings), _latency_lines(rows)),
            Table("Frames, processors, memory", ("", *headings), _load_lines(rows)),
        ],
        targets=[target for measured in rows for target in targets(measured)],
        figures={"rows": [{**asdict(m), "drop_ratio": m.drop_ratio} for m in rows]},
        draw=lambda figure: _draw(figure, rows),
        dtype=model.dtype,
        device=model.device,
        notes=[
            "frame: sampled at the gateway to understood, its ring included, all frames of the "
            "measured time",
            "from the camera: capture to seen as understood, by polling: at most "
            f"{1000 * PROBE_EVERY_S:.0f} ms and a call too high",
            f"dialogue: every user asks every {ASK_EVERY_S:g} s, with up to 10 rounds of history",
        ],
    )


def _latency_lines(rows: list[Measured]) -> list[tuple[str, ...]]:
    def line(name: str, of: Callable[[Measured], Latency | None]) -> tuple[str, ...]:
        found = [of(measured) for measured in rows]
        return (name, *(f"{_ms(x.p50_ms)} / {_ms(x.p95_ms)}" if x else "" for x in found))

    def asked(name: str) -> Callable[[Measured], Latency | None]:
        return lambda m: getattr(m.answers, name) if m.answers else None

    frames = [f"{_ms(m.frame_p50_ms)} / {_ms(m.frame_p95_ms)}" for m in rows]
    return [
        ("article, 4×A100", *(f"{m.row.article_ms:g}" for m in rows)),
        ("frame p50 / p95", *frames),
        line("from the camera", lambda m: m.capture_to_understood),
        line("first token", asked("first_token")),
        line("whole answer", asked("whole")),
        line("newest frame's age at first token", asked("frame_age")),
        (
            "tokens of an answer",
            *(f"{m.answers.mean_tokens:.1f}" if m.answers else "" for m in rows),
        ),
    ]


def _load_lines(rows: list[Measured]) -> list[tuple[str, ...]]:
    names = ("worker", "gateway", "dialogue", "publisher", "viewers", "others")
    return [
        ("fps processed", *(f"{m.fps_processed:.2f} of {m.fps_offered:g}" for m in rows)),
        ("frames dropped", *(f"{100 * m.drop_ratio:.3f} %" for m in rows)),
        ("KV hits", *(f"{100 * m.kv_hit_ratio:.1f} %" for m in rows)),
        ("engine steps/s", *(f"{m.steps_per_s:.0f}" for m in rows)),
        ("engine step p50, ms", *(_ms(m.step_p50_ms) for m in rows)),
        *((f"{name}, cores", *(f"{m.cores[name]:.2f}" for m in rows)) for name in names),
        ("worker, MiB", *(f"{m.rss_mib['worker']:.0f}" for m in rows)),
        ("gateway, MiB", *(f"{m.rss_mib['gateway']:.0f}" for m in rows)),
    ]


def _ms(value: float) -> str:
    return f"{value:.1f}"


def _draw(figure: Any, rows: list[Measured]) -> None:
    axes = figure.add_subplot()
    series = {
        "article (4×A100)": [m.row.article_ms for m in rows],
        "frame p95": [m.frame_p95_ms for m in rows],
        "from camera p95": [m.capture_to_understood.p95_ms for m in rows],
        "whole answer p95": [m.answers.whole.p95_ms if m.answers else 0.0 for m in rows],
    }
    width = 0.8 / len(series)
    for index, (label, heights) in enumerate(series.items()):
        places = [place + width * (index - 1.5) for place in range(len(rows))]
        colour = "lightgrey" if index == 0 else None
        bars = axes.bar(places, heights, width, label=label, color=colour)
        axes.bar_label(bars, [f"{height:.0f}" if height else "" for height in heights], size=8)
    axes.set_xticks(range(len(rows)), [m.row.title for m in rows])
    axes.set_ylabel("ms")
    axes.legend(loc="upper left")
