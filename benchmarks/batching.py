"""Throughput of ten sessions in shared steps against one session alone.

Every session has one frame in flight, as a live stream has: the next one is sent when the last one
is understood. One and ten take turns on the same engine.
"""

import statistics
import time
from typing import Any

from benchmarks.clips import model_frames
from benchmarks.feed import Feed, started_engine
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Ratio

SESSIONS = 10
TARGET = 2.5
SETTLE_S = 1.3  # the engine waits for company of sessions that sent something within a second


def run(report: Report, *, quick: bool) -> Result:
    turns, block_s = (2, 0.5) if quick else (9, 4.0)
    engine = started_engine()
    try:
        frames = model_frames(64)
        feeds = [Feed(engine, f"bench-{index}", frames) for index in range(SESSIONS)]
        for feed in feeds:
            for _ in range(engine.model.spec.window_segments):
                feed.show()
        alone: list[float] = []
        together: list[float] = []
        for turn in range(turns):
            report(f"turn {turn + 1} of {turns}", turn / turns)
            alone.append(_frames_per_s(feeds[:1], block_s))
            together.append(_frames_per_s(feeds, block_s))
        engine.check_integrity().result()
    finally:
        engine.stop()
    ratio = Ratio.of(together, alone)
    one, ten = statistics.median(alone), statistics.median(together)
    table = Table(
        "Batching: frames understood per second, one frame in flight per session",
        ("sessions", "frames/s", "ms per frame"),
        [
            ("1", f"{one:.0f}", f"{1000 / one:.2f}"),
            (str(SESSIONS), f"{ten:.0f}", f"{1000 / ten:.2f}"),
            ("ratio (least…most)", str(ratio), ""),
        ],
    )
    return Result(
        name="batching",
        tables=[table],
        targets=[Target("ten sessions against one", ratio.median, TARGET, at_least=True)],
        figures={"alone_fps": alone, "together_fps": together, "ratio": ratio},
        draw=lambda figure: _draw(figure, alone, together),
        dtype=engine.dtype_name,
        device=engine.device_name,
    )


def _frames_per_s(feeds: list[Feed], block_s: float) -> float:
    """Frames per second in the steady state."""
    for feed in feeds:
        feed.start()
    time.sleep(SETTLE_S)
    before, started_s = sum(feed.count for feed in feeds), time.perf_counter()
    time.sleep(block_s)
    while (after := sum(feed.count for feed in feeds)) == before:
        time.sleep(0.01)
    ended_s = time.perf_counter()
    for feed in feeds:
        feed.stop()
    return (after - before) / (ended_s - started_s)


def _draw(figure: Any, alone: list[float], together: list[float]) -> None:
    axes = figure.add_subplot()
    turns = range(1, len(alone) + 1)
    axes.plot(turns, together, marker="o", label=f"{SESSIONS} sessions")
    axes.plot(turns, alone, marker="o", label="1 session")
    axes.set_xticks(turns)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("turn")
    axes.set_ylabel("frames per second")
    axes.legend(loc="lower right")
