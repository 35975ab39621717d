"""The batches of a recipe in order, made in background processes while the model trains.

Step k's batch depends on the recipe's seed and k only, so a resumed run sees what an unbroken one
would have seen.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from services.inference_worker.model.builtin import BuiltinModel
from training.batches import Batch, Pictures, make_batch, make_pictures, new_model, world_of
from training.pools import Pools
from training.preference import Pairs, PeoplesPairs
from training.recipe import TRAIN_SEEDS, Recipe
from training.worlds import World

Made = Pictures | Batch | Pairs


@dataclass(frozen=True, slots=True)
class Share:
    """Share of every batch that a process makes and learns from: number `index` of `total`."""

    index: int = 0
    total: int = 1

    def of(self, number: int) -> int:
        return max(number // self.total, 1)


class Schedule(IterableDataset[Made]):
    """The batches of a recipe from `first_step` on, in order."""

    def __init__(self, recipe: Recipe, first_step: int, share: Share, folder: Path) -> None:
        self.recipe = recipe
        self.first_step = first_step
        self.share = share
        self.pools = Pools(folder, recipe)

    def __iter__(self) -> Iterator[Made]:
        torch.set_num_threads(1)
        model, world = new_model(self.recipe), world_of(self.recipe)
        worker = get_worker_info()
        # The loader takes from its workers in turn, so every num_workers-th step keeps the order.
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        with tempfile.TemporaryDirectory(prefix="sightline-pairs-") as folder:
            people: dict[str, PeoplesPairs] = {}
            for step in range(self.first_step + first, self.recipe.total_steps, stride):
                stage, _ = self.recipe.stage_at(step)
                if stage is None or not stage.pairs:
                    yield make_step(model, world, self.recipe, step, self.share, self.pools)
                    continue
                if stage.pairs not in people:
                    where = Path(folder) / str(len(people))
                    people[stage.pairs] = PeoplesPairs(model, Path(stage.pairs), where)
                seed = self.recipe.seed + 1000 * self.share.index
                yield people[stage.pairs].draw(seed, step, self.share.of(stage.mixes[0].batch))


def make_step(
    model: BuiltinModel, world: World, recipe: Recipe, step: int, share: Share, pools: Pools
) -> Pictures | Batch:
    """A process's share of the generated batch of one optimiser step."""
    seed = TRAIN_SEEDS * recipe.seed + step * 1024 + share.index * (1024 // share.total)
    stage, step = recipe.stage_at(step)
    if stage is None:
        number = recipe.picture_batch // share.total
        if pools.pictures is not None:
            return pools.draw_pictures(number, np.random.default_rng((seed, 3)))
        return make_pictures(world, model.config.grid, number, seed)
    mix = stage.mixes[step % len(stage.mixes)]
    mine = replace(mix, batch=share.of(mix.batch))
    kinds = stage.kinds or recipe.kinds
    drawn = pools.draw if pools.clips else None
    talk = stage.conversations
    return make_batch(model, world, mine, seed, kinds, conversations=talk, drawn=drawn)


def stream(
    recipe: Recipe, first_step: int, share: Share, folder: Path, workers: int = 1
) -> Iterator[Made]:
    """Iterate over the recipe's batches; `workers` 0 makes them in the calling thread. folder: of
    the run's pools."""
    loader = DataLoader(
        Schedule(recipe, first_step, share, folder),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="spawn" if workers else None,
    )
    return iter(loader)
