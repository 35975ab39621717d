"""Batches of generated clips, made in a background process while the model trains.

Step k's batch depends on the recipe's seed and k only, so a resumed run sees what an unbroken one
would have seen.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from services.inference_worker.model.builtin import BuiltinModel, default_config
from training.layout import Branch, branch_of, pack
from training.questions import KINDS, Question, ask, small_talk
from training.recipe import TRAIN_SEEDS, Mix, Recipe
from training.rendering import Scene, render
from training.truth import cell_truth
from training.vocabulary import build_tokenizer, words
from training.world.shapes import Clip, Pace, film

_PICTURE_MOMENTS = (0, 9, 18)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Single frames [n, 128, 128, 3] uint8 with labels and measures as in `truth`."""

    pixels: Tensor
    labels: Tensor
    measures: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips in the served layout. Tensors are [batch, …] as in `layout.Row` and `truth`."""

    pixels: Tensor
    tokens: Tensor
    targets: Tensor
    positions: Tensor
    frames: Tensor
    branches: Tensor
    labels: Tensor
    measures: Tensor
    kinds: tuple[tuple[str, ...], ...]


def new_model(name: str = "builtin") -> BuiltinModel:
    """The shipped architecture with random weights."""
    return BuiltinModel(default_config(len(words())), build_tokenizer(), name=name)


def with_words(model: BuiltinModel, texts: list[str], seed: int) -> tuple[BuiltinModel, list[str]]:
    """The same model with those words of `texts` in its vocabulary that it lacks, and which they
    are. Their embeddings are drawn as the others' were when they were new."""
    state = json.loads(model.tokenizer.to_str())
    if state["model"]["type"] != "WordLevel":
        return model, []
    known = state["model"]["vocab"]
    split = model.tokenizer.pre_tokenizer.pre_tokenize_str
    normal = model.tokenizer.normalizer
    spelt = [normal.normalize_str(text) if normal else text for text in texts]
    words = [word for text in spelt for word, _ in split(text)]
    new = [word for word in dict.fromkeys(words) if word not in known]
    if not new:
        return model, []
    first = max(model.config.decoder.vocab_size, max(known.values()) + 1)
    known |= {word: first + number for number, word in enumerate(new)}
    decoder = replace(model.config.decoder, vocab_size=first + len(new))
    torch.manual_seed(seed)
    tokenizer = Tokenizer.from_str(json.dumps(state))
    larger = BuiltinModel(replace(model.config, decoder=decoder), tokenizer, model.spec.name)
    tensors = larger.state_dict()
    for name, tensor in model.state_dict().items():
        tensors[name][: len(tensor)].copy_(tensor) if tensor.ndim else tensors[name].copy_(tensor)
    device = model.decoder.embedding.weight.device
    return larger.prepare(torch.float32, device), new


def draw_pace(rng: Generator) -> Pace:
    """Worlds differ in how much happens."""
    slow = float(rng.uniform(1.5, 3.0))
    return Pace(
        change_rate=float(rng.choice([0.03, 0.08, 0.16])),
        move_share=float(rng.choice([0.5, 0.8, 0.95])),
        speed=(slow, slow + float(rng.uniform(1.0, 4.5))),
    )


