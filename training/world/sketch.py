"""The director of a sheet on which things are drawn, large, stroke by stroke: what is on it is
named as soon as it can be known, and by another name when strokes make something else of it."""

from dataclasses import replace

from numpy.random import Generator

from training.world.camera import Backdrop
from training.world.catalogue import Split
from training.world.drawings import BEGINNINGS, SKETCHES, share_of
from training.world.patches import STAGES, Look
from training.world.stage import Actor, Script, Stage

_PENS = ("black", "black", "black", "blue", "red", "green", "purple", "brown")
_TWO = 0.3  # share of the sheets that hold two drawings


class Sketch(Stage):
    """Draws one thing or two on a sheet, keeps them for a while and takes a new sheet."""

    def __init__(
        self, rng: Generator, ground: tuple[float, float, float], split: Split, seconds: float
    ) -> None:
        super().__init__(rng, ground, split)
        self.seconds = seconds
        self.pen = self.one(_PENS)

    def direct(self) -> Script:
        time = -self.between(0, 2.5)
        while time < self.seconds:
            time = self._sheet(time)
        return self.script

    def _sheet(self, time: float) -> float:
        """Draw on a new sheet; until when it is there."""
        places = [(64.0, 64.0)]
        size = self.between(72, 108)
        if self.chance(_TWO):
            places = [(36.0, self.between(50, 78)), (92.0, self.between(50, 78))]
            size = self.between(46, 56)
        drawn = list[Actor]()
        for x, y in places:
            x, y = x + self.between(-6, 6), y + self.between(-6, 6)
            actor, time = self._thing(x, y, size, time)
            if actor is not None:
                drawn.append(actor)
            time += self.between(0.2, 0.8)
        end = time + self.between(0.5, 2.5)
        for actor in drawn:
            actor.hide(end)
            self.plan("went", end, end, actor)
        return end + self.between(0.1, 0.5)

    def _thing(self, x: float, y: float, size: float, time: float) -> tuple[Actor | None, float]:
        """Draw a thing, now and then by way of another; what is left of it, and when it is done."""
        used = {actor.thing.noun for actor in self.script.actors}
        names = [name for name in SKETCHES if name not in used]
        if not names:
            return None, time + self.seconds
        name = self.one(names)
        strokes, before = BEGINNINGS.get(name, (0, ""))
        pace = self.between(1.2, 4.0)
        if not before or before in used or not self.chance(0.6):
            actor = self._actor(name, name, x, y, size)
            self._draw(actor, time, time + pace, 0.0)
            return actor, time + pace
        first, share = self._actor(before, f"{name}:{strokes}", x, y, size), share_of(name, strokes)
        half = time + pace * share
        self._draw(first, time, half, 0.0)
        again = half + self.between(0.4, 1.6)
        actor = self._actor(name, name, x, y, size)
        first.hide(again)
        end = again + pace * (1 - share)
        self._draw(actor, again, end, share)
        return actor, end

    def _actor(self, noun: str, drawing: str, x: float, y: float, size: float) -> Actor:
        return self.add("drawing", noun, Look(drawing=drawing, ink=self.pen), x, y, size)

    def _draw(self, actor: Actor, start: float, end: float, share: float) -> None:
        """From a share of its strokes on."""
        self.draw(actor, start, end, max(share, 0.5 / STAGES))
        self.plan("came", start, end, actor, how="drawn")


def on_paper(backdrop: Backdrop, rng: Generator) -> Backdrop:
    """The backdrop as a light sheet."""
    grey = float(rng.uniform(205, 250))
    red, green, blue = (grey + float(rng.uniform(-9, 5)) for _ in range(3))
    return replace(backdrop, ground=(red, green, blue), table=None)
