"""Sets figures in a table, a JSON, a plot and a sheet of mistakes, and says what falls short."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from training.examination.cases import Case
from training.examination.scoring import ALL, COUNTED, TEMPORAL, Column, Figure
from training.examination.setups import FULL, LAST_FRAME, SETUPS, Answer, Firing
from training.world.sheet import block_of, draw_blocks

MAJORITY = "majority"
TARGETS = {"realtime": 0.92, "backward": 0.85, "forward": 0.85}
FAR_BELOW = 0.25  # what the last frame alone must lack on what no single picture tells
MOST_LOST = 0.02  # by ten rounds of conversation before each question
FOLLOWUP, LEAST_FOLLOWUP = "followup", 0.95  # after such rounds
MOST_FAULTY = 0.001  # share of empty or repetitive answers
CLASSES = (*TARGETS, ALL, TEMPORAL)
_SHEET = 12  # mistakes drawn
_TOLD = 40  # mistakes in the JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Identity of an examination: what must be the same for two columns to stand in one table.
    `questions`: a digest of all that was asked; `weights`: of the model's files. `free`: how
    answers were marked. `settings`: the worker's that change answers, where they are not the
    default."""

    model: str
    weights: str
    world: str
    clips: int
    fps: float
    questions: str
    free: bool
    dtype: str
    device: str
    max_tokens: int
    settings: dict[str, Any]


