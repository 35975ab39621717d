"""The worlds that a recipe can train on, behind one face: filmed clips that ask and tell the truth.

Everything a world makes follows from the seeds it is given.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training import questions, truth
from training.rendering import Pixels, Scene, render
from training.resizing import resized
from training.withheld import Pairs
from training.world import asking, cells, conversation, shapes, wide
from training.world.catalogue import Split, is_held_out, plural
from training.world.clip import Clip
from training.world.goods import REAL_NOUNS
from training.world.question import Question, pick
from training.world.realtime import priced
from training.world.shop import Trade

IGNORE = cells.IGNORE
_PICTURE_MOMENTS = (0, 9, 18)
_PICTURES_PER_STORY = 6
_PICTURES: tuple[wide.World, ...] = ("photographs", "laid", "laid", "laid")
_NEAR_FRAMES = 6
_SHRUNK_ONE_IN = 4


@dataclass(frozen=True, slots=True)
class Truth:
    """Truth about every cell of every frame. labels: [frames, cells, channels] int64, IGNORE where
    one does not apply. measures: [frames, cells, 4] float32 in cells, NaN where unknown: offset
    from the cell's middle, and the way come of late. calm: [frames] bool: nothing happens there.
    """

    labels: NDArray[np.int64]
    measures: NDArray[np.float32]
    calm: NDArray[np.bool_]
    drawn: bool = False  # all of it, the background too, as a model of drawn things knows it

    def of(self, moments: list[int]) -> "Truth":
        return Truth(self.labels[moments], self.measures[moments], self.calm[moments])


class Take(Protocol):
    """A filmed clip."""

    pixels: Pixels

    def ask(self, weights: Mapping[str, float], rng: Generator) -> tuple[int, Question] | None:
        """A moment and a question after it, of a kind drawn by weight; None where that fails."""
        ...

    @property
    def num_moments(self) -> int: ...

    def ask_at(self, frame: int, kind: str, rng: Generator) -> Question | None:
        """A question of this kind after this frame, None where there is nothing sure to ask."""
        ...

    def truth(self, grid: int) -> Truth: ...


class World(Protocol):
    """World that clips come from. channels: of truth's labels, with their numbers of classes.
    picture_channels: those that a single picture shows. kinds: of questions, with weights. words:
    those that the vocabulary of the shapes lacks. withheld: words that training never says
    together."""

    @property
    def channels(self) -> Mapping[str, int]: ...
    @property
    def picture_channels(self) -> tuple[str, ...]: ...
    @property
    def kinds(self) -> Mapping[str, float]: ...
    @property
    def words(self) -> tuple[str, ...]: ...
    @property
    def withheld(self) -> Pairs: ...

    def film(self, seed: int, frames: int, rng: Generator, split: Split = "train") -> Take: ...

    def pictures(self, seed: int, rng: Generator, grid: int) -> tuple[Pixels, Truth]:
        """A few pictures of one story, far apart."""
        ...


# Coloured shapes


def draw_pace(rng: Generator) -> shapes.Pace:
    """Worlds differ in how much happens."""
    slow = float(rng.uniform(1.5, 3.0))
    return shapes.Pace(
        change_rate=float(rng.choice([0.03, 0.08, 0.16])),
        move_share=float(rng.choice([0.5, 0.8, 0.95])),
        speed=(slow, slow + float(rng.uniform(1.0, 4.5))),
    )


def _draw_kind(weights: Mapping[str, float], rng: Generator) -> str:
    shares = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(shares), p=shares / shares.sum()))]


def _draw_moment(length: int, rng: Generator) -> int:
    """Later ones are a little likelier: they have a past."""
    return int(length * rng.random() ** 0.7)


class ShapesTake:
    def __init__(self, clip: shapes.Clip) -> None:
        self.clip = clip
        self.pixels = render(clip)

    def ask(self, weights: Mapping[str, float], rng: Generator) -> tuple[int, Question] | None:
        frame = _draw_moment(len(self.clip), rng)
        question = questions.ask(self.clip, frame, _draw_kind(weights, rng), rng)
        if question is None or question.is_watch:
            return None if question is None else (frame, question)
        talk = questions.small_talk(self.clip, frame, rng)
        if talk and (question.kind != "followup" or question.history):
            question = after(talk, question)
        return frame, question

    @property
    def num_moments(self) -> int:
        return len(self.clip)

    def ask_at(self, frame: int, kind: str, rng: Generator) -> Question | None:
        return questions.ask(self.clip, frame, kind, rng)

    def truth(self, grid: int) -> Truth:
        labels, measures = truth.cell_truth(self.clip, grid)
        calm = np.ones(len(self.clip), bool)
        for change in self.clip.changes:
            calm[max(change.frame - 1, 0) : change.frame + 2] = False
        calm &= [self.clip.settled(frame) for frame in range(len(self.clip))]
        return Truth(labels, measures, calm)


def after(talk: tuple[tuple[str, str], ...], question: Question) -> Question:
    """The question with earlier rounds before its own."""
    history = (talk + question.history)[-conversation.ROUNDS :]
    return replace(question, history=history)


def at_length(
    take: Take,
    frame: int,
    question: Question,
    weights: Mapping[str, float],
    elsewhere: Take | None,
    rng: Generator,
) -> Question:
    """The question at the end of a long conversation; a watch has none, and an "it" that nothing
    was said about stands for the one thing there is. elsewhere: a clip that was talked of before.
    """
    if question.is_watch or (question.kind == "followup" and not question.history):
        return question
    talk = conversation.long_talk(take, frame, question, list(weights), elsewhere, rng)
    return after(talk, question)


class ShapesWorld:
    channels: Mapping[str, int] = truth.CHANNELS
    picture_channels = truth.PICTURE_CHANNELS
    kinds: Mapping[str, float] = {name: weight for name, (_, weight) in questions.KINDS.items()}
    words: tuple[str, ...] = ()
    withheld: Pairs = ()

    def film(self, seed: int, frames: int, rng: Generator, split: Split = "train") -> Take:
        return ShapesTake(shapes.film(seed, frames, draw_pace(rng)))

    def pictures(self, seed: int, rng: Generator, grid: int) -> tuple[Pixels, Truth]:
        clip = shapes.film(seed, _PICTURE_MOMENTS[-1] + 1, draw_pace(rng))
        scene = Scene(clip.seed)
        labels, measures = truth.cell_truth(clip, grid)
        frames = np.empty((len(_PICTURE_MOMENTS), scene.side, scene.side, 3), np.uint8)
        for out, moment in zip(frames, _PICTURE_MOMENTS, strict=True):
            scene.draw(clip.frames[moment], out)
        scene.weather(frames)
        calm = np.ones(len(clip), bool)
        return frames, Truth(labels, measures, calm).of(list(_PICTURE_MOMENTS))


# The wide world


class WideTake:
    """tries: how many moments are looked at until one has something to ask of the kind drawn, so
    that rare kinds are asked as often as common ones wherever a clip has them at all. withheld:
    prices and nouns that no question denies of each other."""

    def __init__(self, clip: Clip, talk: float, withheld: Pairs = (), tries: int = 8) -> None:
        self.clip = clip
        self.pixels = clip.pixels
        self.talk = talk
        self.withheld = withheld
        self.tries = tries

    def ask(self, weights: Mapping[str, float], rng: Generator) -> tuple[int, Question] | None:
        kind = _draw_kind(weights, rng)
        for _ in range(self.tries):
            frame = self._moment(kind, rng)
            question = asking.ask(self.clip, frame, kind, rng)
            if question is not None and not self._denies_withheld(frame, question):
                return frame, self._after_talk(frame, question, weights, rng)
        return None

    @property
    def num_moments(self) -> int:
        return len(self.clip)

    def ask_at(self, frame: int, kind: str, rng: Generator) -> Question | None:
        return asking.ask(self.clip, frame, kind, rng)

    def _denies_withheld(self, frame: int, question: Question) -> bool:
        """A watch for a price: it need not name the thing that shows another one."""
        if not question.is_watch or question.answer != "no" or not self.withheld:
            return False
        shown = priced(self.clip, frame)
        words = question.text.split()
        return shown is not None and any((w, shown[0].noun) in self.withheld for w in words)

    def _moment(self, kind: str, rng: Generator) -> int:
        """A moment to ask at: of watches every other one is near something that happens: there they
        can be wrong."""
        if kind != "watch" or not self.clip.events or rng.random() < 0.5:
            return _draw_moment(len(self.clip), rng)
        near: int = pick(rng, self.clip.events).frame + int(
            rng.integers(-_NEAR_FRAMES, _NEAR_FRAMES)
        )
        return min(max(near, 0), len(self.clip) - 1)

    def _after_talk(
        self, frame: int, question: Question, weights: Mapping[str, float], rng: Generator
    ) -> Question:
        if question.is_watch or rng.random() >= self.talk:
            return question
        return after(asking.small_talk(self.clip, frame, list(weights), rng), question)

    def truth(self, grid: int) -> Truth:
        return Truth(
            cells.cell_truth(self.clip, grid),
            cells.cell_measures(self.clip, grid),
            cells.is_calm(self.clip),
        )


@dataclass(frozen=True)
class WideWorld:
    """Street and shop, or one of them. trade: what the shop deals in. talk: share of questions
    with earlier rounds that do not matter."""

    scenes: tuple[wide.World, ...] = ("street", "shop")
    trade: Trade = field(default_factory=Trade)
    talk: float = 0.3
    channels: Mapping[str, int] = field(default_factory=cells.channels)
    picture_channels: tuple[str, ...] = cells.PICTURE_CHANNELS
    kinds: Mapping[str, float] = field(
        default_factory=lambda: {name: kind.weight for name, kind in asking.ALL_KINDS.items()}
    )
    words: tuple[str, ...] = field(default_factory=lambda: tuple(asking.words()))

    @property
    def withheld(self) -> Pairs:
        """Nouns and prices of a narrow shop, whose motions no answer names."""
        return tuple(
            (str(price), noun)
            for noun in self.trade.nouns
            for price in self.trade.prices
            if is_held_out(noun, f"${price}")
        )

    def film(self, seed: int, frames: int, rng: Generator, split: Split = "train") -> Take:
        scene = pick(rng, self.scenes)
        clip = wide.film(seed, frames, scene, split, trade=self.trade)
        return WideTake(clip, self.talk, self.withheld if split == "train" else ())

    def pictures(self, seed: int, rng: Generator, grid: int) -> tuple[Pixels, Truth]:
        """A second apart: what moves is not told of by these."""
        scene, number = pick(rng, self.scenes), _PICTURES_PER_STORY
        clip = wide.film(seed, number, scene, fps=1.0, trade=self.trade)
        return clip.pixels, WideTake(clip, 0.0).truth(grid)


@dataclass(frozen=True)
class GoodsWorld(WideWorld):
    """A shop of real goods, the drawn shop, photographs of goods, and drawings that grow, in frames
    of `side` pixels."""

    scenes: tuple[wide.World, ...] = ("goods", "goods", "goods", "shop", "photographs", "sketch")
    side: int = 192
    words: tuple[str, ...] = field(
        default_factory=lambda: tuple(
            dict.fromkeys([*asking.words(), *REAL_NOUNS, *map(plural, REAL_NOUNS)])
        )
    )

    def film(self, seed: int, frames: int, rng: Generator, split: Split = "train") -> Take:
        return self.take(self._clip(seed, frames, pick(rng, self.scenes), split), split)

    def take(self, clip: Clip, split: Split = "train") -> WideTake:
        """A clip of this world, to be asked about."""
        return WideTake(clip, self.talk, self.withheld if split == "train" else ())

    def pictures(self, seed: int, rng: Generator, grid: int) -> tuple[Pixels, Truth]:
        scene = pick(rng, (*dict.fromkeys(self.scenes), *_PICTURES))
        pace = 0.5 if scene == "photographs" else 1.0  # another one each time, mostly
        clip = self._clip(seed, _PICTURES_PER_STORY, scene, "train", pace)
        truth = WideTake(clip, 0.0).truth(grid)
        return clip.pixels, replace(truth, drawn=scene == "shop")

    def _clip(
        self,
        seed: int,
        length: int,
        scene: wide.World,
        split: Split,
        fps: float = wide.FRAMES_PER_SECOND,
    ) -> Clip:
        """Painted in the model's size, one in four larger and shrunk as a gateway does."""
        exact = self.side / shapes.SIZE
        scale = exact if seed % _SHRUNK_ONE_IN else max(1, math.ceil(exact))
        clip = wide.film(seed, length, scene, split, fps=fps, scale=scale, trade=self.trade)
        return replace(clip, pixels=resized(clip.pixels, self.side, self.side))


def find_world(name: str, trade: Trade | None = None, talk: float = 0.3, side: int = 128) -> World:
    """side: of the frames, in pixels, where a world has several. Raises ValueError for a name that
    no world has."""
    if name == "goods":
        return GoodsWorld(trade=trade or Trade(), talk=talk, side=side)
    scenes: dict[str, tuple[wide.World, ...]] = {
        "street": ("street",),
        "shop": ("shop",),
        "wide": ("street", "shop"),
    }
    if name == "shapes":
        return ShapesWorld()
    if name not in scenes:
        raise ValueError(f"no world {name!r}: shapes, goods, {', '.join(scenes)}")
    return WideWorld(scenes[name], trade or Trade(), talk)
