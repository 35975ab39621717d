"""Stories whose truth is known, and what a shop's rules tell of them.

A worker in its own process is shown stories of the shop that the built-in model knows, frame by
frame and each understood before the next, and is asked at every look what a watchman would ask.
Time is the story's own: figures are those of a machine that keeps up, whatever else this one does.
Every look asks for the whole catalogue, so that a rule with a hint is compared with one without on
the same probabilities.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.processes import running
from benchmarks.report import Report
from benchmarks.rules_score import FPS, Score, Told, runs_of
from services.gateway.rules.hints import Hints
from services.gateway.rules.judgement import NS, Judgement, Reading
from services.gateway.rules.kinds import asked_of, reading_of
from sightline.v1 import inference_pb2, inference_pb2_grpc, rules_pb2

SEED = 990_101  # of stories that no training has drawn
LOOK_FRAMES = 2  # from one look to the next
DEBOUNCE_S, PROHIBITED_DEBOUNCE_S = 0.2, 0.4
PROHIBITED = "something prohibited is shown"
WHOLE, HINTED, ALARM = NAMES = ("whole catalogue", "with a hint", "prohibited")


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
class Watched:
    """What came of all stories."""

    seconds: float
    scores: dict[str, Score] = field(default_factory=lambda: {name: Score() for name in NAMES})
    looks_ms: list[float] = field(default_factory=list)
    model: Any = None


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


async def watch_stories(folder: Path, number: int, seconds: float, report: Report) -> Watched:
    """Show a worker of its own so many stories of so many seconds each."""
    watched = Watched(number * seconds)
    async with contextlib.AsyncExitStack() as stack:
        suite = await stack.enter_async_context(running(folder, worker_only=True))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(suite.worker))
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        watched.model = await stub.Describe(inference_pb2.DescribeRequest(), timeout=10)
        for index in range(number):
            report(f"story {index + 1}", index / number / 2)
            shown = await asyncio.to_thread(story, SEED + index, seconds)
            told = await _watch(stub, f"story-{index}", shown, watched.looks_ms)
            for name in (WHOLE, HINTED):
                watched.scores[name].add(runs_of(shown.held, "nothing"), told[name])
            violations = [each for each in runs_of(shown.prohibited, "no") if each[2] == "yes"]
            watched.scores[ALARM].add(violations, told[ALARM])
    return watched


async def _watch(stub: Any, session: str, shown: Story, looks_ms: list[float]) -> dict[str, Told]:
    """Show a story and let three rules look at it."""
    told = {name: Told() for name in NAMES}
    rule = shop()
    bad = rules_pb2.Rule(predicate=rules_pb2.PredicateRule(condition=PROHIBITED))
    judged = {
        name: Judgement(rules_pb2.RuleState(), debounce_s=DEBOUNCE_S) for name in (WHOLE, HINTED)
    }
    judged[ALARM] = Judgement(rules_pb2.RuleState(), debounce_s=PROHIBITED_DEBOUNCE_S)
    hints = Hints(rule)
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
                asked = bad if name == ALARM else rule
                hinted = hints if name == HINTED else None
                reading, count = read(asked, judgement, hinted, found, at_ns)
                told[name].statements += count
                if reading is not None and judgement.weigh(reading):
                    settle(judgement, reading)
                    told[name].events.append((number, reading.value or _word(reading.active)))
        for name, judgement in judged.items():
            told[name].states.append(judgement.state.value or _word(judgement.state.active))
    call.cancel()
    await stub.ReleaseSession(inference_pb2.ReleaseSessionRequest(session_id=session), timeout=10)
    return told


def _word(active: bool) -> str:
    return "yes" if active else ""


def read(
    rule: rules_pb2.Rule,
    judgement: Judgement,
    hints: Hints | None,
    found: dict[str, float],
    at_ns: int,
) -> tuple[Reading | None, int]:
    """What a watchman would read, and for how many statements."""
    count = 0
    if hints is not None and (asked := hints.asked(judgement)):
        count = len(asked)
        if (reading := hints.unchanged(judgement, found, at_ns)) is not None:
            return reading, count
    if hints is not None:
        hints.note(found)
    return reading_of(rule, found, at_ns), count + len(asked_of(rule))


def settle(judgement: Judgement, reading: Reading) -> None:
    judgement.settle(
        rules_pb2.RuleState(
            active=reading.active,
            value=reading.value,
            capture_ns=reading.at_ns,
            events=judgement.state.events + 1,
        )
    )
