"""A scene before it is filmed: actors with their paths over time, and what is planned to happen."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.world.atlas import atlas
from training.world.catalogue import (
    ACTS,
    PAINTS,
    TINTS,
    Item,
    Split,
    in_groups,
    is_held_out,
    items,
)
from training.world.clip import Kind, Thing
from training.world.patches import STAGES, Look, aspect

CHANNELS = ("x", "y", "size", "angle", "drawn")
_NEAR_IN_COLOUR = 60.0


class Actor:
    """A thing and its life: knots of every channel, when it is shown, and what it does when."""

    def __init__(self, thing: Thing, x: float, y: float, size: float, layer: float = 0.0) -> None:
        self.thing = thing
        self.layer = layer
        self.shown: list[list[float]] = []
        self.acts: list[tuple[float, float, str]] = []
        self.busy_until = -1e9
        self.held_by: Actor | None = None
        self.held_since = 0.0
        self.rest = (x, y, size)
        start = {"x": x, "y": y, "size": size, "angle": 0.0, "drawn": 1.0}
        self._knots = {name: ([-1e9], [value]) for name, value in start.items()}

    def at(self, channel: str, time: float) -> float:
        return float(np.interp(time, *self._knots[channel]))

    def go(self, channel: str, start: float, end: float, value: float) -> None:
        """Change a value from what it is at `start`, not before the last end, evenly to `value` at
        `end`."""
        times, values = self._knots[channel]
        start = max(start, times[-1])
        times += [start, max(end, start + 1e-4)]
        values += [values[-1], value]

    def jump(self, channel: str, time: float, value: float) -> None:
        self.go(channel, time, time, value)

    def show(self, time: float) -> None:
        self.shown.append([time, 1e9])

    def hide(self, time: float) -> None:
        if self.shown:
            self.shown[-1][1] = time

    def belongs_to(self, other: "Actor") -> None:
        self.thing = replace(self.thing, of=other.thing.ident)

    @property
    def is_on(self) -> bool:
        """Whether it is shown at the end of what is planned so far."""
        return bool(self.shown) and self.shown[-1][1] >= 1e9

    def sample(self, times: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Every channel at these times, and "shown" as 0 or 1."""
        found = {name: np.interp(times, *knots) for name, knots in self._knots.items()}
        shown = np.zeros(len(times), bool)
        for on, off in self.shown:
            shown |= (times >= on) & (times < off)
        return {**found, "shown": shown.astype(np.float64)}

    def doing(self, times: NDArray[np.float64]) -> NDArray[np.int8]:
        """Index in ACTS at these times. The step that led to a moment tells what is done there."""
        found = np.zeros(len(times), np.int8)
        for start, end, act in self.acts:
            found[(times > start) & (times <= end + 1e-6)] = ACTS.index(act)
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan of what shall happen from `start` to `end` seconds; kinds and `how` as in
    `clip.Event`."""

    kind: str
    start: float
    end: float
    things: tuple[int, ...]
    how: str = ""


@dataclass(slots=True)
class Script:
    """All that a film needs. holds: (start, end, thing) of what a hand holds up."""

    actors: list[Actor] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    holds: list[tuple[float, float, int]] = field(default_factory=list)


@lru_cache(maxsize=512)
def mean_colour(item: int) -> tuple[float, float, float]:
    sprite = atlas().sprites[item].astype(np.float32)
    weights = sprite[..., 3:]
    red, green, blue = (sprite[..., :3] * weights).sum(axis=(0, 1)) / weights.sum()
    return float(red), float(green), float(blue)


class Stage:
    """Stage on which a director puts actors: draws who they are and keeps the split.

    ground: mean colour of the background. Nobody is cast who can hardly be told from it.
    """

    def __init__(self, rng: Generator, ground: tuple[float, float, float], split: Split) -> None:
        self.rng = rng
        self.ground = np.array(ground)
        self.split = split
        self.script = Script()
        self.tints: tuple[str, ...] = TINTS
        hands = [index for index, item in enumerate(items()) if item.group == "hand"]
        self.skin = hands[int(rng.integers(len(hands)))]  # of every hand in this clip

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def one(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def allows(self, noun: str, *acts: str) -> bool:
        """Whether this split may show it: training never shows what is held out."""
        return self.split != "train" or not any(is_held_out(noun, act) for act in acts)

    def stands_out(self, colour: Sequence[float]) -> bool:
        return float(np.abs(np.array(colour) - self.ground).sum()) > _NEAR_IN_COLOUR * 1.7

    def paint(self, *others: str, of: Sequence[str] = tuple(PAINTS)) -> str:
        """A paint that stands out from the ground and is none of `others`."""
        fit = [p for p in of if self.stands_out(PAINTS[p]) and p not in others]
        return self.one(fit or [p for p in of if p not in others])

    def cast(self, groups: tuple[str, ...], *acts: str) -> tuple[Item, str] | None:
        """Someone new in this clip who may do `acts`, and the colour; None when nobody is found."""
        taken = {(a.thing.noun, a.thing.colour) for a in self.script.actors}
        plain = {a.thing.noun for a in self.script.actors if not a.thing.colour}
        options = self.offered(groups)
        wants_held_out = self.split == "held_out" and bool(acts) and self.chance(0.7)
        for _ in range(40):
            item = options[int(self.rng.integers(len(options)))]
            colour = self.paint(of=self.tints) if item.tintable else ""
            if item.noun in plain or (item.noun, colour) in taken:
                continue
            shown = PAINTS[colour] if colour else mean_colour(items().index(item))
            if not self.stands_out(shown) or not self.allows(item.noun, *acts):
                continue
            if wants_held_out and not any(is_held_out(item.noun, act) for act in acts):
                continue
            return item, colour
        return None

    def hand_look(self) -> Look:
        """Look of a hand that comes into this clip."""
        return Look(self.skin, mirrored=self.chance(0.5))

    def offered(self, groups: tuple[str, ...]) -> Sequence[Item]:
        """Items that can be cast at all."""
        return in_groups(*groups)

    def add(
        self, kind: Kind, noun: str, look: Look, x: float, y: float, size: float, layer: float = 0.0
    ) -> Actor:
        """A new actor, not shown yet. Its colour is the paint of its look."""
        colour = look.ink if kind == "drawing" else look.paint
        group = items()[look.item].group if look.item >= 0 else ""
        group = "product" if look.photo >= 0 or look.whole >= 0 else group
        thing = Thing(len(self.script.actors), kind, noun, look, colour, look.text, group)
        actor = Actor(thing, x, y, size, layer)
        self.script.actors.append(actor)
        return actor

    def add_item(
        self, item: Item, colour: str, x: float, y: float, size: float, layer: float = 0.0
    ) -> Actor:
        look = Look(items().index(item), colour, mirrored=bool(item.code) and self.chance(0.4))
        actor = self.add("object", item.noun, look, x, y, size, layer)
        if item.noun != "square" and self.chance(0.5):
            actor.jump("angle", -1e8, self.between(-18, 18))
        return actor

    def add_sign(self, text: str, x: float, y: float, width: float, layer: float = 5.0) -> Actor:
        paper = self.paint()
        ink = "black" if sum(PAINTS[paper]) > 420 else "white"
        look = Look(paint=paper, text=text, ink=ink, face=int(self.rng.integers(2)))
        return self.add("sign", "sign", look, x, y, min(width, 17 * aspect(look)), layer)

    def draw(self, actor: Actor, start: float, end: float, share: float = 0.5 / STAGES) -> None:
        """Stroke by stroke from nothing, or from a share of it that is there."""
        actor.jump("drawn", start - 0.01, share)
        actor.show(start)
        actor.go("drawn", start, end, 1.0)
        actor.acts.append((start, end, "draw"))

    def plan(self, kind: str, start: float, end: float, *actors: Actor, how: str = "") -> None:
        things = tuple(actor.thing.ident for actor in actors)
        self.script.plans.append(Plan(kind, start, end, things, how))
