"""The director of a shop of real goods: photographs' cut-outs beside what is drawn, in real hands
or drawn ones, before photographs or before nothing."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from training.world.camera import Backdrop
from training.world.catalogue import PAINTS, Item, Split
from training.world.goods import REAL_NOUNS, goods
from training.world.hand import grip, hand_size
from training.world.patches import Look
from training.world.shop import Shop, Trade
from training.world.stage import Actor, Script, Stage

REAL_GROUP = "real"
REAL = 0.75  # share of products that are real
_REAL_HANDS = 0.75  # share of the clips that have a real hand, where there are any
_NEARER = 1.5  # times a drawn thing's size: photographs tell less in few pixels
_PHOTOGRAPHED = 0.5  # share of the grounds


class RealShop(Shop):
    """Casts real goods as products. Of what a split may not see no cut-out is taken; nothing else
    of them is held out."""

    def __init__(
        self,
        rng: Generator,
        ground: tuple[float, float, float],
        split: Split,
        seconds: float,
        trade: Trade | None = None,
    ) -> None:
        super().__init__(rng, ground, split, seconds, trade)
        self.hand = _real_hand(self)

    def hand_look(self) -> Look:
        if self.hand is None:
            return super().hand_look()
        return replace(self.hand, mirrored=self.chance(0.5))

    def cast(self, groups: tuple[str, ...], *acts: str) -> tuple[Item, str] | None:
        if "product" not in groups or not self.chance(REAL):
            return super().cast(groups, *acts)
        noun = _another(self)
        return (Item(noun, "", REAL_GROUP), "") if noun else None

    def allows(self, noun: str, *acts: str) -> bool:
        return noun in REAL_NOUNS or super().allows(noun, *acts)

    def add_item(
        self, item: Item, colour: str, x: float, y: float, size: float, layer: float = 0.0
    ) -> Actor:
        if item.group != REAL_GROUP:
            return super().add_item(item, colour, x, y, size, layer)
        return _cut_out(self, item.noun, x, y, _NEARER * size, layer)


def _cut_out(stage: Stage, noun: str, x: float, y: float, size: float, layer: float) -> Actor:
    """A real thing in one of the looks that its split may see."""
    cuts = goods().cut[noun, stage.split]
    photo = cuts[int(stage.rng.integers(len(cuts)))]
    actor = stage.add(
        "object", noun, Look(photo=photo, mirrored=stage.chance(0.4)), x, y, size, layer
    )
    actor.jump("angle", -1e8, stage.between(-25, 25))
    return actor


def _real_hand(stage: Stage) -> Look | None:
    """A photographed hand that this split may see, bare or in a sleeve; now and then none."""
    found = goods().held_up.get("train" if stage.split == "train" else "held_out", [])
    if not found or not stage.chance(_REAL_HANDS):
        return None
    sleeve = stage.one(tuple(PAINTS)) if stage.chance(0.5) else ""
    return Look(hand=found[int(stage.rng.integers(len(found)))], ink=sleeve)


class _Showing(Stage):
    """Shows goods for so many seconds."""

    def __init__(
        self, rng: Generator, ground: tuple[float, float, float], split: Split, seconds: float
    ) -> None:
        super().__init__(rng, ground, split)
        self.seconds = seconds


class Laid(_Showing):
    """Shows other real goods every second: one of any size, often in a hand, or two or three
    smaller ones side by side. Nothing happens to them: these are for learning names."""

    def direct(self) -> Script:
        for second in range(-1, int(self.seconds) + 1):
            shown = self._alone() if self.chance(0.6) else self._beside()
            for actor in shown:
                actor.show(second + 0.5)
                actor.hide(second + 1.5)
        return self.script

    def _alone(self) -> list[Actor]:
        size = self.between(40, 128)
        x, y = (self.between(0.42 * size, 128 - 0.42 * size) for _ in range(2))
        noun = _another(self)
        if noun is None:
            return []
        actor = _cut_out(self, noun, x, y, size, layer=3)
        if not self.chance(0.5):
            return [actor]
        look = _real_hand(self) or self.hand_look()
        below = y + grip(size)
        return [actor, self.add("hand", "hand", look, x, below, hand_size(size), layer=4)]

    def _beside(self) -> list[Actor]:
        number = 2 if self.chance(0.6) else 3
        size, width = self.between(34, 1.1 * 128 / number), 128 / number
        shown = []
        for place in range(number):
            noun = _another(self)
            if noun is not None:
                x = width * (place + 0.5) + self.between(-6, 6)
                shown.append(_cut_out(self, noun, x, self.between(30, 98), size, layer=place))
        return shown


class Photographs(_Showing):
    """Shows one photograph after another, each filling the picture, nearer or farther, at rest or
    with a camera that pans; now and then nothing between them."""

    def direct(self) -> Script:
        time = -self.between(0, 1)
        while time < self.seconds:
            time = self._look(time)
        return self.script

    def _look(self, time: float) -> float:
        """Look at a photograph for a while; until when."""
        noun = _another(self, goods().whole)
        if noun is None:
            return time + self.seconds
        found = goods().whole[noun, self.split]
        look = Look(whole=found[int(self.rng.integers(len(found)))], mirrored=self.chance(0.4))
        size = self.between(128, 165)
        room = (size - 128) / 2
        actor = self.add("object", noun, look, *self._aside(room), size, layer=self.newest)
        if self.chance(0.2):
            actor.jump("angle", -1e8, self.between(-12, 12))
        end = time + self.between(0.9, 3.0)
        actor.show(time)
        self.plan("came", time, time, actor)
        if self.chance(0.4):
            x, y = self._aside(room)
            for channel, value in (("x", x), ("y", y)):
                actor.go(channel, time, end, value)
        actor.hide(end)
        self.plan("went", end, end, actor)
        return end + (self.between(0.4, 0.9) if self.chance(0.15) else 0.0)

    @property
    def newest(self) -> float:
        return float(len(self.script.actors))

    def _aside(self, room: float) -> tuple[float, float]:
        """Middle of a photograph that is larger than the picture by twice `room`. The thing stays
        in the middle place."""
        most = min(room, 10.0)
        return 64 + self.between(-most, most), 64 + self.between(-most, most)


def _another(stage: Stage, among: Mapping[tuple[str, str], list[int]] | None = None) -> str | None:
    """A real noun that is not in this script yet; None where there is none."""
    taken = {actor.thing.noun for actor in stage.script.actors}
    pictures = goods().cut if among is None else among
    fit = [n for n in REAL_NOUNS if n not in taken and (n, stage.split) in pictures]
    if not fit:
        return None
    shares = np.sqrt(
        [len(pictures[n, stage.split]) for n in fit]
    )  # what looks in more ways oftener
    return str(stage.rng.choice(fit, p=shares / shares.sum()))


def before_photograph(backdrop: Backdrop, rng: Generator) -> Backdrop:
    """The backdrop, or now and then a photograph in its place, with or without the table."""
    if rng.random() >= _PHOTOGRAPHED:
        return backdrop
    grounds = goods().grounds
    photo = int(rng.integers(len(grounds)))
    red, green, blue = (float(each) for each in grounds[photo].reshape(-1, 3).mean(0))
    table = backdrop.table if rng.random() < 0.5 else None
    return replace(backdrop, photo=photo, ground=(red, green, blue), table=table)
