"""Ablation of one number of a recipe: short runs that differ in it alone, measured alike."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from training.batches import Batch, make_batch
from training.layout import Branch, pack
from training.objectives import Objectives, encode, final_states
from training.preference import Pairs, stacked
from training.recipe import HELD_OUT_SEEDS, Recipe
from training.train import Trainer, to_device

_ASKED = "how many objects are there"


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one run, on held-out clips.

    right: share of answers right, token for token. jumps: the temporal consistency loss. flips:
    share of cells, where something is or is seen, in which what is seen changes from one calm frame
    to the next. answer_flips: the same of the answer to one question, put after every frame.
    """

    value: float
    right: float
    jumps: float
    flips: float
    answer_flips: float


def ablate(
    recipe: Recipe, name: str, values: list[float], folder: Path, device: str, console: Console
) -> list[Figures]:
    """Train the recipe once per value of the field `name`, with the same seed."""
    found: list[Figures] = []
    for value in values:
        change: dict[str, Any] = {name: value}
        changed = replace(recipe, **change)
        where = folder / f"{name}-{value:g}"
        trainer = Trainer(changed, where, where / "model", torch.device(device))
        trainer.resume()
        if trainer.step < changed.total_steps:
            trainer.run(console)
        found.append(measure(trainer, value))
    return found


@torch.no_grad()
def measure(trainer: Trainer, value: float) -> Figures:
    """Figures of the averaged model on the recipe's held-out clips."""
    objectives = trainer.averaged.eval()
    jumps, flips, answers = [], [], []
    for index, mix in enumerate(trainer.recipe.held_out):
        seed, kinds = HELD_OUT_SEEDS + 1000 * index, trainer.recipe.kinds
        made = make_batch(objectives.model, trainer.world, mix, seed, kinds, "held_out")
        batch: Batch = to_device(made, trainer.device)
        early, *_ = objectives.run(batch)
        jumps.append(objectives.jumps(early, batch))
        flips.append(_flips(objectives, early, batch))
        answers.append(_answer_flips(objectives, batch))
    return Figures(
        value,
        trainer.check()["all"],
        *(float(torch.cat(each).float().mean()) for each in (jumps, flips, answers)),
    )


def _flips(objectives: Objectives, early: Tensor, batch: Batch) -> Tensor:
    """[cells of calm pairs of frames] bool: whether what is seen there changed."""
    cells = early.unflatten(1, (batch.labels.shape[1], -1))
    head = objectives.trunk_head
    seen = torch.stack([scores.argmax(-1) for scores in head.guess(cells)[: len(head.columns)]], -1)
    seen = torch.where(seen[..., :1] == 1, seen[..., :3], 0)  # there, and its first two looks
    same = (batch.labels[:, 1:] == batch.labels[:, :-1]).all(-1)
    same &= (batch.calm[:, 1:] & batch.calm[:, :-1])[..., None]
    some = (seen[:, 1:, :, 0] == 1) | (seen[:, :-1, :, 0] == 1) | (batch.labels[:, 1:, :, 0] == 1)
    return (seen[:, 1:] != seen[:, :-1]).any(-1)[same & some]


def _answer_flips(objectives: Objectives, batch: Batch) -> Tensor:
    """[calm pairs of frames] bool: whether the first word of the answer changed."""
    model, length = objectives.model, batch.labels.shape[1]
    prompt = model.question_tokens([], _ASKED)
    branches = [Branch(frame, "", prompt, [0]) for frame in range(length)]
    row = pack(model, length, branches, 0, length * len(prompt))
    rows = stacked([row] * len(batch.tokens), batch.tokens.device)
    final = final_states(model, Pairs(batch.pixels, *rows, 0), encode(model, batch.pixels))
    ends = final.shape[1] - length * len(prompt) + torch.arange(1, length + 1) * len(prompt) - 1
    said = model.decoder.logits(final[:, ends]).argmax(-1)
    return (said[:, 1:] != said[:, :-1])[batch.calm[:, 1:] & batch.calm[:, :-1]]


def report(name: str, found: list[Figures], recipe: Recipe, path: Path, console: Console) -> None:
    """Print a table, and write the figures as JSON and as a plot beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = ("right", "jumps", "flips", "answer_flips")
    table = Table(title=f"What {name} changes, after {recipe.total_steps} steps")
    table.add_column(name, justify="right")
    for heading in names:
        table.add_column(heading.replace("_", " "), justify="right")
    for figures in found:
        table.add_row(f"{figures.value:g}", *(f"{getattr(figures, each):.4f}" for each in names))
    console.print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"name": name, "steps": recipe.total_steps, "runs": [asdict(each) for each in found]}
    path.write_text(json.dumps(told, indent=1) + "\n")
    figure = Figure(figsize=(11, 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, each in zip(figure.subplots(1, len(names)), names, strict=True):
        axes.bar([f"{f.value:g}" for f in found], [getattr(f, each) for f in found])
        axes.set_title(each.replace("_", " "), fontsize=9)
        axes.set_xlabel(name, fontsize=8)
    figure.savefig(path.with_suffix(".png"), dpi=110)
