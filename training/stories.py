"""Stories that pools are made of: pictures far apart, photographs as they are, and clips."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from torch.utils.data import Dataset

from training.batches import world_of
from training.recipe import TRAIN_SEEDS, Recipe
from training.rendering import Pixels
from training.resizing import resized
from training.world.cells import IGNORE, nouns
from training.world.clip import Clip
from training.world.goods import goods
from training.worlds import GoodsWorld, Truth, WideTake

GRID = 4
MIDDLE = GRID * GRID // 2 + GRID // 2  # the cell behind the middle
TOGETHER = 6  # photographs of a story


@dataclass(frozen=True, slots=True)
class Shown:
    """Pictures [n, side, side, 3] and what is true of them. clip: where they are one."""

    pixels: Pixels
    truth: Truth
    clip: Clip | None = None


class Stories(Dataset[Shown]):
    """Stories of a recipe's world by number, as pictures far apart."""

    def __init__(self, recipe: Recipe, number: int) -> None:
        self.recipe = recipe
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Shown:
        seed = TRAIN_SEEDS * self.recipe.seed + index
        pixels, truth = self._world.pictures(seed, np.random.default_rng((seed, 3)), GRID)
        return Shown(pixels, truth)

    @property
    def _world(self) -> GoodsWorld:
        torch.set_num_threads(1)
        return goods_world(self.recipe)


class Clips(Stories):
    """Clips of a recipe's world by number, `frames` long."""

    def __init__(self, recipe: Recipe, number: int, frames: int) -> None:
        super().__init__(recipe, number)
        self.frames = frames

    def __getitem__(self, index: int) -> Shown:
        seed = TRAIN_SEEDS * self.recipe.seed + (self.frames << 24) + index
        take = self._world.film(seed, self.frames, np.random.default_rng((seed, 2)))
        assert isinstance(take, WideTake)
        nothing = take.pixels[:, :0, :0]
        return Shown(take.pixels, take.truth(GRID), replace(take.clip, pixels=nothing))


class Stills(Stories):
    """Every photograph of goods that training may see, `TOGETHER` to a story, each in another
    light and cut. They cost no painting."""

    def __getitem__(self, index: int) -> Shown:
        world = self._world
        rng = np.random.default_rng((self.recipe.seed, index, 4))
        shown = [
            (noun, number)
            for (noun, split), found in sorted(goods().whole.items())
            for number in found
            if split == "train"
        ]
        order = np.random.default_rng(self.recipe.seed).permutation(len(shown))
        chosen = [shown[order[(index * TOGETHER + n) % len(order)]] for n in range(TOGETHER)]
        pixels = np.stack([_seen_anew(goods().wholes[n], world.side, rng) for _, n in chosen])
        return Shown(pixels, _of_stills([noun for noun, _ in chosen], len(world.channels)))


def _seen_anew(whole: Pixels, side: int, rng: Generator) -> Pixels:
    """A photograph cut, mirrored and lit in another way."""
    rows, columns = (int(len(whole) * rng.uniform(0.6, 1)) for _ in range(2))
    top, left = (int(rng.integers(len(whole) - length + 1)) for length in (rows, columns))
    cut = whole[top : top + rows, left : left + columns]
    cut = cut[:, ::-1] if rng.random() < 0.5 else cut
    light = np.clip((np.arange(256) / 255) ** rng.uniform(0.75, 1.35) * rng.uniform(0.7, 1.1), 0, 1)
    lit = (light * 255).astype(np.uint8)[cut]
    (seen,) = resized(np.ascontiguousarray(lit)[None], side, side)
    return np.asarray(seen, np.uint8)


def _of_stills(names: list[str], number: int) -> Truth:
    """Truth about pictures that one thing fills: it is in the cell behind the middle."""
    labels = np.full((len(names), GRID * GRID, number), IGNORE, np.int64)
    labels[..., 0] = 0
    labels[:, MIDDLE, 0] = 1
    labels[:, MIDDLE, 1] = [nouns().index(name) for name in names]
    measures = np.full((len(names), GRID * GRID, 4), np.nan, np.float32)
    measures[:, MIDDLE, :2] = -0.5
    return Truth(labels, measures, np.ones(len(names), bool))


def goods_world(recipe: Recipe) -> GoodsWorld:
    """The recipe's world, whose clips can be kept. Raises ValueError for another."""
    world = world_of(recipe)
    if not isinstance(world, GoodsWorld):
        raise ValueError("only clips of goods are kept in pools")
    return world
