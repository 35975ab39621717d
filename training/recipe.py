"""Everything a training run depends on, in one frozen place: a TOML file in `recipes`."""

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from training.world.shop import Trade

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "training"
RECIPES = Path(__file__).with_name("recipes")
WEIGHTS = Path(__file__).with_name("weights")  # of models that recipes begin with
TRAIN_SEEDS = 1 << 40
HELD_OUT_SEEDS = 1 << 20
EVALUATION_SEEDS = 1 << 10


class RecipeError(ValueError):
    """A recipe that cannot be read; says which name is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A shape of batch: `batch` clips of `frames` frames with `text_size` branch tokens each."""

    frames: int
    batch: int
    text_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`steps` optimiser steps over batches drawn from `mixes` in turn.

    learns: from the "trunk"'s truth alone, through the decoder's early layers, from "answers", or
    by "preference" among them. kinds: of the questions asked, with weights; empty: the recipe's.
    conversations: share of the questions that come at the end of a long conversation.
    references: weight of reading, early, what "it" stands for.
    pairs: a JSONL of people's preferences, "" for the model's own mistakes on generated clips.
    beta, anchor: as in `preference.judge`.
    """

    name: str
    steps: int
    mixes: tuple[Mix, ...]
    learning_rate: float
    final_learning_rate: float
    warmup_steps: int = 50
    learns: Literal["trunk", "answers", "preference"] = "answers"
    kinds: dict[str, float] = field(default_factory=dict)
    conversations: float = 0.0
    references: float = 0.0
    pairs: str = ""
    beta: float = 0.1
    anchor: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """Teaching of a smaller model by a larger one of the same words. folder: the teacher's.
    answers, hidden: weights of the losses in `distillation`. temperature: of the answers."""

    folder: str
    answers: float = 1.0
    hidden: float = 0.1
    temperature: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Size of a model made from nothing; the default is the shipped one's."""

    hidden_size: int = 256
    num_layers: int = 5
    num_heads: int = 4
    mlp_size: int = 768
    stem_channels: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A run. Sizes in clips, frames and tokens, rates per optimiser step.

    world: as in `worlds.find_world`; trade narrows its shop, talk is the share of its questions
    with earlier rounds. kinds: of questions, with weights; empty: the world's own. start: "" is a
    model of `size` from nothing, else "builtin" or a model's folder. tower: another encoder than
    that one's, for frames of `frame_size` pixels a side. trunk_steps: in which its trunk is tuned
    before it is frozen (`trunk`), its whole encoder where there are no picture_steps.
    familiar_clips: of its world, by which the model will know what is unfamiliar.
    consistency_weight: of the temporal consistency loss.
    picture_pool, still_pool, clip_pool: stories, sixes of photographs and clips of each length that
    are made once (`pools`) for a tower whose trunk learns nothing; 0: new ones in every step, from
    which all of it learns.
    """

    seed: int = 1
    world: str = "shapes"
    trade: Trade = field(default_factory=Trade)
    talk: float = 0.3
    kinds: dict[str, float] = field(default_factory=dict)
    start: str = ""
    size: Size = field(default_factory=Size)
    tower: Literal["", "strided", "lite0"] = ""
    frame_size: int = 128
    trunk_steps: int = 0
    teacher: Teaching | None = None
    picture_steps: int = 0
    picture_batch: int = 192
    picture_learning_rate: float = 2e-3
    picture_pool: int = 0
    still_pool: int = 0
    clip_pool: int = 0
    stages: tuple[Stage, ...] = ()
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    omega_scale: float = 0.3
    head_scale: float = 0.5
    trunk_weight: float = 0.5
    consistency_weight: float = 0.0
    trunk_layer: int = 2
    ema_decay: float = 0.995
    familiar_clips: int = 1200
    held_out: tuple[Mix, ...] = ()
    check_every: int = 250
    save_every: int = 100

    @property
    def total_steps(self) -> int:
        return self.picture_steps + sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage | None, int]:
        """The stage of an optimiser step, None for pictures, and the step's number within it."""
        if step < self.picture_steps:
            return None, step
        step -= self.picture_steps
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise ValueError("past the end of the recipe")


def weights_of(name: str) -> str:
    """Weights as a worker names them: the folder of one of training/weights, else the
    name as it is."""
    folder = WEIGHTS / name
    return str(folder) if name and (folder / "config.json").exists() else name


def load_recipe(name: str) -> Recipe:
    """A recipe of ours by name, or a TOML file by path. Raises RecipeError."""
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        ours = ", ".join(sorted(found.stem for found in RECIPES.glob("*.toml")))
        raise RecipeError(f"no recipe {name!r}; ours are {ours}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: {error}") from error
    recipe: Recipe = _read(Recipe, table, path.name)
    if not recipe.total_steps:
        raise RecipeError(f"{path.name}: neither picture_steps nor stages")
    return recipe


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` of a TOML file as `kind`, all names known and all types right."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: a table is wanted, not {value!r}")
        hints = typing.get_type_hints(kind)
        for name in value:
            if name not in hints:
                raise RecipeError(f"{where}: unknown name {name!r}")
        read = {name: _read(hints[name], v, f"{where}: {name}") for name, v in value.items()}
        try:
            return kind(**read)  # type: ignore[operator]
        except TypeError as error:
            raise RecipeError(f"{where}: {error}") from error
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            return tuple(_read(arguments[0], v, f"{where}[{n}]") for n, v in enumerate(value))
        if len(arguments) == len(value):
            return tuple(_read(a, v, where) for a, v in zip(arguments, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {name: _read(arguments[1], v, f"{where}.{name}") for name, v in value.items()}
    if origin in (typing.Union, types.UnionType):
        wanted = [argument for argument in arguments if argument is not type(None)]
        return _read(wanted[0], value, where)
    if origin is Literal and value in arguments:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and origin is None and type(value) is kind:
        return value
    raise RecipeError(f"{where}: {value!r} is not {kind}")
