"""Steps of frames with the kernels that were built for a worker's CPU, against PyTorch's operators
in their place, by turns on the same engine: the built-in model, and shapes of published ones.
"""

import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

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
from services.inference_worker.device import ops as kernels
from services.inference_worker.engine.thread import Engine

SESSIONS = 8
BUILTIN = "builtin"
MODELS = (BUILTIN, *SIZES)
MAX_RATIO = 1.0


@dataclass(slots=True)
class Steps:
    """Seconds of a step, the median of each turn."""

    kernels_s: list[float] = field(default_factory=list)
    pytorch_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> Ratio:
        return Ratio.of(self.kernels_s, self.pytorch_s)


def run(report: Report, *, quick: bool) -> Result:
    """Raises RuntimeError where nothing was built, and on GPUs, where steps are replayed as
    they were recorded."""
    turns, steps = (2, 1) if quick else (7, 3)
    one: dict[str, Steps] = {}
    many: dict[str, Steps] = {}
    for number, name in enumerate(MODELS):
        report(name, number / len(MODELS))
        engine, frames = _engine(name, quick)
        try:
            dtype = engine.core.runner.dtype
            if engine.device.type != "cpu" or kernels.built(dtype) is None:
                raise RuntimeError("no kernels were built here for a CPU (WORKER_DEVICE=cpu)")
            feeds = [Feed(engine, f"bench-{index}", frames) for index in range(SESSIONS)]
            for _ in range(engine.model.spec.window_segments):
                show_together(feeds)
            one[name], many[name] = Steps(), Steps()
            for turn in range(turns):
                report(name, (number + turn / turns) / len(MODELS))
                for found, shown in ((one[name], feeds[:1]), (many[name], feeds)):
                    found.kernels_s.append(_median_s(shown, steps))
                    with patch.object(kernels, "built", lambda dtype: None):
                        found.pytorch_s.append(_median_s(shown, steps))
        finally:
            engine.stop()
    return _result(engine, one, many)


def _engine(name: str, quick: bool) -> tuple[Engine, list[bytes]]:
    if name == BUILTIN:
        return started_engine(), model_frames(64)
    sizes, pixels = (SMALL_SIZES, SMALL_PIXELS) if quick else (SIZES, PIXELS)
    with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
        engine, model = published_engine(write(name, Path(folder, name), sizes[name]), pixels)
    return engine, noise(model, model.spec.window_segments * model.spec.tubelet)


def _median_s(feeds: list[Feed], steps: int) -> float:
    return statistics.median(together_s(feeds) for _ in range(steps))


def _result(engine: Engine, one: dict[str, Steps], many: dict[str, Steps]) -> Result:
    rows = [
        (
            f"{name}, {count} frame{'s' if count > 1 else ''}",
            f"{1000 * statistics.median(found.kernels_s):.1f}",
            f"{1000 * statistics.median(found.pytorch_s):.1f}",
            str(found.ratio),
        )
        for name in one
        for count, found in ((1, one[name]), (SESSIONS, many[name]))
    ]
    return Result(
        name="kernels",
        tables=[
            Table(
                "A step of frames",
                ("model", "kernels, ms", "PyTorch, ms", "ratio (least…most)"),
                rows,
            )
        ],
        targets=[
            Target(f"{name}: {SESSIONS} frames", each.ratio.median, MAX_RATIO)
            for name, each in many.items()
        ],
        figures={"one": one, "many": many},
        draw=lambda figure: _draw(figure, one, many),
        dtype=engine.dtype_name,
        device=engine.device_name,
    )


def _draw(figure: Any, one: dict[str, Steps], many: dict[str, Steps]) -> None:
    axes = figure.add_subplot()
    places = range(len(one))
    for offset, label, found in ((-0.2, "1 frame", one), (0.2, f"{SESSIONS} frames", many)):
        ratios = [each.ratio.median for each in found.values()]
        axes.bar([place + offset for place in places], ratios, 0.4, label=label)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xticks(list(places), list(one))
    axes.set_ylabel("time of a step, kernels against PyTorch")
    axes.legend()
