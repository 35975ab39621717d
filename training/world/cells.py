"""Truth of the wide world per grid cell and per frame, for dense auxiliary targets of training."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from training.world.catalogue import ACTS, DRAWINGS, PAINTS, items
from training.world.clip import SIZE, Clip

IGNORE = -100
_CALM_FRAMES = 1


@lru_cache(maxsize=1)
def nouns() -> tuple[str, ...]:
    """What can stand in a cell, in a fixed order."""
    return tuple(dict.fromkeys([*(item.noun for item in items()), *DRAWINGS, "sign", "price"]))


def channels() -> dict[str, int]:
    """Integer channels of a cell, and how many classes each has."""
    return {"present": 2, "noun": len(nouns()), "colour": len(PAINTS), "act": len(ACTS)}


def cell_truth(clip: Clip, grid: int) -> NDArray[np.int64]:
    """Labels [frames, grid², channels] of the cells that hold centres of things that are there.

    IGNORE where a channel does not apply, and in all channels where a thing is half there. Of two
    in one cell the one of which more shows is told.
    """
    labels = np.full((len(clip), grid * grid, len(channels())), IGNORE, np.int64)
    labels[..., 0] = 0
    unit, paints = SIZE / grid, list(PAINTS)
    for frame in range(len(clip)):
        shown = [t for t in clip.things if clip.visible[frame, t.ident] > 0]
        for thing in sorted(shown, key=lambda t: float(clip.visible[frame, t.ident])):
            left, top, right, bottom = clip.boxes[frame, thing.ident]
            column = min(int((left + right) / 2 // unit), grid - 1)
            row = min(int((top + bottom) / 2 // unit), grid - 1)
            cell = labels[frame, row * grid + column]
            if clip.there(frame, thing.ident) is not True:
                cell[:] = IGNORE
                continue
            act = clip.act(frame, thing.ident)
            cell[:] = (
                1,
                nouns().index(thing.noun),
                paints.index(thing.colour) if thing.colour else IGNORE,
                IGNORE if act is None else ACTS.index(act),
            )
    return labels


def is_calm(clip: Clip) -> NDArray[np.bool_]:
    """[frames]: whether nothing happens in a frame or next to it, so that what is understood of it
    should change smoothly: the temporal consistency loss counts there alone."""
    calm = np.ones(len(clip), bool)
    for event in clip.events:
        if event.kind not in ("moved", "crossed"):  # motion is smooth
            calm[max(event.start - _CALM_FRAMES, 0) : event.frame + _CALM_FRAMES + 1] = False
    debatable = (clip.presence < 0).any(axis=1)
    return calm & ~debatable
