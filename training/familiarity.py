"""What pictures of its training look like to a model, measured once it is trained: see
`services.inference_worker.model.familiarity`.

The recipe's own clips are looked at as they were trained on, and as video of other sizes, light,
sharpness and quality; beside them photographs of other things. Every fourth of its own clips, from
which nothing is learnt, says where the bound is.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.familiarity import Familiarity, statistics
from training.examination.worlds import FRAMES_PER_SECOND
from training.recipe import Recipe
from training.rendering import Pixels
from training.resizing import resized
from training.strangers import FOLDERS, NO_GOODS, photographs, taken
from training.world.camera import through_codec
from training.world.video import pictures
from training.world.wide import World as Scene
from training.worlds import WideWorld, find_world

WITHHELD = 0.006  # share of its own pictures that the model may not know
SEEDS = 1 << 36  # of the clips looked at: of no training, and of no examination
VIDEOS = 8  # one for so many clips
VIDEO_S = 3.0
_FRAMES, _EVERY = 10, 4  # of a clip; neighbours say nothing new
_STRANGERS = 6  # photographs for each clip
_KEPT = 4
_DECAY = 3e-4  # of the judge's weights
_SIZES = ((640, 360), (1280, 720), (512, 512), (256, 256), (854, 480), (360, 640))

Advance = Callable[[], None]


def num_clips(recipe: Recipe) -> int:
    """Clips and videos that are looked at."""
    return recipe.familiar_clips + recipe.familiar_clips // VIDEOS


def measure(
    model: BuiltinModel, recipe: Recipe, photos: Path, advance: Advance = lambda: None
) -> Familiarity:
    """The judge of a trained model's pictures. model: prepared to run, in float32. photos: a folder
    of photographs. advance: called with each of `num_clips`. Raises ValueError without any."""
    learnt, _ = photographs(photos, NO_GOODS if recipe.world == "goods" else FOLDERS)
    if not learnt:
        raise ValueError(f"no photographs in {photos}")
    rng = np.random.default_rng(1)
    number, side = _STRANGERS * recipe.familiar_clips, model.config.frame_size
    strange = _looked(model, taken(learnt, number, side, rng))
    own: tuple[list[Tensor], list[Tensor]] = ([], [])
    for index, pixels in enumerate(_own(model, recipe)):
        own[index % _KEPT == 0].append(_look(model, pixels))
        advance()
    weights, offset = _judge(torch.cat(own[0]), strange)
    kept = torch.cat(own[1]) @ weights + offset
    bound = float(kept.quantile(1 - WITHHELD))
    spread = max(bound - float(kept.median()), 1e-3)
    return Familiarity(weights / spread, (offset - bound) / spread)


def write(
    folder: Path, recipe: Recipe, photos: Path, advance: Advance = lambda: None
) -> Familiarity:
    """Measure the model in this folder and write down there what is familiar to it."""
    model = BuiltinModel.load(folder, torch.float32, torch.device("cpu"))
    judge = measure(model, recipe, photos, advance)
    judge.save(folder)
    return judge


def _judge(own: Tensor, strange: Tensor) -> tuple[Tensor, float]:
    """Weights of statistics [pictures, statistics] that tell the one from the other, by logistic
    regression, and what is added: positive where a picture is strange."""
    everything = torch.cat((own, strange))
    mean, spread = everything.mean(0), everything.std(0) + 1e-3
    features = (everything - mean) / spread
    wanted = torch.cat((torch.zeros(len(own)), torch.ones(len(strange))))
    shares = torch.where(wanted > 0, 0.5 / len(strange), 0.5 / len(own))  # as much of each
    weights = torch.zeros(features.shape[1], requires_grad=True)
    offset = torch.zeros(1, requires_grad=True)
    fitting = torch.optim.LBFGS([weights, offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> float:
        fitting.zero_grad()
        scores = features @ weights + offset
        wrong = functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
        total = (shares * wrong).sum() + _DECAY * weights.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return float(total.detach())

    fitting.step(loss)  # type: ignore[no-untyped-call]
    found = weights.detach() / spread
    return found, float(offset.detach() - mean @ found)


def _own(model: BuiltinModel, recipe: Recipe) -> Iterator[Pixels]:
    clips = recipe.familiar_clips
    world = find_world(recipe.world, recipe.trade, side=model.config.frame_size)
    for seed in range(SEEDS, SEEDS + clips):
        rng = np.random.default_rng((seed, 2))
        yield world.film(seed, _FRAMES, rng).pixels[::_EVERY]
    if isinstance(world, WideWorld):
        for seed in range(SEEDS + clips, SEEDS + num_clips(recipe)):
            yield as_video(recipe, seed, VIDEO_S, model.config.frame_size)[::_EVERY]


def as_video(recipe: Recipe, seed: int, seconds: float, side: int = 128) -> Pixels:
    """A story as a publisher sends it, as the gateway shows it to a model [frames, side, side, 3]:
    in another size, light and sharpness, through H.264."""
    rng = np.random.default_rng((seed, 15))
    scene = cast(Scene, "shop" if recipe.world == "wide" else recipe.world)
    scale, (width, height) = int(rng.integers(1, 5)), _SIZES[rng.integers(len(_SIZES))]
    clean = pictures(seed, seconds, scene, scale, FRAMES_PER_SECOND, recipe.trade)
    lit = _lit(np.stack([*clean]), rng)
    sized = resized(lit, width, height)
    if rng.random() < 0.3:  # out of focus
        less = int(rng.integers(2, 4))
        sized = resized(resized(sized, width // less, height // less), width, height)
    sent = through_codec(sized, int(rng.integers(18, 34)), FRAMES_PER_SECOND)
    return resized(sent, side, side)


def _lit(frames: Pixels, rng: Generator) -> Pixels:
    """The picture in another light: exposure, contrast."""
    levels = np.arange(256) / 255
    curve = np.clip(levels ** rng.uniform(0.8, 1.25) * rng.uniform(0.75, 1.15), 0, 1)
    return (curve * 255).astype(np.uint8)[frames]


def _looked(model: BuiltinModel, shown: Iterator[Pixels]) -> Tensor:
    return torch.cat([_look(model, each[None]) for each in shown])


@torch.no_grad()
def _look(model: BuiltinModel, pixels: Pixels) -> Tensor:
    """Statistics [pictures, statistics] of pictures."""
    frames = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float()
    return statistics(model.encoder.maps(frames / 127.5 - 1.0))