@dataclass(slots=True)
class Report:
    """Columns by the name of their setup, "majority" beside them."""

    identity: Identity
    columns: dict[str, Column] = field(default_factory=dict)
    some_mistakes: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, column: Column) -> None:
        """A column in its place, also where there was one."""
        self.columns[name] = column
        order = (MAJORITY, *SETUPS)
        self.columns = {n: self.columns[n] for n in order if n in self.columns}

    @property
    def missed(self) -> list[str]:
        """Targets that are missed, in words."""
        full, alone = self.columns.get(FULL), self.columns.get(LAST_FRAME)
        if full is None:
            return [f"{FULL}: not examined"]
        found = [
            f"{name}: {full.classes[name].score:.3f} < {least}"
            if name in full.classes
            else f"{name}: never asked"
            for name, least in TARGETS.items()
            if name not in full.classes or full.classes[name].score < least
        ]
        if alone is not None and TEMPORAL in full.classes:
            most = full.classes[TEMPORAL].score - FAR_BELOW
            if alone.classes[TEMPORAL].score > most:
                found.append(
                    f"temporal kinds: {alone.classes[TEMPORAL].score:.3f} from the last frame "
                    f"alone > {most:.3f}"
                )
        found += self._lost_in_talk(full)
        for name in ("empty", "repetitive"):
            share = getattr(full, name)
            if share >= MOST_FAULTY:
                found.append(f"{name} answers: {share:.2%} ≥ {MOST_FAULTY:.1%}")
        return found

    def _lost_in_talk(self, full: Column) -> list[str]:
        found = []
        for name in [name for name, setup in SETUPS.items() if setup.talk]:
            column = self.columns.get(name)
            if column is None:
                continue
            for group in COUNTED:
                if group in column.classes and group in full.classes:
                    score, least = (
                        column.classes[group].score,
                        full.classes[group].score - MOST_LOST,
                    )
                    if score < least:
                        found.append(f"{name}: {group} {score:.3f} < {least:.3f}")
            if FOLLOWUP in column.kinds and column.kinds[FOLLOWUP].score < LEAST_FOLLOWUP:
                score = column.kinds[FOLLOWUP].score
                found.append(f"{name}: {FOLLOWUP} {score:.3f} < {LEAST_FOLLOWUP}")
        return found

    @property
    def rows(self) -> list[tuple[str, bool]]:
        """(name, whether it is a class) of every row that some column has."""
        kinds = dict.fromkeys(kind for column in self.columns.values() for kind in column.kinds)
        classes = [n for n in CLASSES if any(n in c.classes for c in self.columns.values())]
        return [(name, True) for name in classes] + [(kind, False) for kind in kinds]

    def figure(self, column: str, row: tuple[str, bool]) -> Figure | None:
        found = self.columns[column]
        return (found.classes if row[1] else found.kinds).get(row[0])

    def write(self, path: Path) -> None:
        """The figures as JSON, and the plot beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "identity": asdict(self.identity),
            "targets": {
                **TARGETS,
                "far_below": FAR_BELOW,
                "faulty": MOST_FAULTY,
                "lost_in_talk": MOST_LOST,
                "followup_in_talk": LEAST_FOLLOWUP,
            },
            "missed": self.missed,
            "columns": {name: _rounded(asdict(column)) for name, column in self.columns.items()},
            "some_mistakes": self.some_mistakes,
        }
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _plot(self, path.with_suffix(".png"))


def begin(identity: Identity, path: Path) -> Report:
    """The report at `path` if it is one of the same examination, so that its columns stay; else a
    new one."""
    report = Report(identity)
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["identity"] != asdict(identity):
            return report
        for name, column in before["columns"].items():
            groups = {
                group: {row: Figure(**figure) for row, figure in column[group].items()}
                for group in ("kinds", "classes")
            }
            report.columns[name] = Column(**{**column, **groups})
        report.some_mistakes = before["some_mistakes"]
    except (OSError, ValueError, KeyError, TypeError):
        return Report(identity)
    return report


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _title(name: str) -> str:
    return SETUPS[name].title if name in SETUPS else "majority answer"


def show(report: Report, console: Console) -> None:
    how = "marked by containment" if report.identity.free else "marked by exact words"
    title = f"{report.identity.model} on {report.identity.world}, {how}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("", "asked", *map(_title, report.columns)):
        table.add_column(heading, justify="left" if not heading else "right")
    last_class = [name for name, is_class in report.rows if is_class][-1:]
    for row in report.rows:
        figures = [report.figure(column, row) for column in report.columns]
        asked = max(figure.asked for figure in figures if figure)
        cells = [f"{figure.score:.2f}" if figure else "" for figure in figures]
        table.add_row(row[0], str(asked), *cells, end_section=row[1] and [row[0]] == last_class)
    console.print(table)
    console.print(
        "Shares of right answers; of descriptions the F1 of facts, of watches the F1 of event "
        "times within 0.5 s."
    )
    full = report.columns.get(FULL)
    if full is not None:
        parts = {**full.classes, **full.kinds}.items()
        apart = [
            f"{name} {figure.precision:.2f} / {figure.recall:.2f}"
            for name, figure in parts
            if figure.precision != figure.recall
        ]
        if apart:
            console.print(f"As served, precision / recall: {', '.join(apart)}.")
        console.print(
            f"As served: {full.empty:.2%} of answers empty, {full.repetitive:.2%} repetitive, "
            f"{full.words:.1f} words on average."
        )


def _plot(report: Report, path: Path) -> None:
    """Rows by columns, each cell coloured by its figure."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    rows, columns = report.rows, list(report.columns)
    grid = np.full((len(rows), len(columns)), np.nan)
    for across, column in enumerate(columns):
        for down, row in enumerate(rows):
            found = report.figure(column, row)
            grid[down, across] = np.nan if found is None else found.score
    canvas = Canvas(figsize=(3 + len(columns), 1.4 + 0.27 * len(rows)), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    axes.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto", alpha=0.75)
    for (down, across), score in np.ndenumerate(grid):
        if not np.isnan(score):
            axes.text(across, down, f"{score:.2f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(columns)), [_title(name).replace(" ", "\n", 1) for name in columns])
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.axhline(sum(is_class for _, is_class in rows) - 0.5, color="black", linewidth=1)
    axes.set_title(f"{report.identity.model} on {report.identity.world}")
    canvas.savefig(path, dpi=110)


Mistake = tuple[Case, Answer | Firing]


def told(mistake: Mistake) -> dict[str, Any]:
    """A mistake for the JSON and for the sheet."""
    case, wrong = mistake
    if isinstance(wrong, Firing):
        standing = wrong.standing
        return {
            "clip": case.name,
            "kind": standing.kind,
            "question": f"tell me when {standing.condition}, from {standing.asked_s:.2f} s on",
            "right": " ".join(f"{event.at_s:.2f}" for event in standing.events) or "never",
            "said": " ".join(f"{time_s:.2f}" for time_s in wrong.times_s) or "never",
        }
    question = wrong.item.question
    past = "".join(f"({asked} → {said}) " for asked, said in question.history[-2:])
    return {
        "clip": case.name,
        "kind": question.kind,
        "question": past + question.text,
        "right": question.answer,
        "said": wrong.said,
    }


def spread(found: Sequence[Mistake], most: int) -> list[Mistake]:
    """Some mistakes of every kind: the first of each, then the second of each, …"""
    by_kind: dict[str, list[Mistake]] = {}
    for mistake in found:
        by_kind.setdefault(told(mistake)["kind"], []).append(mistake)
    turns = max(map(len, by_kind.values()), default=0)
    ordered = [kind[turn] for turn in range(turns) for kind in by_kind.values() if turn < len(kind)]
    return ordered[:most]


def write_mistakes(report: Report, found: Sequence[Mistake], path: Path) -> None:
    """Keep some mistakes for the JSON, and draw some with the frames before them."""
    report.some_mistakes = [told(mistake) for mistake in spread(found, _TOLD)]
    blocks = []
    for case, wrong in spread(found, _SHEET):
        words = told((case, wrong))
        frame = wrong.frame if isinstance(wrong, Answer) else _frame_of(case, wrong)
        lines = [
            f"[{words['kind']}] {words['question']}",
            f"right: {words['right']}",
            f"said:  {words['said']}",
        ]
        # The built-in font of pictures has Latin letters only.
        lines = [
            line.replace("→", "->").encode("latin-1", "replace").decode("latin-1") for line in lines
        ]
        blocks.append(block_of(Path(case.name).name, case.footage.pixels, frame, lines))
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_blocks(path, blocks)


def _latin(text: str) -> str:
    """Text as far as the font of the sheet can write it."""
    return text.replace("→", "->").encode("latin-1", "replace").decode("latin-1")


def _frame_of(case: Case, firing: Firing) -> int:
    """The last frame at which the watch was checked."""
    until_s = firing.standing.until_s
    return max(int((case.footage.times_s <= until_s).sum()) - 1, 0)
