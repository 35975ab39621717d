"""Standing rules on stories whose truth is known: what a shop's rules tell, when, at what cost.

A worker in its own process is shown stories of the shop that the built-in model knows, frame by
frame and each understood before the next, and is asked at every look what a watchman would ask.
Time is the story's own: figures are those of a machine that keeps up, whatever else this one does.
Every look asks for the whole catalogue, so that a rule with a hint is compared with one without on
the same probabilities.
"""

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.processes import running
from benchmarks.report import Report, Result, Table, Target
from services.gateway.rules.judgement import NS, Judgement, Reading
from services.gateway.rules.kinds import (
    asked_of,
    hints_of,
    reading_of,
    spares,
    unchanged,
)
from sightline.v1 import inference_pb2, inference_pb2_grpc, rules_pb2

SEED = 990_101  # of stories that no training has drawn
FPS = 8.0
LOOK_FRAMES = 2  # from one look to the next
LEAST_S, NEAR_S = 1.0, 1.0  # that something is held; within which an event is of a change
MAX_MISSED = 0.05
DEBOUNCE_S, PROHIBITED_DEBOUNCE_S = 0.2, 0.4
PROHIBITED = "something prohibited is shown"
NAMES = ("whole catalogue", "with a hint", "prohibited")


@dataclass(slots=True)
class Story:
    """Frames of a story, and of each what is held ("": nobody can say) and whether something
    prohibited is shown."""

    frames: list[bytes]
    held: list[str]
    prohibited: list[str]

    @property
    def seconds(self) -> float:
        return len(self.frames) / FPS


@dataclass(slots=True)
class Told:
    """What a rule told of one story: its state at every frame, and the frames of its events."""

    states: list[str] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)
    statements: int = 0


@dataclass(slots=True)
class Score:
    """What was told beside what was so."""

    changes: int = 0
    found: int = 0
    events: int = 0
    right: int = 0
    delays_s: list[float] = field(default_factory=list)
    statements: int = 0

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.events + self.changes) if self.events + self.changes else 1.0


def run(report: Report, *, quick: bool) -> Result:
    number, seconds = (1, 20.0) if quick else (4, 60.0)
    with tempfile.TemporaryDirectory() as name:
        return asyncio.run(_measure(Path(name), number, seconds, report))


def story(seed: int, seconds: float) -> Story:
    """A story of the shop with its truth."""
    from training.recipe import load_recipe
    from training.world.video import true_at
    from training.world.wide import film

    clip = film(seed, int(seconds * FPS), "shop", trade=load_recipe("builtin").trade)
    found = Story([frame.tobytes() for frame in clip.pixels], [], [])
    for frame in range(len(clip)):
        truth = {kind: answer for _, answer, kind in true_at(clip, frame)}
        found.held.append(truth.get("held", ""))
        found.prohibited.append(truth.get("prohibited", ""))
    return found


def shop() -> rules_pb2.Rule:
    """The rule that a shop sets: which of its goods the hand is holding."""
    from training.recipe import load_recipe
    from training.world.catalogue import items, with_article

    trade = load_recipe("builtin").trade
    goods = {item.noun: item for item in items()}
    names: list[str] = []
    for noun in trade.nouns:
        if goods[noun].group == "prohibited":
            continue
        names += [f"{tint} {noun}" for tint in trade.tints] if goods[noun].tintable else [noun]
    products = [rules_pb2.Product(sku=name, names=[name]) for name in map(with_article, names)]
    product = rules_pb2.ProductRule(
        statement="the hand is holding {}", idle="the hand is holding nothing", products=products
    )
    return rules_pb2.Rule(product=product)


async def _measure(folder: Path, number: int, seconds: float, report: Report) -> Result:
    scores = {name: Score() for name in NAMES}
    looks_ms: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        suite = await stack.enter_async_context(running(folder, worker_only=True))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(suite.worker))
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        model = await stub.Describe(inference_pb2.DescribeRequest(), timeout=10)
        for index in range(number):
            report(f"story {index + 1}", index / number)
            shown = await asyncio.to_thread(story, SEED + index, seconds)
            told = await _watch(stub, f"story-{index}", shown, looks_ms)
            for name in NAMES[:2]:
                _compare(scores[name], _runs(shown.held, "nothing"), told[name])
            violations = [each for each in _runs(shown.prohibited, "no") if each[2] == "yes"]
            _compare(scores["prohibited"], violations, told["prohibited"])
    return _result(scores, looks_ms, number * seconds, model)


