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
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.random import Generator
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TaskID
from torch import Tensor
from torch.utils.data import DataLoader

from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.lite0 import Convolution, PhotoEncoder
from services.inference_worker.model.registry import model_folder
from training.batches import Pictures, new_model
from training.recipe import Recipe, weights_of
from training.rendering import Pixels
from training.resizing import resized
from training.stories import GRID, MIDDLE, Clips, Shown, Stills, Stories, goods_world
from training.world.cells import channels, nouns
from training.world.clip import Clip
from training.world.slides import slides
from training.worlds import GoodsWorld, Take, Truth

_OF_SLIDES = 0.35  # clips that are photographs as they are, one after another
MAPS = ("near", "fine", "coarse")
_OF_OTHERS = 0.6  # pictures that are out of clips, or photographs as they are
_SHOW = 24  # pictures that the trunk looks at together
Advance = Callable[[int], None]


class Pool:
    """A folder of stories' maps and truth; story n's are rows n of every array."""

    def __init__(
        self, folder: Path, recipe: Recipe, kind: "Literal['pictures', 'stills'] | int"
    ) -> None:
        """kind: of its stories; a number: clips of so many frames."""
        self.folder = folder
        self.recipe = recipe
        self.kind = kind
        of_kind = {"pictures": recipe.picture_pool, "stills": recipe.still_pool}
        self.size = of_kind.get(str(kind), recipe.clip_pool)

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
        look = _looking(self.recipe)
        old = _drawn_tower(self.recipe) if self.kind == "pictures" else None
        stories = self._stories()
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

    def _stories(self) -> Stories:
        if isinstance(self.kind, int):
            return Clips(self.recipe, self.size, self.kind)
        return (Stills if self.kind == "stills" else Stories)(self.recipe, self.size)

    def _keep(self, number: int, shown: Shown, maps: list[Tensor], old: "_Tower | None") -> None:
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
        each = self.kept["labels"].shape[1]
        at = rng.integers(self.size, size=count), rng.integers(each, size=count)

        def taken(name: str) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(self.kept[name][at]))

        return Pictures(
            pixels=torch.zeros(0),
            labels=taken("labels").long(),
            measures=taken("measures"),
            maps=tuple(taken(name) for name in MAPS),
            wanted=taken("wanted") if "wanted" in self.kept else None,
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
        """What a finished encoder makes of all pictures, [stories × pictures, cells, hidden]."""
        found: list[Tensor] = []
        for number in range(self.size):
            maps = [torch.from_numpy(np.array(self.kept[name][number])) for name in MAPS]
            found.append(encoder.tokens([each.float() for each in maps]))
        return torch.cat(found)


class Pools:
    """A run's pools: of pictures, and of clips by their length."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder
        self.recipe = recipe
        lengths = sorted({mix.frames for stage in recipe.stages for mix in stage.mixes})
        self.pictures = (
            Pool(folder / "pictures", recipe, "pictures") if recipe.picture_pool else None
        )
        self.stills = Pool(folder / "stills", recipe, "stills") if recipe.still_pool else None
        self.clips = {
            frames: Pool(folder / f"clips-{frames}", recipe, frames)
            for frames in (lengths if recipe.clip_pool else ())
        }

    def fill(self, console: Console, workers: int) -> None:
        """Make what is missing."""
        with Progress(console=console, transient=True) as progress:
            some = [pool for pool in (self.pictures, self.stills) if pool is not None]
            for pool in [*some, *self.clips.values()]:
                bar = progress.add_task(pool.folder.name, total=pool.size, completed=pool.made)

                def advance(made: int, bar: TaskID = bar) -> None:
                    progress.update(bar, completed=made)

                pool.fill(workers, advance)

    def draw_pictures(self, count: int, rng: Generator) -> Pictures:
        """Pictures, some of them out of clips, some photographs as they are."""
        assert self.pictures is not None
        others = [*self.clips.values(), *([self.stills] * 2 if self.stills else [])]
        share = int(count * _OF_OTHERS / max(len(others), 1))
        drawn = [pool.pictures(share, rng) for pool in others]
        drawn = [self.pictures.pictures(count - share * len(drawn), rng), *drawn]
        wanted = drawn[0].wanted
        assert wanted is not None
        unknown = wanted.new_full((count - len(wanted), *wanted.shape[1:]), torch.nan)
        return Pictures(
            pixels=torch.zeros(0),
            labels=torch.cat([each.labels for each in drawn]),
            measures=torch.cat([each.measures for each in drawn]),
            maps=tuple(map(torch.cat, zip(*(each.maps for each in drawn), strict=True))),
            wanted=torch.cat((wanted, unknown)),
        )

    def draw(self, frames: int, rng: Generator) -> tuple[NDArray[np.int64], Take, Truth]:
        """A clip of so many frames, and their numbers among `tokens`."""
        pool = self.clips[frames]
        if self.stills is not None and rng.random() < _OF_SLIDES:
            return self._slides(frames, rng)
        number, take, truth = pool.clip(rng, self._world)
        return number * frames + np.arange(frames), take, truth

    def tokens(self, frames: int, encoder: PhotoEncoder) -> Tensor:
        """What a finished encoder makes of the frames of clips of this length, and then of all
        photographs."""
        found = [self.clips[frames].tokens(encoder)]
        return torch.cat([*found, *([self.stills.tokens(encoder)] if self.stills else [])])

    def _slides(self, frames: int, rng: Generator) -> tuple[NDArray[np.int64], Take, Truth]:
        """A clip of a few photographs, one after another: nothing of it needs to be painted."""
        assert self.stills is not None
        kept = self.stills.kept["labels"][: self.stills.size].reshape(
            -1, GRID * GRID, len(channels())
        )
        chosen: dict[int, int] = {}  # the noun of each photograph
        for _ in range(int(rng.integers(1, 2 + frames // 8))):
            number = int(rng.integers(len(kept)))
            noun = int(kept[number, MIDDLE, 1])
            if noun not in chosen.values():
                chosen[number] = noun
        clip = slides([nouns()[noun] for noun in chosen.values()], frames, rng)
        shown = np.array([*chosen])[clip.presence.argmax(axis=1)]
        first = self.clips[frames].size * frames
        take = self._world.take(clip)
        return first + shown, take, take.truth(GRID)

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
