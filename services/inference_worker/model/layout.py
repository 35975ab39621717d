"""Layouts of frames: the tokens and positions that they become. No tensors here."""

from dataclasses import dataclass

from sightline.errors import InvalidArgumentError

VISION = -1
"""Where a token of the encoded picture stands among a segment's words."""


MOST_CELLS = 1280
LARGEST_CELL = 32


def largest_frame_pixels(frame_pixels: int, cell: int = LARGEST_CELL) -> int:
    """Pixels of the largest frame that a model of several sizes takes: `MOST_CELLS` squares, or
    more where its usual frames have `frame_pixels`. cell: pixels of a square's side; of no
    published family more than `LARGEST_CELL`."""
    return max(frame_pixels, MOST_CELLS * cell**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLayout:
    """Layout of frames of one size; all frames of a session share one.

    `width`, `height` in pixels. `vision_tokens` come from one tubelet. `segment_tokens` is the most
    a segment holds, words around the picture included, and `segment_advance` the most it moves the
    cursor.
    """

    width: int
    height: int
    vision_tokens: int
    segment_tokens: int
    segment_advance: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one RGB24 frame."""
        return self.width * self.height * 3

    def check_only(self, width: int, height: int) -> None:
        """Refuse frames of another size, for models of one. Raises InvalidArgumentError."""
        if (width, height) != (self.width, self.height):
            raise InvalidArgumentError(
                f"frames of {width}×{height}; this model takes {self.width}×{self.height}"
            )


@dataclass(frozen=True, slots=True)
class SegmentTokens:
    """One segment: token ids with `VISION` where the picture goes, and each one's (t, h, w)."""

    tokens: list[int]
    positions: list[tuple[int, int, int]]
    advance: int
