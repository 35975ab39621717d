"""Pools of pictures and clips that a frozen trunk has looked at once, on disk.

A trunk that learns nothing makes the same maps of a picture every time, and painting a picture
costs more than learning from it. So a fixed number of pictures and clips is made before training,
their maps are kept beside what is true of them, and every step draws from those: the same clip is
asked other things each time. What was made before an interruption is not made again.
"""

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.random import Generator
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.lite0 import Convolution, PhotoEncoder
from services.inference_worker.model.registry import model_folder
from training.batches import Pictures, new_model, world_of
from training.recipe import TRAIN_SEEDS, Recipe, weights_of
from training.rendering import Pixels
from training.resizing import resized
from training.world.clip import Clip
from training.worlds import GoodsWorld, Take, Truth, WideTake

GRID = 4
MAPS = ("near", "fine", "coarse")
_SHOW = 24  # pictures that the trunk looks at together
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Shown:
    """Pictures [n, side, side, 3] and what is true of them. clip: where they are one."""

    pixels: Pixels
    truth: Truth
    clip: Clip | None = None


class _Stories(Dataset[_Shown]):
    """Stories of a recipe's world by number, as pictures far apart."""

    def __init__(self, recipe: Recipe, number: int) -> None:
        self.recipe = recipe
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> _Shown:
        seed = TRAIN_SEEDS * self.recipe.seed + index
        pixels, truth = self._world.pictures(seed, np.random.default_rng((seed, 3)), GRID)
        return _Shown(pixels, truth)

    @property
    def _world(self) -> GoodsWorld:
        torch.set_num_threads(1)
        return goods_world(self.recipe)


class _Clips(_Stories):
    """Clips of a recipe's world by number, `frames` long."""

    def __init__(self, recipe: Recipe, number: int, frames: int) -> None:
        super().__init__(recipe, number)
        self.frames = frames

    def __getitem__(self, index: int) -> _Shown:
        seed = TRAIN_SEEDS * self.recipe.seed + (self.frames << 24) + index
        take = self._world.film(seed, self.frames, np.random.default_rng((seed, 2)))
        assert isinstance(take, WideTake)
        nothing = take.pixels[:, :0, :0]
        return _Shown(take.pixels, take.truth(GRID), replace(take.clip, pixels=nothing))


def goods_world(recipe: Recipe) -> GoodsWorld:
    """The recipe's world, whose clips can be kept. Raises ValueError for another."""
    world = world_of(recipe)
    if not isinstance(world, GoodsWorld):
        raise ValueError("only clips of goods are kept in pools")
    return world


class Pool:
    """A folder of stories' maps and truth; story n's are rows n of every array."""

    def __init__(self, folder: Path, recipe: Recipe, frames: int = 0) -> None:
        self.folder = folder
        self.recipe = recipe
        self.frames = frames  # of a clip; 0: stories are pictures
        self.size = recipe.clip_pool if frames else recipe.picture_pool

    @property
    def made(self) -> int:
        """Stories that are there already."""
        try:
            return int(json.loads((self.folder / "made.json").read_text()))
        except FileNotFoundError:
            return 0

    def fill(self, workers: int, advance: Advance = lambda made: None) -> None:
        """Make the stories that are missing. workers: processes that paint."""
        first = self.made
        if first >= self.size:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        look, old = _looking(self.recipe), None if self.frames else _drawn_tower(self.recipe)
        stories = (
            _Clips(self.recipe, self.size, self.frames)
            if self.frames
            else _Stories(self.recipe, self.size)
        )
        loader = DataLoader(
            stories,
            batch_size=None,
            sampler=range(first, self.size),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            multiprocessing_context="spawn" if workers else None,
        )
        for number, shown in enumerate(loader, first):
            self._keep(number, shown, look(shown.pixels), old)
            if (number + 1) % 20 == 0 or number + 1 == self.size:
                self._mark(number + 1)
                advance(number + 1)

    def _keep(self, number: int, shown: _Shown, maps: list[Tensor], old: "_Tower | None") -> None:
        rows = {name: each.half().numpy() for name, each in zip(MAPS, maps, strict=True)}
        rows["labels"] = shown.truth.labels.astype(np.int16)
        rows["measures"] = shown.truth.measures
        if shown.clip is not None:
            rows["calm"] = shown.truth.calm
            (self.folder / f"{number}.clip").write_bytes(pickle.dumps(shown.clip))
        if old is not None:
            rows["wanted"] = old(shown.pixels if shown.truth.drawn else None, len(shown.pixels))
        for name, row in rows.items():
            self._array(name, row)[number] = row

    def _array(self, name: str, row: NDArray[np.generic]) -> NDArray[np.generic]:
        if name not in self._arrays:
            path = self.folder / f"{name}.npy"
            if path.exists():
                self._arrays[name] = open_memmap(path, "r+")
            else:
                self._arrays[name] = open_memmap(path, "w+", row.dtype, (self.size, *row.shape))
        return self._arrays[name]

    @cached_property
    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        return {}

    def _mark(self, made: int) -> None:
        partial = self.folder / "made.partial"
        partial.write_text(json.dumps(made))
        os.replace(partial, self.folder / "made.json")

    @cached_property
    def kept(self) -> dict[str, NDArray[np.generic]]:
        """What was kept, [stories, pictures, …], by name."""
        return {path.stem: np.load(path, mmap_mode="r") for path in self.folder.glob("*.npy")}

    def pictures(self, count: int, rng: Generator) -> Pictures:
        """Pictures from anywhere in the pool."""
        stories, each = self.kept["labels"].shape[:2]
        at = rng.integers(stories, size=count), rng.integers(each, size=count)

        def taken(name: str) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(self.kept[name][at]))

        return Pictures(
            pixels=torch.zeros(0),
            labels=taken("labels").long(),
            measures=taken("measures"),
            maps=tuple(taken(name) for name in MAPS),
            wanted=taken("wanted"),
        )

    def clip(self, rng: Generator, world: GoodsWorld) -> tuple[int, Take, Truth]:
        """A clip from anywhere in the pool, without its pixels, and what is true of it."""
        number = int(rng.integers(self.size))
        clip: Clip = pickle.loads((self.folder / f"{number}.clip").read_bytes())
        labels, measures, calm = (
            np.array(self.kept[name][number]) for name in ("labels", "measures", "calm")
        )
        return number, world.take(clip), Truth(labels.astype(np.int64), measures, calm)

    @torch.no_grad()
    def tokens(self, encoder: PhotoEncoder) -> Tensor:
        """What a finished encoder makes of all clips, [clips, frames × cells, hidden]."""
        found: list[Tensor] = []
        for number in range(self.size):
            maps = [torch.from_numpy(np.array(self.kept[name][number])) for name in MAPS]
            found.append(encoder.tokens([each.float() for each in maps]).flatten(0, 1))
        return torch.stack(found)


