"""Hands cut out of photographs.

A photograph of a hand tells where it is by a box, and its colour is one that few rooms have: what
is of such a colour in the box begins the mask, and what lies outside and is not of it begins the
ground.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.world.cutting import Mask, Picture, cut_out

_MARGIN = 0.12  # of the box, that is looked at around it
_LEAST_SKIN = 0.15  # share of the box that must be of skin's colour for a hand to be found
_MOST_SKIN = 0.6  # share of what is around the box: a wooden door hides a hand
_LEAST_OF_MASK = 0.75  # share of a mask that must be of skin's colour
_WIDEST = 1.3  # times its height: a hand that comes from the side has no wrist below
_EXAMINED_ONE_IN = 5


@dataclass(frozen=True, slots=True)
class Hand:
    """A photograph of a hand. box: middle, width and height in shares of the picture."""

    path: Path
    box: tuple[float, float, float, float]

    @property
    def split(self) -> str:
        return (
            "held_out" if zlib.crc32(self.path.stem.encode()) % _EXAMINED_ONE_IN == 0 else "train"
        )


def hands(folder: Path) -> Iterator[Hand]:
    """Every photograph of one hand in the folder `hands`."""
    for label in sorted((folder / "hands" / "labels").glob("*.txt")):
        lines = label.read_text().split("\n")
        rows = [line.split() for line in lines if line.strip()]
        path = folder / "hands" / "images" / f"{label.stem}.jpg"
        if len(rows) == 1 and path.is_file():
            x, y, width, height = (float(each) for each in rows[0][1:5])
            yield Hand(path, (x, y, width, height))


def cut_hand(picture: Picture, hand: Hand) -> NDArray[np.uint8] | None:
    """The hand [height, width, 4] of a picture [height, width, 3], fingers up, cut to what shows;
    None where it cannot be told from what is behind it."""
    rows, columns = picture.shape[:2]
    x, y, width, height = hand.box
    wide, tall = width * (0.5 + _MARGIN), height * (0.5 + _MARGIN)
    left, right = (round(np.clip(each, 0, 1) * columns) for each in (x - wide, x + wide))
    top, bottom = (round(np.clip(each, 0, 1) * rows) for each in (y - tall, y + tall))
    near = picture[top:bottom, left:right]
    if min(near.shape[:2]) < 24:
        return None
    skin = is_skin(near)
    band = np.ones_like(skin)
    edge = max(2, round(_MARGIN * min(skin.shape)))
    band[edge:-edge, edge:-edge] = False
    if skin.mean() < _LEAST_SKIN or skin[band].mean() > _MOST_SKIN:
        return None
    alpha = cut_out(near, skin)
    if alpha is None or skin[alpha > 0.5].mean() < _LEAST_OF_MASK:
        return None
    shown = np.argwhere(alpha > 0.5)
    (first, low), (last, high) = shown.min(0), shown.max(0) + 1
    if high - low > _WIDEST * (last - first):
        return None
    box = np.s_[first:last, low:high]
    return np.concatenate([near[box], (255 * alpha[box][..., None]).astype(np.uint8)], axis=2)


def is_skin(picture: Picture) -> Mask:
    """Pixels of the colours that skin has, in chroma (Chai and Ngan 1999, a little wider)."""
    red, green, blue = np.moveaxis(picture.astype(np.float32), 2, 0)
    redness = 128 + 0.5 * red - 0.4187 * green - 0.0813 * blue
    blueness = 128 - 0.1687 * red - 0.3313 * green + 0.5 * blue
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    is_so = (redness > 135) & (redness < 178) & (blueness > 77) & (blueness < 128)
    found: Mask = is_so & (light > 45)
    return found
