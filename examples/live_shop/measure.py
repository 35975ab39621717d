"""How well a shop's rules do, on stories whose truth is known.

    python -m training clip story.mp4 --recipe builtin --seed 990101 --seconds 60 --scale 3
    python examples/live_shop/measure.py story.mp4 …

Every story is played in real time. A product that was held for a second or more is found where its
card comes before it is laid down; a card is right where the product was held within a second of the
moment that it is about. Delay: from the first frame in which the truth has it held to the event at
this program. Truth says nothing of the moments in which a hand opens or closes.

A violation lasts until truth says that nothing prohibited is shown any more, and is found where the
alarm stood while it lasted. An alarm is false where truth had said that there is nothing, a second
or more before something was brought and after it was gone.
"""

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalogue import Catalogue
from shop import HERE, rules_of

import sightline.aio
from sightline.rules import RuleEvent
from sightline.video import VideoFile

LEAST_S = 1.0  # that something is held
NEAR_S = 1.0
SETTLE_S = 3.0  # after a story's end, for the last events


@dataclass(slots=True)
class Found:
    """What became of the stories."""

    held: int = 0
    shown: int = 0
    cards: int = 0
    right: int = 0
    delays_s: list[float] = field(default_factory=list)
    violations: int = 0
    alarmed: int = 0
    false_alarms: int = 0
    alarm_delays_s: list[float] = field(default_factory=list)
    hours: float = 0.0


@dataclass(frozen=True, slots=True)
class Violation:
    """Something prohibited, shown from `begin_s` on. `since_s`, `until_s`: the moments nearest to
    it of which truth says that there was nothing; in between something was on its way."""

    since_s: float
    begin_s: float
    end_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """An event: `at_s` of the story, told `told_s` after its begin."""

    event: RuleEvent
    at_s: float
    told_s: float


async def play(client: sightline.aio.Client, goods: Catalogue, story: Path) -> list[Heard]:
    """The events of one story."""
    name = f"story-{story.stem}-{time.time_ns() % 10**6}"
    session = await client.open(push=True, name=name, grace_s=5)
    heard: list[tuple[RuleEvent, int]] = []

    def note(event: RuleEvent) -> None:
        heard.append((event, time.time_ns()))

    async def follow() -> None:
        async for event in client.rules.follow(session=session.id):
            note(event)

    following = asyncio.create_task(follow())
    for rule, spec in rules_of(name, goods).items():
        await client.rules.create(session.id, {"name": rule, **spec})
    session.play(VideoFile(story))
    await session.wait()
    await asyncio.sleep(SETTLE_S)
    following.cancel()
    start_ns = session.start_ns or 0
    await session.delete(events=True)
    return [
        Heard(event, (event.capture_ns - start_ns) / 1e9, (told_ns - start_ns) / 1e9)
        for event, told_ns in heard
    ]


def judge(found: Found, goods: Catalogue, truth: dict[str, Any], heard: list[Heard]) -> None:
    """Compare what was told with what was so."""
    skus = {name: sku for sku, each in goods.products.items() for name in each["names"]}
    held = [
        (fact["time_s"], fact["until_s"], skus[fact["answer"]])
        for fact in truth["facts"]
        if fact["kind"] == "held" and fact["answer"] in skus
    ]
    cards = [each for each in heard if each.event.kind == "product" and each.event.active]
    for card in cards:
        found.cards += 1
        found.right += any(
            sku == card.event.value and begin - NEAR_S <= card.at_s <= end + NEAR_S
            for begin, end, sku in held
        )
    for begin, end, sku in held:
        if end - begin < LEAST_S:
            continue
        found.held += 1
        # The card of the same product before may still be there: it counts.
        current = [each for each in heard if each.event.kind == "product" and each.at_s <= end]
        last = current[-1] if current else None
        if last is not None and last.event.value == sku:
            found.shown += 1
            if last.at_s >= begin - NEAR_S:
                found.delays_s.append(last.told_s - begin)
    violations = violations_of(truth)
    told = [each for each in heard if each.event.kind == "predicate"]
    alarms = [each for each in told if each.event.active]
    for violation in violations:
        mine = [each for each in alarms if _is_about(each, violation)]
        before = [each for each in told if each.at_s < violation.since_s - NEAR_S]
        found.violations += 1
        # One that is told already, and not ended, stands for this as well.
        found.alarmed += bool(mine) or bool(before and before[-1].event.active)
        found.alarm_delays_s += [each.told_s - violation.begin_s for each in mine[:1]]
    found.false_alarms += sum(
        not any(_is_about(each, violation) for violation in violations) for each in alarms
    )
    found.hours += truth["seconds"] / 3600


def violations_of(truth: dict[str, Any]) -> list[Violation]:
    """The violations of a story, in their order."""
    facts = sorted(
        (fact["time_s"], fact["until_s"], fact["answer"] == "yes")
        for fact in truth["facts"]
        if fact["kind"] == "prohibited"
    )
    found: list[Violation] = []
    clear_s, goes_on = 0.0, False
    for begin_s, end_s, shown in facts:
        if shown and goes_on:  # a hand moved meanwhile
            last = found.pop()
            found.append(Violation(last.since_s, last.begin_s, end_s, truth["seconds"]))
        elif shown:
            found.append(Violation(clear_s, begin_s, end_s, truth["seconds"]))
        elif goes_on:
            last = found.pop()
            found.append(Violation(last.since_s, last.begin_s, last.end_s, begin_s))
        if not shown:
            clear_s = end_s
        goes_on = shown
    return found


def _is_about(alarm: Heard, violation: Violation) -> bool:
    return violation.since_s - NEAR_S <= alarm.at_s <= violation.until_s + NEAR_S


def told(found: Found) -> dict[str, Any]:
    def share(part: int, of: int) -> float | None:
        return round(part / of, 3) if of else None

    def middle(values: list[float]) -> list[float]:
        ordered = sorted(values)
        if not ordered:
            return []
        late = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        return [round(statistics.median(ordered), 2), round(late, 2)]

    return {
        "products_held": found.held,
        "recall": share(found.shown, found.held),
        "cards": found.cards,
        "precision": share(found.right, found.cards),
        "card_delay_s_p50_p95": middle(found.delays_s),
        "violations": found.violations,
        "violation_recall": share(found.alarmed, found.violations),
        "alarm_delay_s_p50_p95": middle(found.alarm_delays_s),
        "false_alarms": found.false_alarms,
        "false_alarms_per_hour": round(found.false_alarms / found.hours, 1)
        if found.hours
        else None,
        "minutes": round(60 * found.hours, 1),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stories", nargs="+", type=Path, help="videos with their truth as .json")
    parser.add_argument("--server", help="$SIGHTLINE_SERVER, else localhost:50051")
    parser.add_argument("--catalogue", type=Path, default=HERE / "catalogue.csv")
    options = parser.parse_args()
    goods, found = Catalogue(options.catalogue), Found()
    async with sightline.aio.connect(options.server) as client:
        for story in options.stories:
            heard = await play(client, goods, story)
            judge(found, goods, json.loads(story.with_suffix(".json").read_text()), heard)
            print(json.dumps(told(found)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