class Pools:
    """A run's pools: of pictures, and of clips by their length."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder
        self.recipe = recipe
        lengths = sorted({mix.frames for stage in recipe.stages for mix in stage.mixes})
        self.pictures = Pool(folder / "pictures", recipe) if recipe.picture_pool else None
        self.clips = {
            frames: Pool(folder / f"clips-{frames}", recipe, frames)
            for frames in (lengths if recipe.clip_pool else ())
        }

    def fill(self, console: Console, workers: int) -> None:
        """Make what is missing."""
        with Progress(console=console, transient=True) as progress:
            for pool in [*([self.pictures] if self.pictures else []), *self.clips.values()]:
                bar = progress.add_task(pool.folder.name, total=pool.size, completed=pool.made)
                pool.fill(workers, lambda made, bar=bar: progress.update(bar, completed=made))

    def draw(self, frames: int, rng: Generator) -> tuple[int, Take, Truth]:
        """A clip of so many frames."""
        return self.clips[frames].clip(rng, self._world)

    @cached_property
    def _world(self) -> GoodsWorld:
        return goods_world(self.recipe)


class _Tower:
    """The tower that a recipe's new one stands in for."""

    def __init__(self, model: BuiltinModel) -> None:
        self.model = model

    @torch.no_grad()
    def __call__(self, pixels: Pixels | None, count: int) -> NDArray[np.float16]:
        """Tokens [pictures, cells, hidden] that its decoder knows; NaN of none."""
        config = self.model.config
        if pixels is None:
            shape = (count, config.grid**2, config.decoder.hidden_size)
            return np.full(shape, np.nan, np.float16)
        frames = torch.from_numpy(resized(pixels, config.frame_size, config.frame_size).copy())
        return self.model.encode(frames[:, None]).tokens.half().numpy()  # type: ignore[no-any-return]


def _drawn_tower(recipe: Recipe) -> _Tower:
    folder = model_folder(weights_of(recipe.start))
    return _Tower(BuiltinModel.load(folder, torch.float32, torch.device("cpu")))


def _looking(recipe: Recipe) -> Callable[[Pixels], list[Tensor]]:
    """What the trunk that a recipe begins with makes of pictures, computed as it is served."""
    encoder = new_model(recipe).encoder
    assert isinstance(encoder, PhotoEncoder)
    trunk = encoder.trunk.eval().requires_grad_(False)
    for module in list(trunk.modules()):
        if isinstance(module, Convolution):
            module.fold()
    trunk.to(torch.bfloat16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def look(pixels: Pixels) -> list[Tensor]:
        parts = []
        for first in range(0, len(pixels), _SHOW):
            shown = torch.from_numpy(np.array(pixels[first : first + _SHOW])).permute(0, 3, 1, 2)
            parts.append(trunk(shown.to(torch.bfloat16) / 127.5 - 1.0))
        return [torch.cat(each).contiguous() for each in zip(*parts, strict=True)]

    return look
