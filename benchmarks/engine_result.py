"""Result of the engine on published families: figures, targets, tables and plot."""

import statistics
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.floor import Rates, Work
from benchmarks.growth import CHUNK, YOUNG, Growth
from benchmarks.report import Result, Table, Target
from benchmarks.samples import Ratio, chunk_medians

SESSIONS = 8
MIN_RATIO = 20.0
MAX_AGE_RATIO = 1.1
MIN_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Step:
    """A kind of step: the least work, how long that would take, and what the step took, by turns
    with the machine's rates where it waits for products."""

    name: str
    work: Work
    floor_s: list[float]
    measured_s: list[float]

    @property
    def share(self) -> float:
        """Share of the floor; 1 is perfect."""
        return Ratio.of(self.floor_s, self.measured_s).median

    def cells(self) -> tuple[str, ...]:
        return (
            self.name,
            f"{self.work.flops / 1e9:.1f}",
            f"{self.work.bytes / 1e6:.0f}",
            f"{1000 * statistics.median(self.floor_s):.1f}",
            f"{1000 * statistics.median(self.measured_s):.1f}",
            f"{100 * self.share:.0f} %",
        )


@dataclass(slots=True, kw_only=True)
class Measured:
    """Figures of one family."""

    family: str
    dtype: str
    device: str
    parameters: dict[str, int]
    segment_tokens: int
    tubelet: int
    question_tokens: int
    window_tokens: int
    sessions: int
    session_mib: float
    rates: Rates
    streamed_s: list[float]
    reencoded_s: list[float]
    one_tokens_per_s: list[float]
    all_tokens_per_s: list[float]
    steps: list[Step]
    growth: Growth

    @property
    def ratio(self) -> Ratio:
        return Ratio.of(self.reencoded_s, self.streamed_s)

    @property
    def batch_share(self) -> float:
        return self.steps[1].share

    @property
    def step_s(self) -> list[float]:
        """Seconds of a step with one segment."""
        return self.steps[0].measured_s

    @property
    def batch_s(self) -> list[float]:
        """Seconds of a step with a segment in each session."""
        return self.steps[1].measured_s


def targets(found: Measured) -> list[Target]:
    age = found.growth.ratio.median
    return [
        Target(
            f"{found.family}: first token, re-encoding against streaming",
            found.ratio.median,
            MIN_RATIO,
            at_least=True,
        ),
        Target(f"{found.family}: step, an old stream against a young one", age, MAX_AGE_RATIO),
        Target(
            f"{found.family}: share of the floor, {SESSIONS} sessions' frames",
            found.batch_share,
            MIN_SHARE,
            at_least=True,
        ),
    ]


def result(measured: list[Measured], *, old: int, growing_s: float) -> Result:
    """`old`: frames of the stream that grew; `growing_s`: seconds that transformers had for it."""
    first = measured[0]
    rates = ", ".join(
        f"{m.family} {m.rates.flops / 1e9:.0f} GFLOP/s ({m.rates.frame_flops / 1e9:.0f} at the "
        f"shape of {SESSIONS} segments), {m.rates.bytes / 1e9:.1f} GB/s"
        for m in measured
    )
    return Result(
        name="engine",
        tables=[_takes(measured), _against(measured), _floors(measured), _ages(measured, old)],
        targets=[target for found in measured for target in targets(found)],
        figures={
            "families": measured,
            "threads": torch.get_num_threads(),
            "step_ms_by_50_steps": {
                found.family: [
                    round(1000 * s, 3) for s in chunk_medians(found.growth.ours_s, CHUNK)
                ]
                for found in measured
            },
        },
        draw=lambda figure: _draw(figure, measured),
        dtype=first.dtype,
        device=first.device,
        notes=[
            f"{torch.get_num_threads()} threads, random weights; window of 30 segments, "
            f"{first.window_tokens} tokens with the question; Qwen's segments are two frames",
            "floor: the larger of FLOPs and bytes at this machine's best, for frames measured anew "
            f"before every step: {rates}",
            "transformers: pictures prepared beforehand and positions given, neither of which is "
            "timed",
            "growth: 4 layers of width 256 and frames of at most 112 × 112 (SmolVLM 128 × 128), "
            f"a segment a step, rebased on the way; transformers had {growing_s:g} s each",
        ],
    )


