"""The director of a shop of real goods: photographs' cut-outs beside what is drawn, before
photographs or before nothing."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from training.world.camera import Backdrop
from training.world.catalogue import Item
from training.world.goods import REAL_NOUNS, goods
from training.world.patches import Look
from training.world.shop import Shop
from training.world.stage import Actor, Script, Split, Stage

REAL_GROUP = "real"
REAL = 0.75  # share of products that are real
_PHOTOGRAPHED = 0.5  # share of the grounds


class RealShop(Shop):
    """Casts real goods as products. Of what a split may not see no cut-out is taken; nothing else
    of them is held out."""

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
        cuts = goods().cut[item.noun, self.split]
        photo = cuts[int(self.rng.integers(len(cuts)))]
        look = Look(photo=photo, mirrored=self.chance(0.4))
        actor = self.add("object", item.noun, look, x, y, 1.2 * size, layer)
        actor.jump("angle", -1e8, self.between(-25, 25))
        return actor


class Photographs(Stage):
    """Shows one photograph after another, each filling the picture, nearer or farther, at rest or
    with a camera that pans; now and then nothing between them."""

    def __init__(
        self, rng: Generator, ground: tuple[float, float, float], split: Split, seconds: float
    ) -> None:
        super().__init__(rng, ground, split)
        self.seconds = seconds

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
