"""Measures answers on held-out clips: asked of the running engine, frame by frame.

Every question is also put to the same model shown only the last frame: what still succeeds there
needed no video. The majority answer's accuracy is printed beside both.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.random import Generator
from rich.console import Console
from rich.table import Table

from training.batches import draw_pace
from training.questions import KINDS, TARGET_KINDS, Question, ask, small_talk
from training.recipe import EVALUATION_SEEDS
from training.rendering import Pixels, render
from training.world.shapes import FRAMES_PER_SECOND, Clip, film

FRAME_NS = int(1e9 / FRAMES_PER_SECOND)
TARGET_OVERALL, TARGET_KIND = 0.85, 0.75
NEEDS_VIDEO = ("direction", "change")
COLLAPSED = 0.5
_LENGTHS = (6, 12, 20, 30, 40, 60)
_MOMENTS_PER_CLIP = 3


class Answerer(Protocol):
    """Something that watches one video at a time and answers about it. Calls block."""

    def open(self) -> None:
        """Begin a new, empty video."""
        ...

    def push(self, frame: Pixels, capture_time_ns: int) -> None:
        """Show the next frame [128, 128, 3]; returns once it will count for later questions."""
        ...

    def ask(self, text: str, history: tuple[tuple[str, str], ...]) -> str: ...

    def watch(self, condition: str) -> bool: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """One question with what was right and what was said."""

    kind: str
    question: str
    right: str
    said: str
    said_last_frame: str
    frame: int


@dataclass(frozen=True, slots=True)
class KindResult:
    """Shares of exactly right answers of one kind, 0…1."""

    kind: str
    number: int
    accuracy: float
    majority: float
    last_frame: float


def questions_of(clip: Clip, rng: Generator) -> Iterator[tuple[int, list[Question]]]:
    """A few moments of a clip, the last frame among them, with a question of every kind each."""
    moments = {len(clip) - 1}
    while len(moments) < min(_MOMENTS_PER_CLIP, len(clip)):
        moments.add(int(rng.integers(len(clip))))
    for frame in sorted(moments):
        found: list[Question] = []
        for kind in KINDS:
            question = ask(clip, frame, kind, rng)
            if question is None:
                continue
            if not question.is_watch and (question.history or kind != "followup"):
                history = (small_talk(clip, frame, rng) + question.history)[-10:]
                question = Question(question.kind, question.text, question.answer, history)
            found.append(question)
        yield frame, found


def put(answerer: Answerer, question: Question) -> str:
    if question.is_watch:
        return "yes" if answerer.watch(question.text) else "no"
    return answerer.ask(question.text, question.history)


def examine(
    answerer: Answerer, num_clips: int, on_clip: Callable[[int], None] = lambda _: None
) -> list[Asked]:
    """Ask about `num_clips` held-out clips of many lengths."""
    results: list[Asked] = []
    for index in range(num_clips):
        seed = EVALUATION_SEEDS + index
        rng = np.random.default_rng((seed, 4))
        clip = film(seed, _LENGTHS[index % len(_LENGTHS)], draw_pace(rng))
        frames = render(clip)
        asked: list[tuple[int, Question, str]] = []
        answerer.open()
        shown = 0
        for moment, questions in questions_of(clip, rng):
            while shown <= moment:
                answerer.push(frames[shown], shown * FRAME_NS)
                shown += 1
            asked += [(moment, question, put(answerer, question)) for question in questions]
        answerer.close()
        alone: dict[int, list[str]] = {}
        for moment in sorted({moment for moment, _, _ in asked}):
            answerer.open()
            answerer.push(frames[moment], 0)
            alone[moment] = [put(answerer, q) for m, q, _ in asked if m == moment]
            answerer.close()
        results += [
            Asked(q.kind, q.text, q.answer, said, alone[moment].pop(0), moment)
            for moment, q, said in asked
        ]
        on_clip(index + 1)
    return results


def summarise(asked: list[Asked]) -> list[KindResult]:
    """Per kind in the order of KINDS, then "all": the kinds with a target together."""
    results: list[KindResult] = []
    for kind in (*KINDS, "all"):
        mine = [a for a in asked if a.kind == kind or (kind == "all" and a.kind in TARGET_KINDS)]
        if not mine:
            continue
        number = len(mine)
        by_kind: dict[str, Counter[str]] = {}
        for answer in mine:
            by_kind.setdefault(answer.kind, Counter())[answer.right] += 1
        commonest = sum(counter.most_common(1)[0][1] for counter in by_kind.values())
        results.append(
            KindResult(
                kind,
                number,
                sum(a.said == a.right for a in mine) / number,
                commonest / number,
                sum(a.said_last_frame == a.right for a in mine) / number,
            )
        )
    return results


def missed_targets(results: list[KindResult]) -> list[str]:
    """What falls short, in words; empty when the model may ship."""
    by_kind = {result.kind: result for result in results}
    missed: list[str] = []
    if by_kind["all"].accuracy < TARGET_OVERALL:
        missed.append(f"all: {by_kind['all'].accuracy:.3f} < {TARGET_OVERALL}")
    for kind in TARGET_KINDS:
        if kind not in by_kind:
            missed.append(f"{kind}: never asked")
        elif by_kind[kind].accuracy < TARGET_KIND:
            missed.append(f"{kind}: {by_kind[kind].accuracy:.3f} < {TARGET_KIND}")
    return missed + [
        f"{kind}: {by_kind[kind].last_frame:.3f} from the last frame alone"
        for kind in NEEDS_VIDEO
        if kind in by_kind and by_kind[kind].last_frame > COLLAPSED
    ]


def show(results: list[KindResult], console: Console) -> None:
    table = Table(title="Exact answers on held-out clips, through the running engine")
    for heading in ("kind", "asked", "accuracy", "majority answer", "last frame only"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for result in results:
        shares = (result.accuracy, result.majority, result.last_frame)
        cells = [result.kind, str(result.number), *(f"{share:.3f}" for share in shares)]
        table.add_row(*cells, end_section=result.kind == list(KINDS)[-1])
    console.print(table)


def write(results: list[KindResult], asked: list[Asked], path: Path) -> None:
    """Write the figures as JSON and as a bar chart beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    mistakes = [a for a in asked if a.said != a.right and a.kind in TARGET_KINDS][:40]
    report = {
        "targets": {"overall": TARGET_OVERALL, "kind": TARGET_KIND, "kinds": TARGET_KINDS},
        "kinds": {
            r.kind: {
                "asked": r.number,
                "accuracy": round(r.accuracy, 4),
                "majority": round(r.majority, 4),
                "last_frame": round(r.last_frame, 4),
            }
            for r in results
        },
        "missed": missed_targets(results),
        "some_mistakes": [
            {"question": a.question, "right": a.right, "said": a.said, "frame": a.frame}
            for a in mistakes
        ],
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = np.arange(len(results))
    for shift, label in enumerate(("accuracy", "last_frame", "majority")):
        heights = [getattr(result, label) for result in results]
        axes.bar(places + 0.27 * (shift - 1), heights, 0.27, label=label.replace("_", " "))
    axes.axhline(TARGET_KIND, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xticks(places, [result.kind for result in results], rotation=30)
    axes.set_ylim(0, 1)
    axes.set_ylabel("exactly right")
    axes.legend(loc="lower right")
    figure.savefig(path.with_suffix(".png"), dpi=110)
