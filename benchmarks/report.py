"""Report of a benchmark: tables for people, JSON for machines, a plot for both."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.machine import Machine
from benchmarks.samples import percentile

MOST_NUMBERS = 16

Report = Callable[[str, float], None]
"""Told by a running benchmark what it does and which share of it is done, 0…1."""


@dataclass(frozen=True, slots=True)
class Target:
    """Target: `value` at most `limit`, or at least it."""

    what: str
    value: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{self.what}: {_short(self.value)} {sign} {_short(self.limit)} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; the first column names the row."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Result:
    """Findings of one benchmark. `figures`: everything measured, as JSON. `draw` fills an empty
    matplotlib figure. `dtype`, `device`: what the model ran in and on."""

    name: str
    tables: list[Table]
    targets: list[Target]
    figures: dict[str, Any]
    draw: Callable[[Any], None]
    dtype: str
    device: str
    notes: list[str] = field(default_factory=list)

    @property
    def missed(self) -> list[Target]:
        return [target for target in self.targets if not target.met]


def show(result: Result, console: Console) -> None:
    for table in result.tables:
        shown = RichTable(title=table.title, title_justify="left")
        for index, heading in enumerate(table.headings):
            shown.add_column(heading, justify="left" if index == 0 else "right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    for target in result.targets:
        console.print(f"  [{'green]met   ' if target.met else 'red]missed'}[/] {target}")
    for note in result.notes:
        console.print(f"  [dim]{note}[/dim]")
    console.print()


def write(result: Result, machine: Machine, folder: Path) -> Path:
    """Write `<folder>/<name>.json`, in the place of an earlier run's, and the plot as .png beside
    it; returns the JSON's path. Long lists of numbers are told in short: see `told`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    report = {
        "benchmark": result.name,
        "machine": {**asdict(machine), "dtype": result.dtype, "device": result.device},
        "targets": [{**asdict(target), "met": target.met} for target in result.targets],
        "tables": [asdict(table) for table in result.tables],
        "notes": result.notes,
        "figures": told(result.figures),
    }
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    result.draw(figure)
    figure.savefig(path.with_suffix(".png"), dpi=110)
    return path


def told(value: Any) -> Any:
    """Figures as JSON holds them: dataclasses by their fields, and of more than `MOST_NUMBERS`
    numbers in a row their count, median, 95th percentile and extremes. The plot shows them all."""
    if is_dataclass(value) and not isinstance(value, type):
        return told(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): told(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        if len(value) > MOST_NUMBERS and all(isinstance(each, int | float) for each in value):
            return {
                "count": len(value),
                "least": min(value),
                "p50": percentile(value, 0.5),
                "p95": percentile(value, 0.95),
                "most": max(value),
            }
        return [told(each) for each in value]
    return value


def _short(value: float) -> str:
    return f"{value:.4g}"
