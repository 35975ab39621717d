"""The engine on published families: what it takes, against transformers and against the floor.

Each family runs at a size that a CPU bears, with random weights, on one engine:

- a frame into a live window, alone and with those of seven other sessions; the first token of a
  question; tokens per second of one answer and of eight in as many sessions;
- the same question put to transformers' own class, which reads the whole window anew;
- the least work of these steps at this machine's best rates (see `floor`);
- with a small model, a stream of 5,000 frames, and the same stream in transformers' cache, which
  grows, for as long as there is time.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.feed import Feed, ask, begin, show_together, together_s
from benchmarks.floor import Rates, Work, decode_work, frame_work
from benchmarks.growth import CHUNK, YOUNG, Growth, grow
from benchmarks.published import (
    PIXELS,
    SIZES,
    SMALL_PIXELS,
    SMALL_SIZES,
    Theirs,
    noise,
    published_engine,
    write,
)
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Ratio, chunk_medians

QUESTION = "What is happening in the video?"
SESSIONS = 8
MIN_RATIO = 20.0
MAX_AGE_RATIO = 1.1
MIN_SHARE = 0.6
QUIET_S = 1.2  # after so long without a frame, a session's questions have the device to themselves
PAUSE_S = 0.02  # lets the other side's threads go to sleep


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Extent of the measurement. `growing_s`: for transformers' growing cache, a family."""

    sizes: Mapping[str, Mapping[str, Any]]
    pixels: int
    steps: int
    turns: int
    answers: int
    answer_tokens: int
    old: int
    age_turns: int
    growing_s: float


FULL = Effort(
    sizes=SIZES,
    pixels=PIXELS,
    steps=10,
    turns=3,
    answers=2,
    answer_tokens=24,
    old=5000,
    age_turns=20,
    growing_s=8.0,
)
QUICK = Effort(
    sizes=SMALL_SIZES,
    pixels=SMALL_PIXELS,
    steps=3,
    turns=2,
    answers=1,
    answer_tokens=8,
    old=400,
    age_turns=3,
    growing_s=1.0,
)


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


def run(report: Report, *, quick: bool) -> Result:
    effort = QUICK if quick else FULL
    measured = list[Measured]()
    for index, family in enumerate(effort.sizes):

        def tell(doing: str, done: float, family: str = family, index: int = index) -> None:
            report(f"{family}, {doing}", (index + done) / len(effort.sizes))

        with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
            measured.append(_family(family, Path(folder), effort, tell))
        gc.collect()
    return result(measured, effort)


def _family(family: str, folder: Path, effort: Effort, report: Report) -> Measured:
    report("writing checkpoints", 0.0)
    large = write(family, folder / "large", effort.sizes[family])
    small = write(family, folder / "small", SMALL_SIZES[family])

    def grown(doing: str, done: float) -> None:
        report(doing, 0.1 + 0.3 * done)

    growth = grow(small, effort.old, effort.age_turns, effort.growing_s, grown)
    return _measure(family, large, growth, effort, report)


