"""Cost of a step as a stream grows: in the engine, and in a cache that keeps everything."""

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.feed import Feed
from benchmarks.published import SMALL_PIXELS, Growing, Theirs, noise, published_engine
from benchmarks.report import Report
from benchmarks.samples import Ratio

YOUNG = 100  # frames
CHUNK = 50  # steps
TURN = 5  # steps of one session before the other goes on


@dataclass(slots=True)
class Growth:
    """Seconds of a step by the stream's age. `young_s`, `old_s`: medians of turns, when one has
    `YOUNG` frames and the other many. `theirs_frames[n]`: frames after `theirs_s[n]`."""

    ours_s: list[float] = field(default_factory=list)
    young_s: list[float] = field(default_factory=list)
    old_s: list[float] = field(default_factory=list)
    theirs_s: list[float] = field(default_factory=list)
    theirs_frames: list[int] = field(default_factory=list)

    @property
    def ratio(self) -> Ratio:
        return Ratio.of(self.old_s, self.young_s)

    def theirs_at(self, frames: int) -> float:
        """Around that age."""
        near = sorted(range(len(self.theirs_s)), key=lambda n: abs(self.theirs_frames[n] - frames))
        return statistics.median(self.theirs_s[n] for n in near[:9])


def grow(folder: Path, old_frames: int, turns: int, theirs_s: float, report: Report) -> Growth:
    """`theirs_s`: seconds that transformers may take."""
    engine, model = published_engine(folder, SMALL_PIXELS)
    growth = Growth()
    try:
        frames = noise(model, 64)
        growing = Growing(Theirs(model, folder), frames)
        report("transformers' growing cache", 0.0)
        end_s = time.perf_counter() + theirs_s
        while growing.shown < old_frames and time.perf_counter() < end_s:
            growth.theirs_s.append(growing.show())
            growth.theirs_frames.append(growing.shown)
        del growing
        old = Feed(engine, "old", frames)
        while old.shown < old_frames:
            growth.ours_s.append(old.step_s())
            if len(growth.ours_s) % CHUNK == 0:
                report(f"frame {old.shown:,}", 0.3 + 0.7 * old.shown / old_frames)
        young = Feed(engine, "young", frames)
        while young.shown < YOUNG:
            young.show()
        for _ in range(turns):
            for feed, seconds in ((young, growth.young_s), (old, growth.old_s)):
                seconds.append(statistics.median(feed.step_s() for _ in range(TURN)))
        engine.check_integrity().result()
    finally:
        engine.stop()
    return growth
