"""Standing rules: what a shop's rules tell of stories whose truth is known, when, and at what cost;
what many of them cost under load; and how long a shop's card takes in real time.
"""

import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import Report, Result, Table, Target
from benchmarks.rules_load import Load, measure_load
from benchmarks.rules_score import Score
from benchmarks.rules_shop import RealTime
from benchmarks.rules_stories import HINTED, WHOLE, Watched, watch_stories
from benchmarks.samples import percentile

MAX_MISSED = 0.0  # of what happened, that a rule with a hint does not tell and one without does
MAX_STATEMENTS = 0.75
MAX_EVERY_S = 5.0  # from one check of a rule to the next, where all are due once a second
MAX_FRAME_MS, MAX_DROPPED = 200.0, 0.001
MAX_CARD_S = 1.0
LEAST_ALARMED = 0.92  # of violations: the article's share of products that are known
MAX_ALARM_S = 1.0


def run(report: Report, *, quick: bool) -> Result:
    return asyncio.run(_measure(report, quick=quick))


async def _measure(report: Report, *, quick: bool) -> Result:
    number, seconds, load_s = (1, 20.0, 5.0) if quick else (6, 45.0, 15.0)
    violations, shop_s = (1, 20.0) if quick else (4, 45.0)
    with tempfile.TemporaryDirectory() as name:
        alone, together = Path(name) / "worker", Path(name) / "suite"
        alone.mkdir()
        together.mkdir()
        watched = await watch_stories(alone, number, seconds, report)
        loads, shop = await measure_load(together, load_s, violations, shop_s, report)
    return _result(watched, loads, shop)


def _result(watched: Watched, loads: list[Load], shop: RealTime) -> Result:
    scores = watched.scores
    whole, hinted = scores[WHOLE], scores[HINTED]
    return Result(
        name="rules",
        tables=[_stories(watched), _loads(loads), _shop(shop)],
        targets=[
            Target(
                "share of what happened that the hint alone misses",
                (whole.found - hinted.found) / max(1, whole.changes),
                MAX_MISSED,
            ),
            Target(
                "statements that it needs",
                hinted.statements / max(1, whole.statements),
                MAX_STATEMENTS,
            ),
            *(
                target
                for load in loads
                for target in (
                    Target(
                        f"{load.case.title}: from one check of a rule to the next",
                        load.every_s,
                        MAX_EVERY_S,
                        "s",
                    ),
                    Target(
                        f"{load.case.title}: frame latency, p95",
                        load.frame_p95_ms,
                        MAX_FRAME_MS,
                        "ms",
                    ),
                    Target(f"{load.case.title}: frames dropped", load.dropped, MAX_DROPPED),
                )
            ),
            Target(
                "pick-up to card in real time, p95",
                percentile(shop.card_delays_s or [float("inf")], 0.95),
                MAX_CARD_S,
                "s",
            ),
            Target(
                "violations that are told in real time",
                shop.found["violation_recall"] or 0.0,
                LEAST_ALARMED,
                at_least=True,
            ),
            Target(
                "violation to alarm in real time, p95",
                percentile(shop.alarm_delays_s or [float("inf")], 0.95),
                MAX_ALARM_S,
                "s",
            ),
        ],
        figures={"scores": scores, "looks_ms": watched.looks_ms, "loads": loads, "shop": shop},
        draw=lambda figure: _draw(figure, scores),
        dtype=watched.model.dtype,
        device=watched.model.device,
        notes=[
            "stories: by their own clock, of a machine that keeps up, without the look itself",
            "PAUC: share of the time of what was so in which it stood as told",
            f"a look at everything took {statistics.median(watched.looks_ms):.0f} ms (median)",
        ],
    )


def _stories(watched: Watched) -> Table:
    headings = ("rule", "happened", "recall", "precision", "F1 within 1 s", "PAUC", "time error s")
    return Table(
        f"Rules on {watched.seconds:.0f} s of stories",
        (*headings, "delay p50 s", "longest s", "statements a look"),
        [
            (
                name,
                str(score.changes),
                f"{score.found / score.changes:.3f}" if score.changes else "",
                f"{score.right / score.events:.3f}" if score.events else "",
                f"{score.f1:.3f}",
                f"{score.pauc:.3f}" if score.changes else "",
                f"{score.error_s:.2f}" if score.errors_s else "",
                f"{statistics.median(score.delays_s):.2f}" if score.delays_s else "",
                f"{max(score.delays_s):.2f}" if score.delays_s else "",
                f"{score.statements / len(watched.looks_ms):.1f}",
            )
            for name, score in watched.scores.items()
        ],
    )


def _loads(loads: list[Load]) -> Table:
    headings = ("load", "checks/s", "of one rule every s", "look p50 ms", "p95", "frames/s")
    return Table(
        "Many rules, each due once a second, in real time",
        (*headings, "frame p50 ms", "p95", "thinned", "dropped", "events", "cores"),
        [
            (
                load.case.title,
                f"{load.checks_per_s:.0f}",
                f"{load.every_s:.2f}",
                f"{load.look_p50_ms:.0f}",
                f"{load.look_p95_ms:.0f}",
                f"{load.frames_per_s:.0f}",
                f"{load.frame_p50_ms:.0f}",
                f"{load.frame_p95_ms:.0f}",
                f"{load.thinned:.2f}",
                f"{load.dropped:.4f}",
                str(load.events),
                f"{sum(load.cores.values()) - load.cores.get('others', 0.0):.2f}",
            )
            for load in loads
        ],
    )


def _shop(shop: RealTime) -> Table:
    rows = [(name, str(value)) for name, value in shop.found.items()]
    return Table("The live shop of examples/, in real time", ("figure", ""), rows)


def _draw(figure: Any, scores: dict[str, Score]) -> None:
    axes = figure.subplots()
    for offset, name in ((-0.2, "f1"), (0.2, "pauc")):
        heights = [getattr(score, name) for score in scores.values()]
        axes.bar([place + offset for place in range(len(scores))], heights, 0.4, label=name)
    axes.set_xticks(range(len(scores)), list(scores))
    axes.set_ylim(0, 1)
    axes.legend()
