"""Steps of frames with something against steps without it, by turns on the same engine: the
built-in model, and shapes of published ones.
"""

import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.clips import model_frames
from benchmarks.feed import Feed, show_together, started_engine, together_s
from benchmarks.published import (
    PIXELS,
    SIZES,
    SMALL_PIXELS,
    SMALL_SIZES,
    noise,
    published_engine,
    write,
)
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Ratio
from services.inference_worker.engine.thread import Engine

SESSIONS = 8
BUILTIN = "builtin"
MODELS = (BUILTIN, *SIZES)


@dataclass(slots=True)
class Steps:
    """Seconds of a step, the median of each turn."""

    with_s: list[float] = field(default_factory=list)
    without_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> Ratio:
        return Ratio.of(self.with_s, self.without_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Variant: something that is there or not. `headings`: of a step's time with it and without.
    `without`: the context in which it is not there. `check` raises RuntimeError for an engine that
    it says nothing of. `still`: every frame is the same. `most`: the largest ratio that is wanted,
    with `SESSIONS` frames in a step."""

    name: str
    headings: tuple[str, str]
    without: Callable[[], AbstractContextManager[Any]]
    check: Callable[[Engine], None]
    still: bool = False
    most: float = 1.0


def compare(variant: Variant, report: Report, *, quick: bool) -> Result:
    """Steps of one frame and of `SESSIONS` frames, of every model."""
    turns, steps = (2, 1) if quick else (7, 3)
    one: dict[str, Steps] = {}
    many: dict[str, Steps] = {}
    for number, name in enumerate(MODELS):
        report(name, number / len(MODELS))
        engine, frames = _engine(name, quick)
        try:
            variant.check(engine)
            shown = frames[:1] if variant.still else frames
            feeds = [Feed(engine, f"bench-{index}", shown) for index in range(SESSIONS)]
            for _ in range(engine.model.spec.window_segments):
                show_together(feeds)
            one[name], many[name] = Steps(), Steps()
            for turn in range(turns):
                report(name, (number + turn / turns) / len(MODELS))
                for found, some in ((one[name], feeds[:1]), (many[name], feeds)):
                    found.with_s.append(_median_s(some, steps))
                    with variant.without():
                        found.without_s.append(_median_s(some, steps))
        finally:
            engine.stop()
    return _result(variant, engine, one, many)


def _engine(name: str, quick: bool) -> tuple[Engine, list[bytes]]:
    if name == BUILTIN:
        return started_engine(), model_frames(64)
    sizes, pixels = (SMALL_SIZES, SMALL_PIXELS) if quick else (SIZES, PIXELS)
    with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
        engine, model = published_engine(write(name, Path(folder, name), sizes[name]), pixels)
    return engine, noise(model, model.spec.window_segments * model.spec.tubelet)


def _median_s(feeds: list[Feed], steps: int) -> float:
    return statistics.median(together_s(feeds) for _ in range(steps))


def _result(
    variant: Variant, engine: Engine, one: dict[str, Steps], many: dict[str, Steps]
) -> Result:
    rows = [
        (
            f"{name}, {count} frame{'s' if count > 1 else ''}",
            f"{1000 * statistics.median(found.with_s):.1f}",
            f"{1000 * statistics.median(found.without_s):.1f}",
            str(found.ratio),
        )
        for name in one
        for count, found in ((1, one[name]), (SESSIONS, many[name]))
    ]
    times = tuple(f"{heading}, ms" for heading in variant.headings)
    return Result(
        name=variant.name,
        tables=[Table("A step of frames", ("model", *times, "ratio (least…most)"), rows)],
        targets=[
            Target(f"{name}: {SESSIONS} frames", each.ratio.median, variant.most)
            for name, each in many.items()
        ],
        figures={"one": one, "many": many},
        draw=lambda figure: _draw(figure, variant, one, many),
        dtype=engine.dtype_name,
        device=engine.device_name,
    )


def _draw(figure: Any, variant: Variant, one: dict[str, Steps], many: dict[str, Steps]) -> None:
    axes = figure.add_subplot()
    places = range(len(one))
    for offset, label, found in ((-0.2, "1 frame", one), (0.2, f"{SESSIONS} frames", many)):
        ratios = [each.ratio.median for each in found.values()]
        axes.bar([place + offset for place in places], ratios, 0.4, label=label)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xticks(list(places), list(one))
    axes.set_ylabel(f"time of a step, {' against '.join(variant.headings)}")
    axes.legend()
