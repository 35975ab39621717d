"""Whether a stream of 100,000 frames costs the same to its end: step time, device and host memory.

One session sees all of them, with a question every 250. After every thousand a young session is
opened beside it, shown a window, and both go on in turns; so each step of the old one is compared
with one of a young one at the same time, whatever else the machine does meanwhile.
"""

import gc
import statistics
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from benchmarks.clips import model_frames
from benchmarks.feed import Feed, ask, started_engine
from benchmarks.flat import ASK_EVERY, MAX_GROWTH_MIB, MAX_RATIO, QUESTION
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import slope
from services.inference_worker.engine.thread import Engine

FRAMES = 100_000
EVERY = 1000  # frames between two samples
YOUNG = 60  # frames: its window is full, and evicts
TURN = 10  # frames of one session before the other goes on
TURNS = 4


@dataclass(frozen=True, slots=True)
class _Sample:
    """Figures after so many frames. Seconds are medians: of all steps since the last sample, of the
    young and of the old session's steps in turns, of questions' first tokens."""

    frames: int
    step_s: float
    young_s: float
    old_s: float
    first_token_s: float
    rss_mib: float
    device_mib: float
    pages_used: int
    pages_promised: int

    @property
    def ratio(self) -> float:
        return self.old_s / self.young_s


def run(report: Report, *, quick: bool) -> Result:
    frames, every = (2000, 100) if quick else (FRAMES, EVERY)
    engine = started_engine()
    try:
        pictures = model_frames(64)
        old = Feed(engine, "old", pictures)
        samples = []
        while old.shown < frames:
            samples.append(_thousand(engine, old, pictures, every))
            report(f"frame {old.shown:,} of {frames:,}", old.shown / frames)
        engine.check_integrity().result()
    finally:
        engine.stop()
    return _result(engine, samples)


def _thousand(engine: Engine, old: Feed, pictures: list[bytes], every: int) -> _Sample:
    steps_s, firsts_s = [], []
    turns = TURN * TURNS
    for number in range(1, every - turns + 1):
        steps_s.append(old.step_s())
        if number % min(ASK_EVERY, every // 2) == 0:
            firsts_s.append(ask(engine, old.session, QUESTION).first_token_s)
    gc.collect()
    rss = psutil.Process().memory_info().rss
    on_gpu = engine.device.type == "cuda"
    device = torch.cuda.memory_allocated() if on_gpu else 0
    held = engine.snapshot()
    young = Feed(engine, "young", pictures)
    for _ in range(YOUNG):
        young.show()
    young_s, old_s = [], []
    for _ in range(TURNS):
        young_s += [young.step_s() for _ in range(TURN)]
        old_s += [old.step_s() for _ in range(TURN)]
    young.close()
    return _Sample(
        old.shown,
        statistics.median(steps_s),
        statistics.median(young_s),
        statistics.median(old_s),
        statistics.median(firsts_s),
        rss / 2**20,
        device / 2**20,
        held.pages_used,
        held.pages_promised,
    )


def _result(engine: Engine, samples: list[_Sample]) -> Result:
    tenth = max(1, len(samples) // 10)
    first, last = samples[:tenth], samples[-tenth:]
    ratios = [statistics.median(sample.ratio for sample in part) for part in (first, last)]
    settled = samples[tenth:]  # allocators and thread pools reach their size in the first tenth
    grown = settled[-1].rss_mib - settled[0].rss_mib
    per_frame = slope([s.frames for s in settled], [s.rss_mib for s in settled]) * 2**20
    pages = {(sample.pages_used, sample.pages_promised) for sample in settled}
    shown = [samples[0], *(samples[tenth * n - 1] for n in range(1, 11))]
    table = Table(
        f"One session, {samples[-1].frames:,} frames: the same cost to the end",
        (
            "frame",
            "step, ms",
            "in turns, ms",
            "young, ms",
            "ratio",
            "first token, ms",
            "resident, MiB",
            "KV pages used / promised",
        ),
        [
            (
                f"{sample.frames:,}",
                *(f"{1000 * s:.2f}" for s in (sample.step_s, sample.old_s, sample.young_s)),
                f"{sample.ratio:.3f}",
                f"{1000 * sample.first_token_s:.1f}",
                f"{sample.rss_mib:.0f}",
                f"{sample.pages_used} / {sample.pages_promised}",
            )
            for sample in shown
        ],
    )
    return Result(
        name="flat-long",
        tables=[table],
        targets=[
            Target("step against young, last tenth to first", ratios[1] / ratios[0], MAX_RATIO),
            Target("step against young, last tenth", ratios[1], MAX_RATIO),
            Target("memory grown", grown, MAX_GROWTH_MIB, "MiB"),
            Target("counts of KV pages seen", float(len(pages)), 1.0),
        ],
        figures={
            "samples": samples[:: max(1, len(samples) // 10)],
            "rss_bytes_per_frame": per_frame,
            "ratios": ratios,
        },
        draw=lambda figure: _draw(figure, samples),
        dtype=engine.dtype_name,
        device=engine.device_name,
        notes=[
            f"memory: from frame {settled[0].frames:,}, {per_frame:+.1f} bytes a frame; "
            f"a question every {ASK_EVERY} frames; a young session of {YOUNG} frames beside it "
            f"for {TURN * TURNS} of every {EVERY}"
        ],
    )


def _draw(figure: Any, samples: list[_Sample]) -> None:
    left, middle, right = figure.subplots(1, 3)
    frames = [sample.frames / 1000 for sample in samples]
    left.plot(frames, [1000 * s.step_s for s in samples], linewidth=0.8, label="step")
    left.plot(frames, [1000 * s.young_s for s in samples], linewidth=0.8, label="young session's")
    left.set_ylabel("median step (ms)")
    left.legend()
    middle.plot(frames, [sample.ratio for sample in samples], linewidth=0.8)
    middle.set_ylabel("step, old against young")
    right.plot(frames, [sample.rss_mib for sample in samples], label="resident")
    if any(sample.device_mib for sample in samples):
        right.plot(frames, [sample.device_mib for sample in samples], label="device")
    right.set_ylabel("memory (MiB)")
    right.legend()
    for axes in (left, middle, right):
        axes.set_xlabel("thousand frames")
        axes.set_ylim(0, 1.2 * axes.dataLim.ymax)
