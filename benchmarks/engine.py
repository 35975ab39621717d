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
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine_result import SESSIONS, Measured, Step, result
from benchmarks.feed import Feed, ask, begin, show_together, together_s
from benchmarks.floor import Rates, Work, decode_work, frame_work
from benchmarks.growth import Growth, grow
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
from benchmarks.report import Report, Result

QUESTION = "What is happening in the video?"
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


def run(report: Report, *, quick: bool) -> Result:
    effort = QUICK if quick else FULL
    measured = list[Measured]()
    for index, family in enumerate(effort.sizes):

        def tell(doing: str, done: float, family: str = family, index: int = index) -> None:
            report(f"{family}, {doing}", (index + done) / len(effort.sizes))

        with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
            measured.append(_family(family, Path(folder), effort, tell))
        gc.collect()
    return result(measured, old=effort.old, growing_s=effort.growing_s)


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
