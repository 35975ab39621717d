"""A seeded world of coloured shapes, with the truth about every frame.

Space is 128 units wide and high, time is counted in frames of 1/8 s. Things rest or move along one
axis, enter and leave over the edges, appear and disappear on the spot, and change colour. Paths
never cross, no two things share colour and shape, and changes keep a distance in time, so that
questions have one answer. `World` steps for ever; `film` cuts a clip out of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.random import Generator

from training.vocabulary import COLOURS, DIRECTIONS, SHAPES

SIZE = 128.0
FRAMES_PER_SECOND = 8.0
EDGE_BAND = 6.0
VECTORS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_GAP = 5.0
_QUIET_FRAMES = 3

ChangeKind = Literal["appeared", "disappeared", "turned"]


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape in one frame. Centre (x, y), width and height in world units.

    `motion` is the direction of the step that led into this frame, or "still"; `steady` counts
    how many steps in a row, this one included, went that way.
    """

    ident: int
    shape: str
    colour: str
    x: float
    y: float
    width: float
    height: float
    motion: str
    steady: int

    @property
    def inside(self) -> bool:
        """Whether the centre is in the picture: what counts as being there."""
        return 0.0 <= self.x < SIZE and 0.0 <= self.y < SIZE

    @property
    def on_the_edge(self) -> bool:
        """Whether it is debatable that the thing is there."""
        depth = min(self.x, SIZE - self.x, self.y, SIZE - self.y)
        return abs(depth) < EDGE_BAND


@dataclass(frozen=True, slots=True)
class Change:
    """Change in `frame`, at (x, y). `before`: the colour it turned from."""

    frame: int
    kind: ChangeKind
    shape: str
    colour: str
    x: float
    y: float
    before: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Pace of a world. Rates are per frame, speeds in units per frame, spans in frames."""

    start_things: tuple[float, ...] = (0.15, 0.3, 0.3, 0.25)
    most_things: int = 3
    change_rate: float = 0.1
    speed: tuple[float, float] = (2.0, 7.0)
    rest: tuple[int, int] = (4, 16)
    move: tuple[int, int] = (5, 22)
    move_share: float = 0.75
    thing_size: tuple[float, float] = (28.0, 44.0)


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames of a world with everything that is true about them."""

    seed: int
    frames: tuple[tuple[Thing, ...], ...]
    changes: tuple[Change, ...]

    def __len__(self) -> int:
        return len(self.frames)

    def present(self, frame: int) -> list[Thing]:
        """Things that are there, in the canonical order: by colour, then by shape."""
        found = [thing for thing in self.frames[frame] if thing.inside]
        return sorted(found, key=lambda t: (COLOURS.index(t.colour), SHAPES.index(t.shape)))

    def settled(self, frame: int) -> bool:
        """Whether nothing is half in the picture, so that everyone agrees what is there."""
        return not any(thing.on_the_edge for thing in self.frames[frame])


class _Actor:
    """A thing and its plan: the centres of its coming frames. It rests where the plan ends."""

    def __init__(self, thing: Thing) -> None:
        self.thing = thing
        self.plan: list[tuple[float, float]] = []
        self.leaving = False

    def at(self, step: int) -> tuple[float, float]:
        """Place `step` frames from now; step 0 is the next frame."""
        if not self.plan:
            return self.thing.x, self.thing.y
        return self.plan[min(step, len(self.plan) - 1)]


