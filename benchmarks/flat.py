"""Whether a stream of any length costs the same: step time, first token and memory.

One session grows to 20,000 frames (that is through many evictions and several rebases), with a
question now and then. Then a young session is opened beside it and grown to 200 frames, and both
go on in turns, so that the comparison is made at one time.
"""

import gc
import statistics
from dataclasses import dataclass, field
from typing import Any

import psutil

from benchmarks.clips import model_frames
from benchmarks.feed import Feed, ask, started_engine
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Ratio, chunk_medians, slope
from services.inference_worker.engine.thread import Engine

QUESTION = "What is in the scene?"
MAX_RATIO = 1.1
MAX_GROWTH_MIB = 16.0
ASK_EVERY = 250
CHUNK = 100
TURN = 20  # frames of one session before the other goes on


@dataclass(slots=True)
class _Growth:
    """While one session grows: step seconds of every frame; the rest at `frames`."""

    step_s: list[float] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Turns:
    """Medians of each turn, seconds."""

    young_s: list[float] = field(default_factory=list)
    old_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> Ratio:
        return Ratio.of(self.old_s, self.young_s)

    def cells(self) -> tuple[str, str, str]:
        young, old = (1000 * statistics.median(s) for s in (self.young_s, self.old_s))
        return f"{young:.2f}", f"{old:.2f}", str(self.ratio)


def run(report: Report, *, quick: bool) -> Result:
    old_age, young_age, turns = (600, 60, 4) if quick else (20_000, 200, 20)
    engine = started_engine()
    try:
        frames = model_frames(64)
        old = Feed(engine, "old", frames)
        growth = _grow(old, old_age, young_age, report)
        young = Feed(engine, "young", frames)
        for _ in range(young_age):
            young.show()
        report("old and young in turns", 0.95)
        steps = _Turns()
        firsts = _Turns()
        for _ in range(turns):
            for feed, step_s, first_s in (
                (young, steps.young_s, firsts.young_s),
                (old, steps.old_s, firsts.old_s),
            ):
                step_s.append(statistics.median(_step_s(feed) for _ in range(TURN)))
                asked = [ask(engine, feed.session, QUESTION, 1) for _ in range(3)]
                first_s.append(statistics.median(one.first_token_s for one in asked))
        engine.check_integrity().result()
    finally:
        engine.stop()
    return _result(engine, growth, (young_age, old_age), steps, firsts)


def _step_s(feed: Feed) -> float:
    receipt = feed.show()
    return receipt.latency_s - receipt.queue_s


def _grow(feed: Feed, age: int, sampled_every: int, report: Report) -> _Growth:
    growth, process = _Growth(), psutil.Process()
    while feed.shown < age:
        growth.step_s.append(_step_s(feed))
        if feed.shown % ASK_EVERY == 0:
            ask(feed.engine, feed.session, QUESTION)
        if feed.shown % sampled_every == 0:
            gc.collect()
            growth.frames.append(feed.shown)
            growth.rss_mib.append(process.memory_info().rss / 2**20)
            growth.pages.append(feed.engine.snapshot().pages_used)
            report(f"frame {feed.shown:,} of {age:,}", 0.95 * feed.shown / age)
    return growth


def _result(
    engine: Engine, growth: _Growth, ages: tuple[int, int], steps: _Turns, firsts: _Turns
) -> Result:
    young_age, old_age = ages
    # The first tenth is left out: allocators and thread pools reach their size there.
    settled = max(1, len(growth.rss_mib) // 10)
    early, late = growth.rss_mib[settled], growth.rss_mib[-1]
    bytes_per_frame = slope(growth.frames[settled:], growth.rss_mib[settled:]) * 2**20
    pages = f"{growth.pages[settled]}", f"{growth.pages[-1]}", ""
    table = Table(
        "One session's age: the same cost at any time",
        ("", f"frame {young_age:,}", f"frame {old_age:,}", "ratio (least…most)"),
        [
            ("engine step, ms", *steps.cells()),
            ("first token, ms", *firsts.cells()),
            ("KV pages in use", *pages),
            (
                "resident memory, MiB",
                f"{early:.0f}",
                f"{late:.0f}",
                f"{bytes_per_frame:+.0f} bytes a frame",
            ),
        ],
    )
    return Result(
        name="flat",
        tables=[table],
        targets=[
            Target("step time, old against young", steps.ratio.median, MAX_RATIO),
            Target("first token, old against young", firsts.ratio.median, MAX_RATIO),
            Target("memory grown", late - early, MAX_GROWTH_MIB, "MiB"),
        ],
        figures={
            "young_frames": young_age,
            "old_frames": old_age,
            "step": steps,
            "first_token": firsts,
            "step_ms_by_100_frames": [
                round(1000 * step, 3) for step in chunk_medians(growth.step_s, CHUNK)
            ],
            "frames": growth.frames,
            "rss_mib": [round(rss, 2) for rss in growth.rss_mib],
            "kv_pages": growth.pages,
            "rss_bytes_per_frame": bytes_per_frame,
        },
        draw=lambda figure: _draw(figure, growth),
        dtype=engine.dtype_name,
        device=engine.device_name,
        notes=[
            f"memory: from frame {growth.frames[settled]:,}; "
            f"a question every {ASK_EVERY} frames while the session grows"
        ],
    )


def _draw(figure: Any, growth: _Growth) -> None:
    left, right = figure.subplots(1, 2)
    medians = [1000 * step for step in chunk_medians(growth.step_s, CHUNK)]
    left.plot([CHUNK * (n + 0.5) for n in range(len(medians))], medians, linewidth=0.8)
    left.set_ylabel(f"engine step, median of {CHUNK} (ms)")
    right.plot(growth.frames, growth.rss_mib)
    right.set_ylabel("resident memory (MiB)")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.set_xlabel("frames")
