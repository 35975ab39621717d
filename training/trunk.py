"""Fine-tuning of the trunk that reads photographs, before a recipe freezes it.

The published trunk tells a thousand kinds of photographs apart, each of which fills the picture.
Here it learns the goods of a world, as they fill the picture and as they stand in a scene, through
the encoder above it and the head that reads what is in every cell. The encoder that comes of it is
kept where a recipe has no steps of pictures: it began with one that its decoder knows. Others train
their own above the trunk.
"""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from services.inference_worker.model.lite0 import WIDE, PhotoEncoder
from training.batches import new_model, world_of
from training.learning import average, cosine, write_checkpoint
from training.objectives import Objectives
from training.recipe import Recipe
from training.rendering import Pixels
from training.stories import MIDDLE, Stills, Stories
from training.world.cells import nouns
from training.worlds import Truth

STORIES = 2  # of six pictures each, painted, in every batch, and as many of photographs
RATE = 4e-4  # of what was learnt before; what is new learns faster, and first
NEW_RATE = 2e-3
WARM_UP, NEW_WARM_UP = 200, 20
_FILLING = 1.5  # weight of naming what fills the picture straight from the trunk
DECAY = 0.02
KEEP = 0.995  # of the running average that is written
SAVE_EVERY = 100


class _Batches(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Pixels [n, side, side, 3], labels and measures, from step `first` on; a step's batch depends
    on the recipe's seed and the step alone."""

    def __init__(self, recipe: Recipe, first: int, steps: int) -> None:
        self.recipe = recipe
        self.first = first
        self.steps = steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        painted = Stories(self.recipe, self.steps * STORIES)
        stills = Stills(self.recipe, self.steps * STORIES)
        for step in range(self.first, self.steps):
            numbers = range(step * STORIES, (step + 1) * STORIES)
            shown = [story[number] for story in (painted, stills) for number in numbers]
            yield _joined([one.pixels for one in shown], [one.truth for one in shown])


def _joined(pixels: list[Pixels], truths: list[Truth]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.from_numpy(np.concatenate(pixels)),
        torch.from_numpy(np.concatenate([truth.labels for truth in truths])),
        torch.from_numpy(np.concatenate([truth.measures for truth in truths])),
    )


class _Tuning:
    """An encoder whose trunk learns, its running average, and the checkpoint of both."""

    def __init__(self, recipe: Recipe, output: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.steps, self.output = recipe, recipe.trunk_steps, output
        objectives = Objectives(new_model(recipe), world_of(recipe), recipe.trunk_layer)
        encoder = objectives.model.encoder
        assert isinstance(encoder, PhotoEncoder)
        self.encoder, self.head = encoder, objectives.picture_head
        self.filling = nn.Sequential(nn.LayerNorm(WIDE), nn.Linear(WIDE, len(nouns())))
        self.parts = nn.ModuleDict({"encoder": encoder, "head": self.head, "filling": self.filling})
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.encoder).requires_grad_(False)
        self.step = 0
        knows = encoder.trunk if recipe.picture_steps else encoder
        slow = list(knows.parameters())
        known = {id(each) for each in slow}
        fast = [each for each in self.parts.parameters() if id(each) not in known]
        groups = [
            {"params": slow, "top": RATE, "warm_up": WARM_UP},
            {"params": fast, "top": NEW_RATE, "warm_up": NEW_WARM_UP},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, weight_decay=DECAY)

    def learn(self, pixels: Tensor, labels: Tensor, measures: Tensor) -> dict[str, float]:
        """Take one optimiser step."""
        for group in self.optimiser.param_groups:
            top = group["top"]
            group["lr"] = cosine(self.step, self.steps, group["warm_up"], top, top / 50)
        self.parts.train()
        for module in self.encoder.trunk.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # batches are small: the published means are better than theirs
        shown = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        with torch.autocast("cpu", torch.bfloat16):
            maps = self.encoder.maps(shown.contiguous(memory_format=torch.channels_last))
            tokens = self.encoder.tokens(maps)
            wide = self.encoder.trunk.head(maps[-1]).mean((2, 3))
        losses = self.head(
            tokens.float().flatten(0, 1), labels.flatten(0, 1), measures.flatten(0, 1)
        )
        known = self._filling(labels)
        filling = functional.cross_entropy(
            self.filling(wide.float())[known >= 0], known[known >= 0]
        )
        self.optimiser.zero_grad(set_to_none=True)
        (losses.total + _FILLING * filling).backward()
        nn.utils.clip_grad_norm_(self.parts.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        keep = min(KEEP, self.step / (self.step + 10.0))
        average(self.averaged, self.encoder, keep)
        parts = {"loss": float(losses.total.detach()), **losses.parts}
        return parts | {"filling": float(filling.detach())}

    def _filling(self, labels: Tensor) -> Tensor:
        """The noun of each picture that one thing fills, which is in the middle and alone; −1 of
        all others."""
        there = labels[..., 0] == 1
        alone = (there.sum(1) == 1) & there[:, MIDDLE]
        return torch.where(alone, labels[:, MIDDLE, 1], -1)

    @property
    def _checkpoint(self) -> Path:
        return self.output.with_suffix(".checkpoint")

    def save(self) -> None:
        state = {
            "of": repr(self.recipe),
            "step": self.step,
            "parts": self.parts.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        # The weights first: a run that was ended between the two writes it again.
        save_file({n: t.contiguous() for n, t in self.averaged.state_dict().items()}, self.output)
        write_checkpoint(self._checkpoint, state)

    def resume(self) -> None:
        """Go on from the checkpoint of the same recipe and length, where there is one."""
        if not self._checkpoint.exists():
            return
        state = torch.load(self._checkpoint, weights_only=True)
        if state["of"] != repr(self.recipe):
            return
        self.parts.load_state_dict(state["parts"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])


def tune(recipe: Recipe, output: Path, console: Console) -> None:
    """Fine-tune the recipe's trunk for its `trunk_steps`, each of two dozen pictures, and write it
    to `output`. An interrupted run goes on from its checkpoint. Raises ModelError without a trunk
    to begin with, ValueError without goods."""
    steps = recipe.trunk_steps
    output.parent.mkdir(parents=True, exist_ok=True)
    tuning = _Tuning(recipe, output)
    tuning.resume()
    loader = DataLoader(
        _Batches(recipe, tuning.step, steps),
        batch_size=None,
        num_workers=1,
        prefetch_factor=8,
        multiprocessing_context="spawn",
    )
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total} {task.fields[news]}"))
    smooth: dict[str, float] = {}
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("", total=steps, completed=tuning.step, news="")
        for batch in loader:
            for name, value in tuning.learn(*batch).items():
                smooth[name] = 0.95 * smooth.get(name, value) + 0.05 * value
            told = "  ".join(f"{name} {value:.2f}" for name, value in smooth.items())
            progress.update(bar, completed=tuning.step, news=told)
            if tuning.step % SAVE_EVERY == 0 or tuning.step == steps:
                console.print(f"step {tuning.step}: {told}")
                tuning.save()
