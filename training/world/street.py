"""The director of the wide world: things come, go, move, hide, blink, grow, are held up or drawn.

What is asked has one answer because paths lead through free places; what hides, hides on purpose.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from training.world.catalogue import DRAWINGS, SIGN_WORDS, Split
from training.world.hand import lower_hand, raise_hand
from training.world.motions import Motions
from training.world.patches import Look
from training.world.places import EDGES, THIRD, WAYS, is_inside, middle_of
from training.world.stage import Actor, Script


class Street(Motions):
    """Lets one thing happen after another until the film ends."""

    def __init__(
        self,
        rng: Generator,
        ground: tuple[float, float, float],
        split: Split,
        seconds: float,
        most: int = 5,
    ) -> None:
        super().__init__(rng, ground, split, most)
        self.seconds = seconds
        self.sketch = self.chance(0.12)
        self.pen = self.paint()

    def direct(self) -> Script:
        time = -self.between(0.0, 1.5)
        self._set(time - 5)
        acts: list[tuple[float, Callable[[float], float | None]]] = [
            (1.6, self.enter),
            (0.8, self.pop),
            (1.2, self.leave),
            (0.6, self.vanish),
            (2.4, self.move),
            (0.8, self.cross),
            (0.9, self.resize),
            (0.9, self.blink),
            (0.8, self.swap),
            (1.2, self.conceal),
            (1.1, self.hold),
            (0.4, self.read),
        ]
        if self.sketch:
            acts = [(3.0, self.sketch_on), (0.5, self.vanish), (0.5, self.move), (0.3, self.blink)]
        weights = np.array([weight for weight, _ in acts])
        while time < self.seconds:
            act = acts[int(self.rng.choice(len(acts), p=weights / weights.sum()))][1]
            end = act(time)
            if end is None:
                time += 0.02
            elif self.chance(0.15):  # something else at the same time
                time += 0.3
            else:
                time = end + self.between(0.2, 0.8)
        return self.script

    # Who is there

    def _set(self, time: float) -> None:
        """Set the street with what is there from the start."""
        if self.sketch:
            return
        if self.chance(0.3):
            self._herd(time)
        if self.chance(0.45):
            self._cover(time)
        for _ in range(int(self.rng.integers(0, 4))):
            self.pop(time)
        if self.chance(0.2):
            self.read(time)

    def _returning(self, time: float, *acts: str) -> Actor | None:
        """Someone who was here before and left."""
        gone = [
            a
            for a in self.script.actors
            if a.thing.kind == "object" and a.layer == 0 and not a.is_on and a.busy_until <= time
            if self.allows(a.thing.noun, *acts)
        ]
        return gone[int(self.rng.integers(len(gone)))] if gone and self.chance(0.5) else None

    def _herd(self, time: float) -> None:
        """Several alike, to be counted."""
        found = self.cast(("animal", "food", "vehicle"))
        if found is None:
            return
        size = self.between(24, 34)
        for cell in self.free(time)[: int(self.rng.integers(2, 5))]:
            actor = self.add_item(*found, *self.spot(cell), size, layer=-1)
            actor.show(time)
            self.settle(actor, cell, time)

    def _cover(self, time: float) -> None:
        """Something large to hide behind."""
        found = self.cast(("cover",))
        cells = self.free(time)
        if found is None or not cells:
            return
        actor = self.add_item(*found, *middle_of(cells[0]), self.between(42, 46), layer=3)
        actor.jump("angle", -1e8, 0)
        actor.show(time)
        self.settle(actor, cells[0], time)

    # Coming and going

    def pop(self, time: float) -> float | None:
        cells = self.free(time)
        if not cells or self.crowded():
            return None
        actor = self._returning(time) or self.new(cells[0])
        if actor is None:
            return None
        self.appear(actor, cells[0], time)
        self.plan("came", time, time, actor)
        return time + 0.2

    def vanish(self, time: float) -> float | None:
        for cell, actor in self.idle(time, ("object", "drawing", "sign")):
            actor.hide(time)
            self.quit(cell, time)
            actor.busy_until = time + 0.5
            self.plan("went", time, time, actor)
            return time + 0.2
        return None

    def enter(self, time: float) -> float | None:
        """Enter over an edge, into a place next to it."""
        if self.crowded():
            return None
        for cell in self.free(time):
            for (dx, dy), way in self.steps():
                if (dx and dy) or is_inside((cell[0] - dx, cell[1] - dy)):
                    continue
                actor = self._returning(time, way) or self.new(cell, way)
                if actor is None:
                    return None
                x, y = self.spot(cell)
                start_x, start_y = x - dx * THIRD * 1.1, y - dy * THIRD * 1.1
                end = time + THIRD * 1.1 / self.pace()
                actor.jump("x", time - 0.02, start_x)
                actor.jump("y", time - 0.02, start_y)
                actor.show(time)
                self.walk(actor, time, end, x, y, way)
                self.settle(actor, cell, end)
                self.plan("came", time, end, actor, how=EDGES[-dx, -dy])
                return end
        return None

    def leave(self, time: float) -> float | None:
        for cell, actor in self.idle(time):
            for (dx, dy), way in self.steps():
                if (dx and dy) or is_inside((cell[0] + dx, cell[1] + dy)):
                    continue
                if not self.allows(actor.thing.noun, way):
                    continue
                x, y = actor.at("x", time), actor.at("y", time)
                end = time + THIRD * 1.2 / self.pace()
                self.walk(actor, time, end, x + dx * THIRD * 1.2, y + dy * THIRD * 1.2, way)
                actor.hide(end)
                actor.busy_until = end + 0.5
                self.quit(cell, end)
                self.plan("went", time, end, actor, how=EDGES[dx, dy])
                return end
        return None

    def conceal(self, time: float) -> float | None:
        """Go behind something large; later come out on another side."""
        covers = [(c, a) for c, a in self.at.items() if a and a.layer == 3]
        free = set(self.free(time))
        for cover_cell, cover in covers:
            for cell, actor in self.idle(time):
                dx, dy = cover_cell[0] - cell[0], cover_cell[1] - cell[1]
                way, noun = WAYS.get((dx, dy)), actor.thing.noun
                if way is None or not self.allows(noun, way, "hide"):
                    continue
                size = cover.at("size", time) * 0.62
                start = time
                if actor.at("size", time) > size:
                    continue
                x, y = cover.at("x", time), cover.at("y", time) + 3
                pace = self.between(40, 70)
                end = time + THIRD * float(np.hypot(dx, dy)) / pace
                self.walk(actor, time, end, x, y, way)
                self.plan("went", time, end, actor, cover, how="behind")
                self.quit(cell, end)
                actor.busy_until = 1e9
                outs = [
                    ((cover_cell[0] + sx, cover_cell[1] + sy), out)
                    for (sx, sy), out in self.steps()
                    if (cover_cell[0] + sx, cover_cell[1] + sy) in free and self.allows(noun, out)
                ]
                if outs and self.chance(0.75):
                    start = end + self.between(0.6, 1.5)
                    target, out = outs[0]
                    x, y = self.spot(target)
                    done = start + THIRD / pace
                    self.walk(actor, start, done, x, y, out)
                    self.settle(actor, target, done)
                    self.plan("came", start, done, actor, cover, how="behind")
                    self.free_from[target] = done
                return end
        return None

    # Signs, drawings, hands

    def read(self, time: float) -> float | None:
        """A sign with a word or a number."""
        cells = self.free(time)
        if not cells or self.crowded():
            return None
        used = {actor.thing.text for actor in self.script.actors}
        text = str(int(self.rng.integers(2, 100))) if self.chance(0.35) else self.one(SIGN_WORDS)
        if text in used:
            return None
        actor = self.add_sign(text, *self.spot(cells[0]), self.between(32, 42), layer=0)
        actor.show(time)
        self.settle(actor, cells[0], time)
        self.plan("came", time, time, actor)
        return time + 0.3

    def sketch_on(self, time: float) -> float | None:
        """Draw one more element of a sketch."""
        cells = self.free(time)
        used = {actor.thing.noun for actor in self.script.actors}
        names = [d for d in DRAWINGS if d not in used and self.allows(d, "draw")]
        if not cells or not names or self.crowded():
            return None
        name = self.one(names)
        pen = self.pen if self.chance(0.7) else self.paint()
        look = Look(drawing=name, ink=pen)
        actor = self.add("drawing", name, look, *self.spot(cells[0]), self.between(34, 42))
        end = time + self.between(0.7, 2.0)
        self.draw(actor, time, end)
        self.settle(actor, cells[0], end)
        self.plan("came", time, end, actor, how="drawn")
        return end

    def hold(self, time: float) -> float | None:
        """A hand brings something up from below the picture, holds it up and takes it away."""
        free = set(self.free(time))
        columns = [c for c in range(3) if {(c, 1), (c, 2)} <= free]
        if not columns or self.crowded():
            return None
        column = columns[int(self.rng.integers(len(columns)))]
        actor = self.new((column, 1), "hold")
        if actor is None:
            return None
        x, y = self.spot((column, 1))
        hand = raise_hand(self, actor, x, y, time)
        shown_at = time + hand
        until = shown_at + self.between(0.7, 2.0)
        gone = lower_hand(self, actor, until)
        for cell in ((column, 1), (column, 2)):
            self.free_from[cell] = gone
        return gone
