"""The health of a source's pictures: dark, covered, frozen and repeating ones are told apart from
good ones by a few thousand points of each."""

import zlib
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

SECOND_NS = 1_000_000_000
COLUMNS, ROWS = 64, 36  # of the points that are looked at
BRIGHTEST = 0.02  # share of the points that may be brighter in a dark picture: lamps, a clock
LEAVING = 1.5  # a picture counts as good again beyond so many times the level that made it bad …
LEAVING_S = 1.0  # … and for so long
LOOK_NS = SECOND_NS // 5  # between two pictures that are measured; loops are looked for in all
# The noise of a sensor that sees nothing move is more than this, unless a codec has taken it away
# up to the next keyframe; what codecs do to a frozen picture that they encode again is less.
SAME_MEAN, SAME_POINT = 0.25, 32  # levels of 255, in the mean and of any one point
NEAR_MEAN = 1.5  # likewise: codecs draw the keyframes of a frozen picture a little differently …
KINDS_OF_SAME = 8  # … in no more ways than this
LEAST_SAME = 3  # pictures: of fewer nobody knows
SHORTEST_LOOP, LONGEST_LOOP = 5, 2048  # pictures that differ

Bytes = NDArray[np.uint8]
Points = NDArray[np.int16]

# Levels of what is 16 (black) to 235 (white).
_OF_VIDEO = ((np.arange(256) - 16) * 255 // 219).astype(np.int16)


class Condition(StrEnum):
    """How a session's pictures are. The first that holds is told."""

    FINE = "fine"
    DEAD = "dead"  # none come
    DARK = "dark"
    COVERED = "covered"
    FROZEN = "frozen"
    REPEATING = "repeating"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """Limits of what is still good. Levels are shares of white, seconds are of capture time; 0 of
    the seconds: that condition is never told."""

    dark_level: float = 0.1
    dark_s: float = 3.0
    covered_level: float = 0.015
    covered_s: float = 3.0
    frozen_s: float = 20.0
    repeating_s: float = 20.0


class PictureHealth:
    """The judge of one publisher's pictures, each looked at once, on its decode thread; others may
    read `condition` at any time."""

    def __init__(self, limits: HealthLimits) -> None:
        self.condition = Condition.FINE
        self._glance = _Glance()
        self._dark = _Below(limits.dark_level * 255, limits.dark_s)
        self._covered = _Below(limits.covered_level * 255, limits.covered_s)
        self._still = _Still(limits.frozen_s)
        self._loop = _Loop(limits.repeating_s)
        self._measured = Condition.FINE
        self._next_ns = 0

    def look(self, frame: av.VideoFrame, capture_ns: int) -> None:
        """Take note of the next picture. `capture_ns` must not decrease."""
        raw = self._glance.of(frame)
        repeating = self._loop.look(raw, capture_ns)
        if self._next_ns <= capture_ns:
            self._next_ns = capture_ns + LOOK_NS
            self._measured = self._measure(self._glance.levels(raw, frame), capture_ns)
        if repeating and self._measured is Condition.FINE:
            self.condition = Condition.REPEATING
        else:
            self.condition = self._measured

    def _measure(self, points: Points, capture_ns: int) -> Condition:
        brightest = int(points.size * (1 - BRIGHTEST))
        level = float(np.partition(points, brightest, axis=None)[brightest])
        dark = self._dark.look(level, capture_ns)
        covered = self._covered.look(float(points.std()), capture_ns)
        frozen = self._still.look(points, capture_ns)
        if dark:
            return Condition.DARK
        if covered:
            return Condition.COVERED
        return Condition.FROZEN if frozen else Condition.FINE


class _Glance:
    """Reader of a picture's brightness at the same points of each, not of means around them, in
    which noise and small movement would vanish."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._at: tuple[NDArray[np.intp], ...]

    def of(self, frame: av.VideoFrame) -> Bytes:
        """Brightness [ROWS, COLUMNS] as the picture has it."""
        if not _has_luma_plane(frame):
            frame = self._reformatter.reformat(
                frame, COLUMNS, ROWS, "gray", interpolation=Interpolation.POINT, threads=1
            )
        if self._size != (frame.width, frame.height):
            self._size = (frame.width, frame.height)
            rows = (2 * np.arange(ROWS) + 1) * frame.height // (2 * ROWS)
            columns = (2 * np.arange(COLUMNS) + 1) * frame.width // (2 * COLUMNS)
            self._at = np.ix_(rows, columns)
        plane = frame.planes[0]
        points: Bytes = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
            self._at
        ]
        return points

    @staticmethod
    def levels(points: Bytes, frame: av.VideoFrame) -> Points:
        """The same from 0 (black) to 255 (white)."""
        if _has_luma_plane(frame) and not _is_full_range(frame):
            levels: Points = _OF_VIDEO[points]
            return levels
        return points.astype(np.int16)


def _has_luma_plane(frame: av.VideoFrame) -> bool:
    kind = frame.format
    return not kind.is_rgb and kind.is_planar and kind.components[0].bits == 8


def _is_full_range(frame: av.VideoFrame) -> bool:
    return frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")


class _Below:
    """A figure of pictures that stays below a level for a while, until it is well above it."""

    def __init__(self, level: float, hold_s: float) -> None:
        self._level = level
        self._hold_s = hold_s
        self._holds = False
        self._other_since_ns: int | None = None  # since when it says the other thing

    def look(self, figure: float, capture_ns: int) -> bool:
        if not self._hold_s:
            return False
        level = self._level * LEAVING if self._holds else self._level
        if (figure <= level) == self._holds:
            self._other_since_ns = None
            return self._holds
        if self._other_since_ns is None:
            self._other_since_ns = capture_ns
        after_s = LEAVING_S if self._holds else self._hold_s
        if capture_ns - self._other_since_ns >= after_s * SECOND_NS:
            self._holds, self._other_since_ns = not self._holds, None
        return self._holds


class _Still:
    """Pictures that have been the same for a while."""

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._kinds: deque[Points] = deque(maxlen=KINDS_OF_SAME)
        self._since_ns = 0
        self._count = 0

    def look(self, points: Points, capture_ns: int) -> bool:
        if not self._hold_s:
            return False
        if not any(_is_same(points, kind) for kind in reversed(self._kinds)):
            if self._kinds and not _is_same(points, self._kinds[-1], NEAR_MEAN):
                self._kinds.clear()
            self._kinds.append(points)
            self._since_ns, self._count = capture_ns, 0
        self._count += 1
        return self._count >= LEAST_SAME and capture_ns - self._since_ns >= self._hold_s * SECOND_NS


class _Loop:
    """Pictures that come again in the same order, each exactly as it was. What stands still counts
    as one picture."""

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._ring = [0] * LONGEST_LOOP
        self._last: dict[int, int] = {}  # digest of a picture: its newest number
        self._number = 0
        self._lag = 0  # the picture so many before is expected again
        self._run = 0  # so many have been as expected
        self._since_ns = 0

    def look(self, points: Bytes, capture_ns: int) -> bool:
        if not self._hold_s:
            return False
        digest = zlib.crc32(points.tobytes())
        if digest != self._ring[(self._number - 1) % LONGEST_LOOP]:
            self._add(digest, capture_ns)
        long = capture_ns - self._since_ns >= self._hold_s * SECOND_NS
        return self._lag >= SHORTEST_LOOP and self._run >= self._lag and long

    def _add(self, digest: int, capture_ns: int) -> None:
        number, place = self._number, self._number % LONGEST_LOOP
        before = self._last.get(digest)
        if self._lag and self._ring[(number - self._lag) % LONGEST_LOOP] == digest:
            self._run += 1
        else:
            self._lag = 0 if before is None else number - before
            self._run, self._since_ns = 0, capture_ns
        if self._last.get(self._ring[place]) == number - LONGEST_LOOP:
            del self._last[self._ring[place]]
        self._ring[place] = digest
        self._last[digest] = number
        self._number += 1


def _is_same(one: Points, other: Points, mean: float = SAME_MEAN) -> bool:
    apart = np.abs(one - other)
    return float(apart.mean()) <= mean and int(apart.max()) <= SAME_POINT
