"""The model that a recipe begins with, and batches of generated clips."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from services.inference_worker.model.builtin import BuiltinModel, default_config
from services.inference_worker.model.lite0 import PhotoEncoder
from services.inference_worker.model.registry import model_folder
from training.layout import Branch, branch_of, pack
from training.lite0 import read_trunk, trunk_file, tuned_encoder
from training.recipe import Mix, Recipe, weights_of
from training.vocabulary import build_tokenizer
from training.world.catalogue import Split
from training.worlds import Take, Truth, World, at_length, find_world

_AT_FIRST = 0.1  # of what a new tower would read from its trunk


@dataclass(frozen=True, slots=True)
class Pictures:
    """Single frames [n, 128, 128, 3] uint8 with labels and measures as in `truth`. maps: what a
    trunk has made of them already. wanted: the tokens that another tower made of what it knows, NaN
    of all else."""

    pixels: Tensor
    labels: Tensor
    measures: Tensor
    maps: tuple[Tensor, ...] = ()
    wanted: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips in the served layout. Tensors are [batch, …] as in `layout.Row` and `truth`. vision:
    [batch, frames × cells, hidden] tokens that an encoder has made of the pixels already, and
    `shown` [batch, frames] their numbers in the pools."""

    pixels: Tensor
    tokens: Tensor
    targets: Tensor
    positions: Tensor
    frames: Tensor
    branches: Tensor
    labels: Tensor
    measures: Tensor
    calm: Tensor
    refers: Tensor
    kinds: tuple[tuple[str, ...], ...]
    shown: Tensor | None = None
    vision: Tensor | None = None


def new_model(recipe: Recipe, name: str = "builtin") -> BuiltinModel:
    """Model that the recipe begins with: random weights, or those of another model that has learnt
    the words of this world. Raises ModelError for a folder without a model."""
    more = world_of(recipe).words
    if recipe.start:
        folder = model_folder(weights_of(recipe.start))
        start = BuiltinModel.load(folder, torch.float32, torch.device("cpu"))
        model, _ = with_words(start, list(more), recipe.seed)
        if recipe.tower:
            model = with_tower(model, recipe)
        model.config = replace(model.config, history_before_cursor=True)  # learnt from now on
        model.spec = model.config.spec(model.spec.name)
        return model.requires_grad_(True)
    tokenizer = build_tokenizer(more)
    size = asdict(recipe.size)
    stem = size.pop("stem_channels")
    size["num_kv_heads"] = size["num_heads"]
    config = default_config(tokenizer.get_vocab_size())
    config = replace(config, decoder=replace(config.decoder, **size), stem_channels=stem)
    return BuiltinModel(config, tokenizer, name=name)


def with_tower(model: BuiltinModel, recipe: Recipe) -> BuiltinModel:
    """The model's decoder behind another encoder, which knows photographs where it is Lite0's; one
    that it has already stays, for frames of the recipe's size. Raises ModelError."""
    config = replace(model.config, tower=recipe.tower, frame_size=recipe.frame_size)
    torch.manual_seed(recipe.seed)
    made = BuiltinModel(config, model.tokenizer, model.spec.name)
    made.decoder.load_state_dict(model.decoder.state_dict())
    if model.config.tower == recipe.tower:  # it goes on with its own, tuned or as it is
        made.encoder.load_state_dict(tuned_encoder() or model.encoder.state_dict())
        return made
    made.encoder.places.data.copy_(model.encoder.places)
    made.encoder.project.load_state_dict(model.encoder.project.state_dict())
    if isinstance(made.encoder, PhotoEncoder):
        made.encoder.trunk.load_state_dict(read_trunk(trunk_file()).state_dict())
        for reads in (
            made.encoder.near,
            made.encoder.fine,
            made.encoder.coarse,
            made.encoder.whole,
        ):
            reads.weight.data.mul_(_AT_FIRST)  # so that what stands before it is heard at once
    return made


def world_of(recipe: Recipe) -> World:
    return find_world(recipe.world, recipe.trade, recipe.talk, recipe.frame_size)


