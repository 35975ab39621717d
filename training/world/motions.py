"""Motions of a thing while it is there: move, cross, grow, shrink, blink, change places.

Each returns when it is over, None where nobody can do it now. None does what its split withholds.
"""

import numpy as np

from training.world.places import Cell, Places
from training.world.stage import Actor

SORTS = ("animal", "food", "vehicle", "product", "plant", "prohibited", "sky", "shape", "shape")
_GROWTH = 1.6


class Motions(Places):
    """Acts of single things and pairs."""

    def new(self, cell: Cell, *acts: str) -> Actor | None:
        found = self.cast(SORTS, *acts)
        if found is None:
            return None
        x, y = self.spot(cell)
        return self.add_item(*found, x, y, self.between(25, 36))

    def appear(self, actor: Actor, cell: Cell, time: float) -> None:
        x, y = self.spot(cell)
        actor.jump("x", time - 0.02, x)
        actor.jump("y", time - 0.02, y)
        actor.show(time)
        self.settle(actor, cell, time)

    def move(self, time: float) -> float | None:
        """Move into a free place next to its own, or through that one into the next."""
        for cell, actor in self.idle(time, ("object", "drawing")):
            for (dx, dy), way in self.steps():
                if not self.allows(actor.thing.noun, way) or (dx and dy and self.chance(0.6)):
                    continue
                path = [(cell[0] + dx * n, cell[1] + dy * n) for n in (1, 2)]
                free = set(self.free(time))
                path = path[:1] if path[1] not in free or self.chance(0.5) else path
                if path[0] not in free:
                    continue
                x, y = self.spot(path[-1])
                start_x, start_y = actor.at("x", time), actor.at("y", time)
                if not dx:
                    x = start_x
                if not dy:
                    y = start_y
                end = time + float(np.hypot(x - start_x, y - start_y)) / self.pace()
                self.walk(actor, time, end, x, y, way)
                self.quit(cell, end)
                for passed in path:
                    self.free_from[passed] = end
                self.settle(actor, path[-1], end)
                self.plan("moved", time, end, actor, how=way)
                return end
        return None

    def cross(self, time: float) -> float | None:
        """Cross from one corner to the opposite one, coming from nowhere if need be."""
        free = set(self.free(time))
        for (dx, dy), way in self.steps():
            if not dx or not dy:
                continue
            path = [(1 - dx, 1 - dy), (1, 1), (1 + dx, 1 + dy)]
            actor = self.at[path[0]]
            if not set(path[1:]) <= free or not (actor or path[0] in free):
                continue
            if actor is None:
                actor = None if self.crowded() else self.new(path[0], way)
                if actor is None:
                    continue
                self.appear(actor, path[0], time)
                self.plan("came", time, time, actor)
                time += 0.45
            elif (
                actor.busy_until > time or actor.layer or actor.thing.kind != "object"
            ) or not self.allows(actor.thing.noun, way):
                continue
            end = time + self.between(0.55, 1.3)
            x, y = self.spot(path[2])
            self.walk(actor, time, end, x, y, way)
            self.quit(path[0], end)
            self.free_from[path[1]] = end
            self.settle(actor, path[2], end)
            self.plan("crossed", time, end, actor, how=way)
            return end
        return None

    def resize(self, time: float) -> float | None:
        for _, actor in self.idle(time):
            size = actor.at("size", time)
            act = "shrink" if size > 38 or (size > 30 and self.chance(0.3)) else "grow"
            if not self.allows(actor.thing.noun, act):
                continue
            end = time + self.between(0.4, 1.0)
            size = size / _GROWTH if act == "shrink" else min(size * _GROWTH, 54)
            actor.go("size", time, end, size)
            actor.acts.append((time, end, act))
            actor.busy_until = end + 0.3
            self.plan("shrank" if act == "shrink" else "grew", time, end, actor)
            return end
        return None

    def blink(self, time: float) -> float | None:
        for _, actor in self.idle(time, ("object", "drawing", "sign")):
            if not self.allows(actor.thing.noun, "blink"):
                continue
            number, start = int(self.rng.integers(1, 4)), time
            for _ in range(number):
                actor.hide(time)
                time += 0.32
                actor.show(time)
                time += 0.4
            actor.acts.append((start, time, "blink"))
            actor.busy_until = time + 0.3
            self.plan("blinked", start, time, actor, how=str(number))
            return time
        return None

    def swap(self, time: float) -> float | None:
        """Two change places, one passing above the other."""
        idle = [pair for pair in self.idle(time) if self.allows(pair[1].thing.noun, "swap")]
        if len(idle) < 2:
            return None
        (cell, one), (other_cell, other) = idle[:2]
        end = time + self.between(0.5, 1.0)
        ends = [(a.at("x", time), a.at("y", time)) for a in (other, one)]
        for actor, (x, y) in zip((one, other), ends, strict=True):
            self.walk(actor, time, end, x, y, "swap")
        self.settle(other, cell, end)
        self.settle(one, other_cell, end)
        self.plan("swapped", time, end, one, other)
        return end
