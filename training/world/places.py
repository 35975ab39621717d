"""The picture as nine places: who rests where, which are free, and paths between them."""

from numpy.random import Generator

from training.world.catalogue import Split
from training.world.stage import Actor, Stage

THIRD = 128 / 3
Cell = tuple[int, int]  # column, row
CELLS = tuple((column, row) for row in range(3) for column in range(3))
WAYS = {
    (-1, 0): "left",
    (1, 0): "right",
    (0, -1): "up",
    (0, 1): "down",
    (-1, -1): "up left",
    (1, -1): "up right",
    (-1, 1): "down left",
    (1, 1): "down right",
}
EDGES = {(-1, 0): "left", (1, 0): "right", (0, -1): "top", (0, 1): "bottom"}
_SLOW, _FAST = (13.0, 20.0), (46.0, 80.0)  # units per second; nothing moves at a pace between
_SETTLING_S = 0.3


def middle_of(cell: Cell) -> tuple[float, float]:
    return (cell[0] + 0.5) * THIRD, (cell[1] + 0.5) * THIRD


def is_inside(cell: Cell) -> bool:
    return 0 <= cell[0] < 3 and 0 <= cell[1] < 3


class Places(Stage):
    """A stage on which every resting thing has a place to itself, `most` of them at a time."""

    def __init__(
        self, rng: Generator, ground: tuple[float, float, float], split: Split, most: int
    ) -> None:
        super().__init__(rng, ground, split)
        self.most = most
        self.at: dict[Cell, Actor | None] = dict.fromkeys(CELLS)
        self.free_from: dict[Cell, float] = dict.fromkeys(CELLS, -1e9)

    def free(self, time: float) -> list[Cell]:
        found = [c for c in CELLS if self.at[c] is None and self.free_from[c] <= time]
        return [found[int(i)] for i in self.rng.permutation(len(found))]

    def idle(self, time: float, kinds: tuple[str, ...] = ("object",)) -> list[tuple[Cell, Actor]]:
        """Actors who could do something now, in random order. Covers and herds only stand there."""
        found = [
            (cell, actor)
            for cell, actor in self.at.items()
            if actor and actor.busy_until <= time and actor.layer == 0
            if actor.thing.kind in kinds
        ]
        return [found[int(i)] for i in self.rng.permutation(len(found))]

    def crowded(self) -> bool:
        return sum(actor is not None for actor in self.at.values()) >= self.most

    def spot(self, cell: Cell) -> tuple[float, float]:
        x, y = middle_of(cell)
        return x + self.between(-3, 3), y + self.between(-3, 3)

    def settle(self, actor: Actor, cell: Cell, until: float) -> None:
        self.at[cell] = actor
        actor.busy_until = until + _SETTLING_S

    def quit(self, cell: Cell, time: float) -> None:
        self.at[cell], self.free_from[cell] = None, time

    def steps(self) -> list[tuple[tuple[int, int], str]]:
        ways = list(WAYS.items())
        return [ways[int(i)] for i in self.rng.permutation(len(ways))]

    def pace(self) -> float:
        return self.between(*(_FAST if self.chance(0.6) else _SLOW))

    def walk(self, actor: Actor, start: float, end: float, x: float, y: float, act: str) -> None:
        actor.go("x", start, end, x)
        actor.go("y", start, end, y)
        actor.acts.append((start, end, act))