class World:
    """Steps one frame at a time, for ever. All randomness comes from `rng`."""

    def __init__(self, rng: Generator, pace: Pace) -> None:
        self.rng = rng
        self.pace = pace
        self.frame = 0
        self.aspect = (float(rng.uniform(0.85, 1.05)), float(rng.uniform(0.9, 1.05)))
        self.changes: list[Change] = []
        self._actors: list[_Actor] = []
        self._quiet: list[int] = []  # frames of changes, past and planned
        self._next_ident = 0
        for _ in range(int(rng.choice(len(pace.start_things), p=pace.start_things))):
            self._place()
        for actor in self._actors:  # in mid-action: let the first plans be partly spent
            self._plan(actor)
            if actor.plan:
                x, y = actor.plan[0]
                actor.thing = replace(actor.thing, x=x, y=y)
                del actor.plan[0]

    @property
    def things(self) -> tuple[Thing, ...]:
        return tuple(actor.thing for actor in self._actors)

    def step(self) -> tuple[Thing, ...]:
        """Advance one frame and return what is in or near the picture."""
        self.frame += 1
        if self.rng.random() < self.pace.change_rate and self._is_quiet(self.frame):
            self._change()
        for actor in list(self._actors):
            self._move(actor)
        for actor in self._actors:
            if not actor.plan and not actor.leaving:
                self._plan(actor)
        self._quiet = [frame for frame in self._quiet if frame >= self.frame - _QUIET_FRAMES]
        return self.things

    # Changes

    def _is_quiet(self, frame: int) -> bool:
        return all(abs(frame - other) > _QUIET_FRAMES for other in self._quiet)

    def _note(self, kind: ChangeKind, thing: Thing, before: str = "") -> None:
        x, y = min(max(thing.x, 0), SIZE - 1), min(max(thing.y, 0), SIZE - 1)
        change = Change(self.frame, kind, thing.shape, thing.colour, x, y, before)
        self.changes.append(change)
        self._quiet.append(self.frame)

    def _change(self) -> None:
        inside = [a for a in self._actors if a.thing.inside and not a.thing.on_the_edge]
        room = len(self._actors) < self.pace.most_things
        options = (
            ["come"] * (4 if room else 0) + ["go"] * (2 * len(inside)) + ["turn"] * len(inside)
        )
        if not options:
            return
        option = options[int(self.rng.integers(len(options)))]
        if option == "come":
            if self.rng.random() < 0.5:
                actor = self._place()
                if actor is not None:
                    self._note("appeared", actor.thing)
            else:
                self._enter()
            return
        actor = inside[int(self.rng.integers(len(inside)))]
        if option == "go":
            if self.rng.random() < 0.5 or not self._leave(actor):
                self._note("disappeared", actor.thing)
                self._actors.remove(actor)
            return
        taken = {(a.thing.colour, a.thing.shape) for a in self._actors}
        free = [c for c in COLOURS if (c, actor.thing.shape) not in taken]
        before = actor.thing.colour
        colour = free[int(self.rng.integers(len(free)))]
        actor.thing = replace(actor.thing, colour=colour)
        self._note("turned", actor.thing, before)

    def _new_thing(self, x: float, y: float) -> Thing:
        taken = {(a.thing.colour, a.thing.shape) for a in self._actors}
        while True:
            colour = COLOURS[int(self.rng.integers(len(COLOURS)))]
            shape = SHAPES[int(self.rng.integers(len(SHAPES)))]
            if (colour, shape) not in taken:
                break
        size = float(self.rng.uniform(*self.pace.thing_size))
        self._next_ident += 1
        width, height = size * self.aspect[0], size * self.aspect[1]
        return Thing(self._next_ident, shape, colour, x, y, width, height, "still", 0)

    def _place(self) -> _Actor | None:
        """Put a resting thing somewhere free, wholly in the picture."""
        for _ in range(12):
            actor = _Actor(self._new_thing(0.0, 0.0))
            half_w, half_h = actor.thing.width / 2 + 1, actor.thing.height / 2 + 1
            x = float(self.rng.uniform(half_w, SIZE - half_w))
            y = float(self.rng.uniform(half_h, SIZE - half_h))
            actor.thing = replace(actor.thing, x=x, y=y)
            if self._is_free(actor, [(x, y)]):
                self._actors.append(actor)
                return actor
        return None

    def _enter(self) -> None:
        """Bring a thing in over an edge, far enough to be wholly in the picture."""
        for _ in range(8):
            thing = self._new_thing(0.0, 0.0)
            direction = DIRECTIONS[int(self.rng.integers(4))]
            dx, dy = VECTORS[direction]
            half = (thing.width if dx else thing.height) / 2
            across = float(self.rng.uniform(26, SIZE - 26))
            outside = -half if dx + dy > 0 else SIZE + half
            x, y = (outside, across) if dx else (across, outside)
            actor = _Actor(replace(thing, x=x, y=y))
            speed = float(self.rng.uniform(*self.pace.speed))
            way = float(self.rng.uniform(2 * half + 3, 2 * half + 50))
            plan = self._path(x, y, direction, speed, int(way / speed) + 1)
            crossing = self.frame + int(half / speed) + 1
            if self._is_quiet(crossing) and self._is_free(actor, plan):
                actor.plan = plan
                self._actors.append(actor)
                self._quiet.append(crossing)
                return

    def _leave(self, actor: _Actor) -> bool:
        """Send a thing out over the nearest free edge."""
        thing = actor.thing
        for index in self.rng.permutation(4):
            direction = DIRECTIONS[int(index)]
            dx, _ = VECTORS[direction]
            depth = {"left": thing.x, "right": SIZE - thing.x}.get(
                direction, thing.y if direction == "up" else SIZE - thing.y
            )
            half = (thing.width if dx else thing.height) / 2
            speed = float(self.rng.uniform(*self.pace.speed))
            plan = self._path(thing.x, thing.y, direction, speed, int((depth + half) / speed) + 1)
            crossing = self.frame + int(depth / speed)
            if self._is_quiet(crossing) and self._is_free(actor, plan):
                actor.plan, actor.leaving = plan, True
                self._quiet.append(crossing)
                return True
        return False

    # Motion

    def _path(
        self, x: float, y: float, direction: str, speed: float, steps: int
    ) -> list[tuple[float, float]]:
        dx, dy = VECTORS[direction]
        return [(x + dx * speed * k, y + dy * speed * k) for k in range(1, steps + 1)]

    def _plan(self, actor: _Actor) -> None:
        """Give an idle actor something to do: rest, or a move that stays in the picture."""
        thing = actor.thing
        if self.rng.random() < self.pace.move_share:
            for _ in range(4):
                direction = DIRECTIONS[int(self.rng.integers(4))]
                dx, dy = VECTORS[direction]
                half_w, half_h = thing.width / 2, thing.height / 2
                room = (
                    (SIZE - half_w - thing.x if dx > 0 else thing.x - half_w)
                    if dx
                    else (SIZE - half_h - thing.y if dy > 0 else thing.y - half_h)
                )
                speed = float(self.rng.uniform(*self.pace.speed))
                wanted = int(self.rng.integers(self.pace.move[0], self.pace.move[1] + 1))
                steps = min(wanted, int(room / speed))
                if steps < self.pace.move[0]:
                    continue
                plan = self._path(thing.x, thing.y, direction, speed, steps)
                if self._is_free(actor, plan):
                    actor.plan = plan
                    return
        low, high = self.pace.rest
        actor.plan = [(thing.x, thing.y)] * int(self.rng.integers(low, high + 1))

    def _is_free(self, actor: _Actor, plan: list[tuple[float, float]]) -> bool:
        for other in self._actors:
            if other is actor:
                continue
            reach_x = (actor.thing.width + other.thing.width) / 2 + _GAP
            reach_y = (actor.thing.height + other.thing.height) / 2 + _GAP
            for step in range(max(len(plan), len(other.plan))):
                x, y = plan[min(step, len(plan) - 1)]
                other_x, other_y = other.at(step)
                if abs(x - other_x) < reach_x and abs(y - other_y) < reach_y:
                    return False
        return True

    def _move(self, actor: _Actor) -> None:
        if not actor.plan:
            if actor.leaving:
                self._actors.remove(actor)
            return
        x, y = actor.plan.pop(0)
        was = actor.thing
        motion = "still"
        if x != was.x:
            motion = "right" if x > was.x else "left"
        elif y != was.y:
            motion = "down" if y > was.y else "up"
        steady = was.steady + 1 if motion == was.motion else 1
        actor.thing = replace(was, x=x, y=y, motion=motion, steady=steady)
        if actor.thing.inside and not was.inside:
            self._note("appeared", actor.thing)
        elif was.inside and not actor.thing.inside:
            self._note("disappeared", actor.thing)


def run(seed: int, pace: Pace) -> Iterator[tuple[Thing, ...]]:
    """Frames of a world for ever."""
    world = World(np.random.default_rng(seed), pace)
    yield world.things
    while True:
        yield world.step()


def film(seed: int, length: int, pace: Pace | None = None) -> Clip:
    """The first `length` frames of the world with this seed."""
    world = World(np.random.default_rng(seed), pace or Pace())
    frames = [world.things, *(world.step() for _ in range(length - 1))]
    return Clip(seed, tuple(frames), tuple(world.changes))
