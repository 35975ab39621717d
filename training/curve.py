"""A run's curve: every figure of it as CSV, the losses and what is right as a plot."""

import csv
from pathlib import Path

Row = dict[str, float]
_LOSSES = ("loss", "answer", "preference", "teacher", "jumps")


def write(rows: list[Row], folder: Path) -> None:
    """Write `curve.csv`; rows may differ in what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "curve.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: list[Row], folder: Path) -> None:
    """Plot `curve.png`: losses to the left, shares of held-out answers to the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    held_out = dict.fromkeys(name for row in rows for name in row if name.startswith("held-out/"))
    for axes, names in ((left, _LOSSES), (right, held_out)):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points and "trunk/" not in name and "-frames" not in name:
                label = name.removeprefix("held-out/")
                width = 2.2 if label == "all" else 0.9
                axes.plot(*zip(*points, strict=True), label=label, linewidth=width)
        axes.set_xlabel("step")
        if axes.lines:
            axes.legend(fontsize=6, ncols=2)
    left.set_yscale("log")
    left.set_ylabel("loss")
    right.set_ylim(0, 1.02)
    right.set_ylabel("held-out answers right, token for token")
    figure.savefig(folder / "curve.png", dpi=110)