def _measure(family: str, folder: Path, growth: Growth, effort: Effort, tell: Report) -> Measured:
    tell("loading", 0.4)
    engine, model = published_engine(folder, effort.pixels)
    try:
        spec = model.spec
        sessions = engine.snapshot().num_admissible
        frames = noise(model, spec.window_segments * spec.tubelet)
        feeds = [Feed(engine, f"bench-{index}", frames) for index in range(SESSIONS)]
        for shown in range(spec.window_segments):
            tell("filling windows", 0.5 + 0.1 * shown / spec.window_segments)
            show_together(feeds)
        tell("frames", 0.6)
        rates = Rates.of(model, SESSIONS * spec.layout.segment_tokens)
        together = [(rates.again(model), together_s(feeds)) for _ in range(effort.steps)]
        time.sleep(QUIET_S)
        alone = [(rates.again(model), feeds[0].step_s()) for _ in range(effort.steps)]

        theirs = Theirs(model, folder)
        question = model.question_tokens([], QUESTION)
        starts = range(0, len(frames), spec.tubelet)
        window = theirs.window([frames[n : n + spec.tubelet] for n in starts], question)
        theirs.first_token(window)
        streamed_s, reencoded_s = list[float](), list[float]()
        for turn in range(effort.turns):
            tell("questions", 0.7 + 0.2 * turn / effort.turns)
            feeds[0].show()
            asked = ask(engine, feeds[0].session, QUESTION, 1)
            streamed_s.append(asked.first_token_s)
            time.sleep(PAUSE_S)
            reencoded_s.append(theirs.first_token(window)[1])
            time.sleep(PAUSE_S)
        del theirs

        tell("answers", 0.9)
        time.sleep(QUIET_S)
        length = effort.answer_tokens
        one = [_tokens_per_s(feeds[:1], length) for _ in range(effort.answers)]
        every = [_tokens_per_s(feeds, length) for _ in range(effort.answers)]
        engine.check_integrity().result()
    finally:
        engine.stop()
    trunk_tokens = int(window["input_ids"].shape[1]) - len(question)
    segment = (trunk_tokens - len(model.sink_tokens())) // spec.window_segments

    def step(name: str, work: Work, turns: list[tuple[Rates, float]]) -> Step:
        floor_s = [work.floor_s(now) for now, _ in turns]
        return Step(name, work, floor_s, [spent_s for _, spent_s in turns])

    seen = trunk_tokens - segment
    after = trunk_tokens + len(question)
    steps = [
        step("a frame segment", frame_work(model, 1, segment, seen), alone),
        step(f"{SESSIONS} frame segments", frame_work(model, SESSIONS, segment, seen), together),
        step(
            "an answer's token", decode_work(model, 1, after), [(rates, 1 / rate) for rate in one]
        ),
        step(
            f"a token of {SESSIONS} answers",
            decode_work(model, SESSIONS, after),
            [(rates, SESSIONS / rate) for rate in every],
        ),
    ]
    pages = engine.core.admission.shape().cost(engine.core.cache.pool.page_size)
    return Measured(
        family=family,
        dtype=engine.dtype_name,
        device=engine.device_name,
        parameters={
            "decoder": sum(p.numel() for p in model.decoder.layers.parameters()),
            "tower": sum(p.numel() for p in model.tower.parameters()),
            "embedding": model.decoder.embedding.weight.numel(),
        },
        segment_tokens=segment,
        tubelet=spec.tubelet,
        question_tokens=len(question),
        window_tokens=trunk_tokens + len(question),
        sessions=sessions,
        session_mib=pages * engine.core.runner.store.page_bytes / 2**20,
        rates=rates,
        streamed_s=streamed_s,
        reencoded_s=reencoded_s,
        one_tokens_per_s=one,
        all_tokens_per_s=every,
        steps=steps,
        growth=growth,
    )


def _tokens_per_s(feeds: list[Feed], length: int) -> float:
    """Tokens per second of all answers together, from their first tokens on."""
    answers = [begin(feed.engine, feed.session, QUESTION, length) for feed in feeds]
    for asked in answers:
        asked.wait()
    seconds = max(a.ended_s for a in answers) - min(a.first_s for a in answers)
    return len(answers) * (length - 1) / seconds


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


def result(measured: list[Measured], effort: Effort) -> Result:
    first = measured[0]
    rates = ", ".join(
        f"{m.family} {m.rates.flops / 1e9:.0f} GFLOP/s ({m.rates.frame_flops / 1e9:.0f} at the "
        f"shape of {SESSIONS} segments), {m.rates.bytes / 1e9:.1f} GB/s"
        for m in measured
    )
    return Result(
        name="engine",
        tables=[_takes(measured), _against(measured), _floors(measured), _ages(measured, effort)],
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
            f"a segment a step, rebased on the way; transformers had {effort.growing_s:g} s each",
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


def _ages(measured: list[Measured], effort: Effort) -> Table:
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
        f"frame {effort.old:,}, ms",
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