async def _watch(stub: Any, session: str, shown: Story, looks_ms: list[float]) -> dict[str, Told]:
    """Show a story and let three rules look at it."""
    told = {name: Told() for name in NAMES}
    rule = shop()
    bad = rules_pb2.Rule(predicate=rules_pb2.PredicateRule(condition=PROHIBITED))
    judged = {name: Judgement(rules_pb2.RuleState(), debounce_s=DEBOUNCE_S) for name in NAMES[:2]}
    judged["prohibited"] = Judgement(rules_pb2.RuleState(), debounce_s=PROHIBITED_DEBOUNCE_S)
    statements = [*asked_of(rule), rule.product.idle, PROHIBITED]
    call = stub.StreamFrames()
    opening = inference_pb2.OpenStream(session_id=session)
    await call.write(inference_pb2.StreamFramesRequest(open=opening))
    await call.read()
    for number, pixels in enumerate(shown.frames):
        at_ns = round((1 + number / FPS) * NS)
        frame = inference_pb2.Frame(sequence=number, capture_ns=at_ns, pixels=pixels)
        await call.write(inference_pb2.StreamFramesRequest(frame=frame))
        acknowledged = -1
        while acknowledged < number:
            acknowledged = (await call.read()).ack.sequence
        if number % LOOK_FRAMES == LOOK_FRAMES - 1:
            began_s = time.monotonic()
            request = inference_pb2.ScoreStatementsRequest(
                session_id=session, statements=statements
            )
            reply = await stub.ScoreStatements(request, timeout=120)
            looks_ms.append(1000 * (time.monotonic() - began_s))
            found = dict(zip(statements, reply.probabilities, strict=True))
            for name, judgement in judged.items():
                asked = bad if name == "prohibited" else rule
                reading, count = _read(asked, judgement.state, found, at_ns, hint=name == NAMES[1])
                told[name].statements += count
                if reading is not None and judgement.weigh(reading):
                    _settle(judgement, reading)
                    told[name].events.append((number, reading.value or _word(reading.active)))
        for name, judgement in judged.items():
            told[name].states.append(judgement.state.value or _word(judgement.state.active))
    call.cancel()
    await stub.ReleaseSession(inference_pb2.ReleaseSessionRequest(session_id=session), timeout=10)
    return told


def _word(active: bool) -> str:
    return "yes" if active else ""


def _read(
    rule: rules_pb2.Rule,
    state: rules_pb2.RuleState,
    found: dict[str, float],
    at_ns: int,
    *,
    hint: bool,
) -> tuple[Reading | None, int]:
    """What a watchman would read, and for how many statements."""
    count = 0
    if hint and (hints := hints_of(rule, state)):
        count = len(hints)
        likeliest = max(found[text] for text in hints)
        if spares(rule, likeliest):
            return unchanged(state, likeliest, at_ns), count
    return reading_of(rule, found, at_ns), count + len(asked_of(rule))


def _settle(judgement: Judgement, reading: Reading) -> None:
    judgement.settle(
        rules_pb2.RuleState(
            active=reading.active,
            value=reading.value,
            capture_ns=reading.at_ns,
            events=judgement.state.events + 1,
        )
    )


def _runs(truth: list[str], nothing: str) -> list[tuple[int, int, str]]:
    """First and last frame of everything that was so for a while, and what that was. Moments of
    which nobody can say belong to what is on both sides of them."""
    runs: list[tuple[int, int, str]] = []
    for number, what in enumerate(truth):
        if not what:
            continue
        if runs and runs[-1][2] == what:
            runs[-1] = (runs[-1][0], number, what)
        else:
            runs.append((number, number, what))
    least = LEAST_S * FPS
    return [run for run in runs if run[2] != nothing and run[1] - run[0] + 1 >= least]


def _compare(score: Score, runs: list[tuple[int, int, str]], told: Told) -> None:
    near = round(NEAR_S * FPS)
    score.statements += told.statements
    events = [(number, value) for number, value in told.events if value]
    score.events += len(events)
    matched: set[int] = set()
    for begin, end, what in _sellable(runs):
        score.changes += 1
        states = told.states[begin : end + near]
        if what in states:
            score.found += 1
        for index, (number, value) in enumerate(events):
            if index not in matched and value == what and begin - near <= number <= end + near:
                matched.add(index)
                score.right += 1
                score.delays_s.append(max(0, number - begin) / FPS)
                break


def _sellable(runs: list[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Runs of what a rule could tell: prohibited things are in no catalogue."""
    return (run for run in runs if run[2] not in ("a gun", "a knife"))


def _result(scores: dict[str, Score], looks_ms: list[float], seconds: float, model: Any) -> Result:
    whole, hinted = scores[NAMES[0]], scores[NAMES[1]]
    rows = [
        (
            name,
            str(score.changes),
            f"{score.found / score.changes:.3f}" if score.changes else "",
            f"{score.right / score.events:.3f}" if score.events else "",
            f"{score.f1:.3f}",
            f"{statistics.median(score.delays_s):.2f}" if score.delays_s else "",
            f"{max(score.delays_s):.2f}" if score.delays_s else "",
            f"{score.statements / len(looks_ms):.1f}",
        )
        for name, score in scores.items()
    ]
    headings = ("rule", "happened", "recall", "precision", "F1")
    return Result(
        name="rules",
        tables=[
            Table(
                f"Rules on {seconds:.0f} s of stories",
                (*headings, "delay p50 s", "longest s", "statements a look"),
                rows,
            )
        ],
        targets=[
            Target(
                "share of what happened that the hint alone misses",
                (whole.found - hinted.found) / max(1, whole.changes),
                MAX_MISSED,
            ),
            Target("statements that it needs", hinted.statements / max(1, whole.statements), 0.65),
        ],
        figures={"scores": scores, "looks_ms": looks_ms},
        draw=lambda figure: _draw(figure, scores),
        dtype=model.dtype,
        device=model.device,
        notes=[
            "delays by the story's own clock: of a machine that keeps up, without the look itself",
            f"a look at everything took {statistics.median(looks_ms):.0f} ms here (median)",
        ],
    )


def _draw(figure: Any, scores: dict[str, Score]) -> None:
    axes = figure.subplots()
    axes.bar(range(len(scores)), [score.f1 for score in scores.values()], tick_label=list(scores))
    axes.set_ylim(0, 1)
    axes.set_ylabel("F1")