def draw_question(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """One question at this moment, of a kind drawn by weight, maybe after earlier small talk."""
    kinds = list(KINDS)
    weights = np.array([weight for _, weight in KINDS.values()])
    kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    question = ask(clip, frame, kind, rng)
    if question is None or question.is_watch:
        return question
    talk = small_talk(clip, frame, rng)
    if not talk:
        return question
    history = (talk + question.history)[-10:]
    if kind == "followup" and not question.history:
        return question
    return Question(question.kind, question.text, question.answer, history)


def draw_branches(model: BuiltinModel, clip: Clip, text_size: int, rng: Generator) -> list[Branch]:
    """Fill `text_size` tokens with questions at random moments; later moments a little likelier."""
    branches: list[Branch] = []
    room, misses = text_size, 0
    while misses < 12:
        frame = int(len(clip) * rng.random() ** 0.7)
        question = draw_question(clip, frame, rng)
        branch = None if question is None else branch_of(model, frame, question)
        if branch is None or branch.size > room:
            misses += 1
            continue
        branches.append(branch)
        room -= branch.size
    return branches


def make_batch(model: BuiltinModel, mix: Mix, seed: int) -> Batch:
    """`mix.batch` clips with seeds from `seed` on."""
    rows, pixels, labels, measures, kinds = [], [], [], [], []
    for index in range(mix.batch):
        rng = np.random.default_rng((seed + index, 2))
        clip = film(seed + index, mix.frames, draw_pace(rng))
        branches = draw_branches(model, clip, mix.text_size, rng)
        offset = int(rng.integers(model.spec.position_horizon - 128))
        rows.append(pack(model, mix.frames, branches, offset, mix.text_size))
        kinds.append(tuple(branch.kind for branch in branches))
        pixels.append(render(clip))
        cell_labels, cell_measures = cell_truth(clip, model.config.grid)
        labels.append(cell_labels)
        measures.append(cell_measures)
    return Batch(
        pixels=torch.from_numpy(np.stack(pixels)),
        tokens=torch.from_numpy(np.stack([row.tokens for row in rows])),
        targets=torch.from_numpy(np.stack([row.targets for row in rows])),
        positions=torch.from_numpy(np.stack([row.positions for row in rows])),
        frames=torch.from_numpy(np.stack([row.frames for row in rows])),
        branches=torch.from_numpy(np.stack([row.branches for row in rows])),
        labels=torch.from_numpy(np.stack(labels)),
        measures=torch.from_numpy(np.stack(measures)),
        kinds=tuple(kinds),
    )


def make_pictures(grid: int, count: int, seed: int) -> Pictures:
    """`count` frames, a few far apart from each clip."""
    pixels: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    measures: list[NDArray[np.float32]] = []
    while len(pixels) < count:
        rng = np.random.default_rng((seed + len(pixels), 3))
        clip = film(seed + len(pixels), _PICTURE_MOMENTS[-1] + 1, draw_pace(rng))
        scene = Scene(clip.seed)
        cell_labels, cell_measures = cell_truth(clip, grid)
        frames = np.empty((len(_PICTURE_MOMENTS), scene.side, scene.side, 3), np.uint8)
        for out, moment in zip(frames, _PICTURE_MOMENTS, strict=True):
            scene.draw(clip.frames[moment], out)
        scene.weather(frames)
        pixels.extend(frames)
        labels.extend(cell_labels[list(_PICTURE_MOMENTS)])
        measures.extend(cell_measures[list(_PICTURE_MOMENTS)])
    return Pictures(
        torch.from_numpy(np.stack(pixels)),
        torch.from_numpy(np.stack(labels)),
        torch.from_numpy(np.stack(measures)),
    )


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every batch a process makes and learns from: number `index` of `total`."""

    index: int = 0
    total: int = 1


class Schedule(IterableDataset[Pictures | Batch]):
    """The batches of a recipe from `first_step` on, in order."""

    def __init__(self, recipe: Recipe, first_step: int, share: Share) -> None:
        self.recipe = recipe
        self.first_step = first_step
        self.share = share

    def __iter__(self) -> Iterator[Pictures | Batch]:
        torch.set_num_threads(1)
        model = new_model()
        worker = get_worker_info()
        # The loader takes from its workers in turn, so every num_workers-th step keeps the order.
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.first_step + first, self.recipe.total_steps, stride):
            yield make_step(model, self.recipe, step, self.share)


def make_step(model: BuiltinModel, recipe: Recipe, step: int, share: Share) -> Pictures | Batch:
    """A process's share of the batch of one optimiser step."""
    seed = TRAIN_SEEDS * recipe.seed + step * 1024 + share.index * (1024 // share.total)
    stage, step = recipe.stage_at(step)
    if stage is None:
        return make_pictures(model.config.grid, recipe.picture_batch // share.total, seed)
    mix = stage.mixes[step % len(stage.mixes)]
    return make_batch(model, replace(mix, batch=max(mix.batch // share.total, 1)), seed)


def stream(
    recipe: Recipe, first_step: int, share: Share, workers: int = 1
) -> Iterator[Pictures | Batch]:
    """Iterate over the recipe's batches; `workers` 0 makes them in the calling thread."""
    loader = DataLoader(
        Schedule(recipe, first_step, share),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="spawn" if workers else None,
    )
    return iter(loader)
