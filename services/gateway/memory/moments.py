"""Moments of a video: where one ends and the next begins. No I/O and no clock."""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

NS = 1_000_000_000
LOOK_NS = NS // 2  # between two frames that are looked at
LEAST_S = 5.0  # that a moment lasts before a change ends it
SETTLE_S = 1.0  # from its begin until it is described
RENEW_NS = 60 * NS  # after which what has not changed is described anew: small things are not seen
HOLD_NS = NS  # that a change lasts before it counts
GRID, SAMPLES = 16, 4  # cells of a side, and pixels of each cell's side that are looked at
CHANGED_LEVELS = 20  # of 255, in which a cell differs
CHANGED_CELLS = 3  # from which on the picture does


class Step(Enum):
    """What is to be done when a frame was seen."""

    NOTHING = "nothing"
    NOTE = "note"  # describe what is there now
    SAME = "same"  # what is there now is what was described last
    END = "end"  # the moment is over, and another begins


@dataclass(slots=True)
class Moment:
    """A stretch of video. `changed`: it ended because the picture changed."""

    start_ns: int
    end_ns: int
    changed: bool = False


class Moments:
    """Cuts one session's video into moments of at most `longest_s`. A moment is described once it
    has settled, before the change that ends it."""

    def __init__(self, longest_s: float) -> None:
        self._longest_ns = round(longest_s * NS)
        self._least_ns = round(min(LEAST_S, longest_s) * NS)
        self._next_ns = 0
        self._described: NDArray[np.int16] | None = None  # the picture then
        self._changed_ns: int | None = None  # since when it differs from that
        self._noted: NDArray[np.int16] | None = None  # the picture of the last NOTE
        self._noted_ns = 0
        self.now: Moment | None = None
        self.ended: Moment | None = None
        """The moment that the last END was of."""

    def wants(self, capture_ns: int) -> bool:
        """Whether a frame of this time is to be seen at all."""
        return capture_ns >= self._next_ns

    def see(self, pixels: bytes, width: int, height: int, capture_ns: int) -> Step:
        """The next frame, RGB24; times do not decrease."""
        self._next_ns = capture_ns + LOOK_NS
        now = self.now
        if now is None:
            self._begin(capture_ns)
            return Step.NOTHING
        gap = capture_ns - now.end_ns > self._longest_ns  # nothing was shown meanwhile
        if gap:
            return self._end(capture_ns, capture_ns)
        now.end_ns = capture_ns
        picture = looked_at(pixels, width, height)
        if self._described is None:
            if capture_ns - now.start_ns < SETTLE_S * NS:
                return Step.NOTHING
            self._described = picture
            recent = capture_ns - self._noted_ns < RENEW_NS
            if self._noted is not None and recent and not differs(self._noted, picture):
                return Step.SAME
            self._noted, self._noted_ns = picture, capture_ns
            return Step.NOTE
        if not differs(self._described, picture):
            self._changed_ns = None
        elif self._changed_ns is None:
            self._changed_ns = capture_ns
        length_ns = capture_ns - now.start_ns
        held = self._changed_ns is not None and capture_ns - self._changed_ns >= HOLD_NS
        if self._changed_ns is not None and held and length_ns >= self._least_ns:
            now.changed = True
            now.end_ns = max(self._changed_ns, now.start_ns + self._least_ns)
            return self._end(now.end_ns, capture_ns)
        if length_ns >= self._longest_ns:
            return self._end(capture_ns, capture_ns)
        return Step.NOTHING

    def _end(self, begins_ns: int, capture_ns: int) -> Step:
        self.ended = self.now
        self._begin(begins_ns)
        assert self.now is not None
        self.now.end_ns = capture_ns
        return Step.END

    def _begin(self, start_ns: int) -> None:
        self.now = Moment(start_ns, start_ns)
        self._described = self._changed_ns = None


def looked_at(pixels: bytes, width: int, height: int) -> NDArray[np.int16]:
    """A picture as it is compared, [GRID, GRID, 3] levels: means of a few pixels of each cell."""
    frame = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    side = GRID * SAMPLES
    rows = (np.arange(side) * height + height // 2) // side
    columns = (np.arange(side) * width + width // 2) // side
    few = frame[np.minimum(rows, height - 1)[:, None], np.minimum(columns, width - 1)[None, :]]
    cells = few.reshape(GRID, SAMPLES, GRID, SAMPLES, 3).mean(axis=(1, 3))
    compared: NDArray[np.int16] = cells.astype(np.int16)
    return compared


def differs(before: NDArray[np.int16], after: NDArray[np.int16]) -> bool:
    """Whether something came, went or moved: some cells changed more than all did, as when a camera
    finds another exposure."""
    change = after - before
    change = change - np.median(change, axis=(0, 1)).astype(np.int16)
    return int((np.abs(change).max(axis=-1) > CHANGED_LEVELS).sum()) >= CHANGED_CELLS
