"""Cases from the generated worlds: clips, combinations and seeds that no training has seen."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from numpy.random import Generator

from services.gateway.frames.display import Display
from services.gateway.frames.frame_size import FrameSize
from training import watches
from training.examination.cases import Case, Class, Event, Item, Standing
from training.questions import KINDS, ask, small_talk
from training.recipe import EVALUATION_SEEDS, load_recipe
from training.recordings import Footage
from training.rendering import Pixels, render
from training.world import asking, forward, shapes, wide
from training.world.clip import Clip
from training.world.forward import Make, Watch, expected
from training.world.question import Question
from training.world.shop import Trade
from training.worlds import after, draw_pace

SCENES: dict[str, tuple[wide.World, ...]] = {
    "street": ("street",),
    "shop": ("shop",),
    "wide": ("street", "shop"),
    "goods": ("goods", "goods", "photographs"),
    "sketch": ("sketch",),
}
WORLDS = ("shapes", *SCENES)
FRAMES_PER_SECOND = 8.0
IN_TIME_S = 0.5  # how much later than its event a watch may speak
# Watches count by their times; whether one holds now is told beside them.
UNCOUNTED = ("watch", "absent", "unknown")
OF_SHAPES: dict[str, Class] = {"change": "backward", "followup": "backward"}  # else real time
TEMPORAL = ("direction", "moving", "speed", "change")
DESCRIPTIONS = ("scene", "story")
_LENGTHS = (6, 12, 20, 30, 40, 60)
_WIDE_LENGTHS = (16, 24, 32, 44, 60)
_MOMENTS = 3  # of a clip
_WIDE_MOMENTS = 4
_MORE_FOLLOWUPS = 3  # of a moment: too few are possible everywhere for a figure to stand on
_TALK = 0.3  # share of the wide world's questions with earlier rounds that do not matter
_WATCHES = 3  # of a clip, at most
_KINDS, _TRIES = 2, 12  # for each of them, until one has something to wait for
_HAPPENS = 0.75  # share of watches whose condition comes true


@dataclass(frozen=True, slots=True)
class Scope:
    """Scope of the examination in a world: `trade` narrows its shop, `kinds` its questions; () are
    all."""

    name: str = "shapes"
    world: str = "shapes"
    trade: Trade | None = None
    kinds: tuple[str, ...] = ()

    @classmethod
    def of(cls, world: str) -> Self:
        return cls(world, world)

    @classmethod
    def of_recipe(cls, name: str) -> Self:
        """Scope that a model trained by it can know. Raises RecipeError."""
        recipe = load_recipe(name)
        return cls(Path(name).stem, recipe.world, recipe.trade, tuple(recipe.kinds))

    def asks(self, kind: str) -> bool:
        return not self.kinds or kind in self.kinds


SHAPES = Scope()


def cases(scope: Scope, num_clips: int, size: FrameSize) -> Iterator[Case]:
    """The first clips of a world's examination, in the size that the model takes."""
    # Painted at least as large as the model wants them: nothing is gained by enlarging.
    scale = max(1, math.ceil(max(size.width, size.height) / shapes.SIZE))
    for index in range(num_clips):
        seed = EVALUATION_SEEDS + index
        make = _shapes if scope.world == "shapes" else _wide
        pixels, items, standings = make(scope, seed, index, scale)
        times_s = np.arange(len(pixels)) / FRAMES_PER_SECOND
        footage = Footage(fitted(pixels, size), times_s)
        yield Case(f"{scope.name} {seed}", footage, tuple(items), tuple(standings))


def fitted(pixels: Pixels, size: FrameSize) -> Pixels:
    """Frames [n, height, width, 3] in the model's size, resized as the gateway does."""
    height, width = pixels.shape[1:3]
    columns, rows = size.fit(width, height)
    if (columns, rows) == (width, height):
        return pixels
    display = Display()
    frames = (av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in pixels)
    raw = b"".join(display.rgb(frame, columns, rows) for frame in frames)
    return np.frombuffer(raw, np.uint8).reshape(len(pixels), rows, columns, 3)


Made = tuple[Pixels, list[Item], list[Standing]]


def _shapes(scope: Scope, seed: int, index: int, scale: int) -> Made:
    rng = np.random.default_rng((seed, 4))
    clip = shapes.film(seed, _LENGTHS[index % len(_LENGTHS)], draw_pace(rng))
    items = [
        _item(frame, OF_SHAPES.get(question.kind, "realtime"), question)
        for frame, questions in questions_of(clip, rng)
        for question in questions
        if scope.asks(question.kind)
    ]
    return render(clip, scale), items, _standings(clip, watches.CONDITIONS, seed)