def _takes(measured: list[Measured]) -> Table:
    rows = [
        (
            m.family,
            f"{sum(m.parameters.values()) / 1e6:.0f} M",
            str(m.segment_tokens),
            _ms(m.step_s),
            _ms(m.batch_s),
            f"{SESSIONS * statistics.median(m.step_s) / statistics.median(m.batch_s):.2f}×",
            _ms(m.streamed_s),
            f"{statistics.median(m.one_tokens_per_s):.1f}",
            f"{statistics.median(m.all_tokens_per_s):.1f}",
            f"{m.session_mib:.0f}",
            str(m.sessions),
        )
        for m in measured
    ]
    headings = (
        "",
        "parameters",
        "tokens a segment",
        "segment, ms",
        f"{SESSIONS} segments, ms",
        "gain",
        "first token, ms",
        "tokens/s",
        f"of {SESSIONS} answers",
        "KV MiB a session",
        "sessions held",
    )
    return Table("One engine, published families", headings, rows)


def _against(measured: list[Measured]) -> Table:
    rows = [
        (
            m.family,
            str(m.question_tokens),
            _ms(m.streamed_s),
            str(m.window_tokens),
            _ms(m.reencoded_s),
            str(m.ratio),
        )
        for m in measured
    ]
    headings = ("", "tokens", "streaming, ms", "tokens", "transformers, ms", "ratio (least…most)")
    return Table("First token about the last 30 segments: on the trunk, and anew", headings, rows)


def _floors(measured: list[Measured]) -> Table:
    rows = [
        (f"{m.family}: {cells[0]}", *cells[1:])
        for m in measured
        for cells in (step.cells() for step in m.steps)
    ]
    headings = ("", "GFLOP", "MB", "floor, ms", "measured, ms", "share")
    return Table("Against the floor", headings, rows)


def _ages(measured: list[Measured], old: int) -> Table:
    rows = []
    for m in measured:
        growth = m.growth
        last = growth.theirs_frames[-1]
        rows.append(
            (
                m.family,
                _ms(growth.young_s),
                _ms(growth.old_s),
                str(growth.ratio),
                f"{1000 * growth.theirs_at(YOUNG):.1f}",
                f"{1000 * growth.theirs_at(last):.1f} at frame {last:,}",
            )
        )
    headings = (
        "",
        f"frame {YOUNG}, ms",
        f"frame {old:,}, ms",
        "ratio (least…most)",
        f"transformers at {YOUNG}",
        "transformers later",
    )
    return Table("A step by the stream's age, small models", headings, rows)


def _ms(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.1f}"


def _draw(figure: Any, measured: list[Measured]) -> None:
    left, right = figure.subplots(1, 2)
    for number, m in enumerate(measured):
        shares = [100 * step.share for step in m.steps]
        left.bar(
            [n + 0.2 * (number - 1.5) for n in range(len(shares))], shares, 0.2, label=m.family
        )
    left.set_xticks(range(len(measured[0].steps)), [step.name for step in measured[0].steps])
    left.tick_params(axis="x", labelsize=8)
    left.set_ylabel("share of the floor (%)")
    left.axhline(100 * MIN_SHARE, color="grey", linestyle=":")
    left.legend()
    for m in measured:
        ours = [1000 * s for s in chunk_medians(m.growth.ours_s, CHUNK)]
        line = right.plot([CHUNK * m.tubelet * (n + 0.5) for n in range(len(ours))], ours)[0]
        theirs = [1000 * s for s in chunk_medians(m.growth.theirs_s, CHUNK)]
        ages = [CHUNK * m.tubelet * (n + 0.5) for n in range(len(theirs))]
        right.plot(ages, theirs, linestyle="--", color=line.get_color())
    right.set_yscale("log")
    right.set_xlabel("frames")
    right.set_ylabel("step (ms); dashed: transformers' growing cache")
