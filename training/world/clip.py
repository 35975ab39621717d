"""The truth about a clip of the wide world: its things, what of them shows, and what happened.

Everything asked is answered from here. What is half in the picture, half hidden or half drawn is
debatable: `there` is None, and whoever asks keeps silent about it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.world.catalogue import ACTS
from training.world.patches import Look

SIZE = 128.0
COLUMNS, ROWS = ("left", "", "right"), ("top", "", "bottom")
_EDGE_OF_PLACE = 5.0
_THERE, _GONE = 0.5, 0.06  # shares of a thing's area
_DRAWN = 0.85
_SURE_STEPS = 3

Kind = Literal["object", "drawing", "sign", "tag", "hand", "host"]


@dataclass(frozen=True, slots=True)
class Thing:
    """Thing, as far as it stays the same. `of`: the thing that a price tag belongs to."""

    ident: int
    kind: Kind
    noun: str
    look: Look
    colour: str = ""
    text: str = ""
    group: str = ""
    of: int = -1


@dataclass(frozen=True, slots=True)
class Event:
    """Something that began to show in frame `start` and was complete in `frame`.

    kind: came, went, moved, grew, shrank, blinked, swapped, held, freed, repriced, crossed.
    how: for came and went "left", … (over that edge), "" (on the spot), "drawn", "behind", "hand";
    for moved and crossed the direction; for blinked the number. sure: False where not all of it
    could be seen.
    """

    kind: str
    start: int
    frame: int
    things: tuple[int, ...]
    how: str = ""
    sure: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """n frames of m things. pixels: [n, side, side, 3] uint8; the rest is in units of 1/128 side.

    boxes: [n, m, 4] left, top, right, bottom, cut to the picture; visible: [n, m] share 0…1 of the
    whole thing's area that shows; acts: [n, m] index in ACTS of what the thing is doing; sizes:
    [n, m] longer side; holding: [n] the thing held up by a hand, −1 for none; times: [n] seconds of
    the world's clock, which stands still in a repeated frame and jumps over a dropped one. texts:
    what its signs and tags might have said.
    """

    seed: int
    world: str
    fps: float
    things: tuple[Thing, ...]
    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    visible: NDArray[np.float32]
    acts: NDArray[np.int8]
    sizes: NDArray[np.float32]
    holding: NDArray[np.int16]
    times: NDArray[np.float64]
    events: tuple[Event, ...]
    presence: NDArray[np.int8] = field(repr=False)  # 1 there, 0 not, −1 debatable
    texts: Mapping[Kind, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.times)

    def there(self, frame: int, ident: int) -> bool | None:
        state = int(self.presence[frame, ident])
        return None if state < 0 else state == 1

    def present(self, frame: int, kinds: Sequence[Kind] = ("object", "drawing")) -> list[Thing]:
        """Things that are there, from the left to the right."""
        found = [t for t in self.things if t.kind in kinds and self.presence[frame, t.ident] == 1]
        return sorted(found, key=lambda thing: float(self.boxes[frame, thing.ident, 0]))

    def settled(self, frame: int, kinds: Sequence[Kind] = ("object", "drawing")) -> bool:
        """Whether everyone agrees which things of these kinds are there."""
        return all(self.presence[frame, t.ident] >= 0 for t in self.things if t.kind in kinds)

    def repeated(self, frame: int) -> bool:
        return frame > 0 and bool(self.times[frame] == self.times[frame - 1])

    def names(self, ident: int) -> list[str]:
        """The names that mean this thing alone in this clip; none for one of many alike."""
        thing = self.things[ident]
        others = [t for t in self.things if t.ident != ident and t.noun == thing.noun]
        if not others:
            return [thing.noun, f"{thing.colour} {thing.noun}"] if thing.colour else [thing.noun]
        if thing.colour and all(t.colour != thing.colour for t in others):
            return [f"{thing.colour} {thing.noun}"]
        return []

    def full_name(self, ident: int) -> str:
        """The thing's name with its colour, where it has one."""
        return f"{self.things[ident].colour} {self.things[ident].noun}".strip()

    def place(self, frame: int, ident: int) -> str | None:
        """The place of a thing, one of nine, as "top left"; None near the borders between them."""
        left, top, right, bottom = (float(v) for v in self.boxes[frame, ident])
        x, y = (left + right) / 2, (top + bottom) / 2
        for line in (SIZE / 3, SIZE * 2 / 3):
            if abs(x - line) < _EDGE_OF_PLACE or abs(y - line) < _EDGE_OF_PLACE:
                return None
        row, column = ROWS[int(y * 3 / SIZE)], COLUMNS[int(x * 3 / SIZE)]
        return f"{row} {column}".strip() or "middle"

    def act(self, frame: int, ident: int) -> str | None:
        """Act that the thing has been at for some frames now; None where it has just begun."""
        steps, now, at = 0, self.acts[frame, ident], frame
        while steps < _SURE_STEPS and at > 0:
            if self.acts[at, ident] != now or self.presence[at, ident] != 1:
                return None
            steps += not self.repeated(at)
            at -= 1
        return ACTS[now] if steps == _SURE_STEPS else None

    def speed(self, frame: int, ident: int) -> float:
        """Units per second over the last steps."""
        past = max(frame - _SURE_STEPS, 0)
        centre = (self.boxes[[past, frame], ident, :2] + self.boxes[[past, frame], ident, 2:]) / 2
        elapsed = max(float(self.times[frame] - self.times[past]), 1e-6)
        return float(np.hypot(*(centre[1] - centre[0]))) / elapsed


def presence_of(things: Sequence[Thing], visible: NDArray[np.float32]) -> NDArray[np.int8]:
    """[n, m]: 1 where a thing is there, 0 where it is not, −1 where that is debatable."""
    there = np.array([_DRAWN if thing.kind == "drawing" else _THERE for thing in things])
    gone = np.array([0.0 if thing.kind == "drawing" else _GONE for thing in things])
    states = np.full(visible.shape, -1, np.int8)
    states[visible <= gone] = 0
    states[visible >= there] = 1
    return states