def _wide(scope: Scope, seed: int, index: int, scale: int) -> Made:
    scenes = SCENES[scope.world]
    scene = scenes[index % len(scenes)]
    length = _WIDE_LENGTHS[index % len(_WIDE_LENGTHS)]
    clip = wide.film(seed, length, scene, "held_out", scale=scale, trade=scope.trade)
    rng = np.random.default_rng((seed, 4))
    kinds = [kind for kind in asking.ALL_KINDS if scope.asks(kind)]
    items: list[Item] = []
    moments = _moments(length, _WIDE_MOMENTS, rng)
    for frame in moments:
        for kind in kinds:
            question = asking.ask(clip, frame, kind, rng)
            if question is None:
                continue
            if not question.is_watch and rng.random() < _TALK:
                question = after(asking.small_talk(clip, frame, kinds, rng), question)
            items.append(_item(frame, asking.ALL_KINDS[kind].of, question))
    if "followup" in kinds:
        items += _more_followups(clip, moments, kinds, np.random.default_rng((seed, 8)))
    return clip.pixels, items, _standings(clip, forward.CONDITIONS, seed)


def _more_followups(
    clip: Clip, moments: list[int], kinds: list[str], rng: Generator
) -> Iterator[Item]:
    """Counted to their kind, and to no class: there every kind weighs as it did."""
    for frame in np.repeat(moments, _MORE_FOLLOWUPS).tolist():
        question = asking.ask(clip, frame, "followup", rng)
        if question is None:
            continue
        if rng.random() < _TALK:
            question = after(asking.small_talk(clip, frame, kinds, rng), question)
        yield _item(frame, "other", question)


def _moments(length: int, number: int, rng: Generator) -> list[int]:
    """A few frames, the last among them."""
    moments = {length - 1}
    while len(moments) < min(number, length):
        moments.add(int(rng.integers(length)))
    return sorted(moments)


def questions_of(clip: shapes.Clip, rng: Generator) -> Iterator[tuple[int, list[Question]]]:
    """A few moments of a clip of shapes, with a question of every kind each."""
    for frame in _moments(len(clip), _MOMENTS, rng):
        found: list[Question] = []
        for kind in KINDS:
            question = ask(clip, frame, kind, rng)
            if question is None:
                continue
            if not question.is_watch and (question.history or kind != "followup"):
                history = (small_talk(clip, frame, rng) + question.history)[-10:]
                question = Question(question.kind, question.text, question.answer, history)
            found.append(question)
        yield frame, found


def _item(frame: int, of: Class, question: Question) -> Item:
    return Item(
        at_s=frame / FRAMES_PER_SECOND,
        of="other" if question.kind in UNCOUNTED else of,
        question=question,
        temporal=question.kind in TEMPORAL or (of == "backward" and question.kind != "followup"),
        by_facts=question.kind in DESCRIPTIONS,
    )


def _standings(clip: Any, conditions: dict[str, tuple[Make, float]], seed: int) -> list[Standing]:
    """Watches of kinds drawn by weight; fewer where the clip has nothing for them."""
    rng = np.random.default_rng((seed, 5))
    weights = np.array([weight for _, weight in conditions.values()])
    found: list[Standing] = []
    for _ in range(_WATCHES):
        happens = bool(rng.random() < _HAPPENS)
        kinds = rng.choice(list(conditions), _KINDS, replace=False, p=weights / weights.sum())
        watches = (_watch(clip, str(kind), conditions[kind][0], happens, rng) for kind in kinds)
        watch = next((watch for watch in watches if watch is not None), None)
        if watch is not None:
            found.append(_standing(watch, len(clip)))
    return found


def _watch(clip: Any, kind: str, make: Make, happens: bool, rng: Generator) -> Watch | None:
    """Set in the first two thirds of a clip, for something that then happens or never does."""
    for _ in range(_TRIES):
        asked = int(rng.integers(-(-2 * len(clip) // 3)))
        condition = make(clip, asked, rng)
        watch = expected(replace(condition, kind=kind), clip, asked) if condition else None
        if watch is not None and (watch.when is not None) is happens:
            return watch
    return None


def _standing(watch: Watch, length: int) -> Standing:
    """A watch that is judged until a little after the first event: what comes later is not
    known."""
    end_s = (length - 1) / FRAMES_PER_SECOND
    events: tuple[Event, ...] = ()
    if watch.when is not None and watch.earliest is not None:
        at_s = watch.when / FRAMES_PER_SECOND
        events = (Event(watch.earliest / FRAMES_PER_SECOND, at_s),)
        end_s = min(end_s, at_s + IN_TIME_S)
    return Standing(
        kind=f"when {watch.kind}",
        condition=watch.text,
        asked_s=watch.asked / FRAMES_PER_SECOND,
        until_s=end_s,
        events=events,
    )