def with_words(model: BuiltinModel, texts: list[str], seed: int) -> tuple[BuiltinModel, list[str]]:
    """The model with those words of `texts` in its vocabulary that it lacks, and which they
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


def draw_branches(
    model: BuiltinModel,
    take: Take,
    weights: Mapping[str, float],
    text_size: int,
    rng: Generator,
    conversations: float = 0.0,
    elsewhere: Take | None = None,
) -> list[Branch]:
    """Fill `text_size` tokens with questions at random moments. conversations: share of them at
    the end of a long one, which may have begun over the take `elsewhere`."""
    branches: list[Branch] = []
    room, misses = text_size, 0
    while misses < 12:
        asked = take.ask(weights, rng)
        if asked is not None and conversations and rng.random() < conversations:
            frame, question = asked
            asked = frame, at_length(take, frame, question, weights, elsewhere, rng)
        branch = None if asked is None else branch_of(model, *asked)
        if branch is None or branch.size > room:
            misses += 1
            continue
        branches.append(branch)
        room -= branch.size
    return branches


def make_batch(
    model: BuiltinModel,
    world: World,
    mix: Mix,
    seed: int,
    weights: Mapping[str, float] | None = None,
    split: Split = "train",
    conversations: float = 0.0,
    drawn: Callable[[int, Generator], tuple[NDArray[np.int64], Take, Truth]] | None = None,
) -> Batch:
    """`mix.batch` clips with seeds from `seed` on. weights: of the kinds asked, the world's own.
    conversations: share of questions at the end of a long one. drawn: a clip of so many frames that
    is in a pool, their numbers and truth; none is filmed then."""
    rows, pixels, truths, kinds, shown = [], [], list[Truth](), [], list[NDArray[np.int64]]()
    before: Take | None = None
    for index in range(mix.batch):
        rng = np.random.default_rng((seed + index, 2))
        if drawn is None:
            take = world.film(seed + index, mix.frames, rng, split)
            truth = take.truth(model.config.grid)
        else:
            frames, take, truth = drawn(mix.frames, rng)
            shown.append(frames)
        asked = weights or world.kinds
        branches = draw_branches(model, take, asked, mix.text_size, rng, conversations, before)
        before = take
        offset = int(rng.integers(model.spec.position_horizon - 128))
        rows.append(pack(model, mix.frames, branches, offset, mix.text_size))
        kinds.append(tuple(branch.kind for branch in branches))
        pixels.append(take.pixels)
        truths.append(truth)
    return Batch(
        pixels=torch.from_numpy(np.stack(pixels)),
        tokens=torch.from_numpy(np.stack([row.tokens for row in rows])),
        targets=torch.from_numpy(np.stack([row.targets for row in rows])),
        positions=torch.from_numpy(np.stack([row.positions for row in rows])),
        frames=torch.from_numpy(np.stack([row.frames for row in rows])),
        branches=torch.from_numpy(np.stack([row.branches for row in rows])),
        labels=torch.from_numpy(np.stack([truth.labels for truth in truths])),
        measures=torch.from_numpy(np.stack([truth.measures for truth in truths])),
        calm=torch.from_numpy(np.stack([truth.calm for truth in truths])),
        refers=torch.from_numpy(np.stack([row.refers for row in rows])),
        kinds=tuple(kinds),
        shown=torch.from_numpy(np.stack(shown)) if shown else None,
    )


def make_pictures(world: World, grid: int, count: int, seed: int) -> Pictures:
    """`count` frames, a few far apart from each clip."""
    pixels: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    measures: list[NDArray[np.float32]] = []
    while len(pixels) < count:
        rng = np.random.default_rng((seed + len(pixels), 3))
        frames, truth = world.pictures(seed + len(pixels), rng, grid)
        pixels.extend(frames)
        labels.extend(truth.labels)
        measures.extend(truth.measures)
    return Pictures(
        torch.from_numpy(np.stack(pixels)),
        torch.from_numpy(np.stack(labels)),
        torch.from_numpy(np.stack(measures)),
    )
