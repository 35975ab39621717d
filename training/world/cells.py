"""Truth of the wide world per grid cell and per frame, for dense auxiliary targets of training."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from training.world.catalogue import ACTS, DRAWINGS, PAINTS, SIGN_WORDS, items
from training.world.clip import SIZE, Clip
from training.world.goods import REAL_NOUNS
from training.world.shop import BANNERS

IGNORE = -100
LAG_FRAMES = 4
_FRESH_FRAMES = 4
_CALM_FRAMES = 1
CHANGES = (
    *("nothing", "came", "went", "moved", "grew", "shrank"),
    *("blinked", "swapped", "held", "freed", "repriced", "crossed"),
)
PICTURE_CHANNELS = ("present", "noun", "colour", "text")


@lru_cache(maxsize=1)
def nouns() -> tuple[str, ...]:
    """Nouns that can stand in a cell, in a fixed order."""
    drawn = [*(item.noun for item in items()), *DRAWINGS, "sign", "price"]
    return tuple(dict.fromkeys([*drawn, *REAL_NOUNS]))


@lru_cache(maxsize=1)
def texts() -> dict[str, int]:
    """Texts that a sign or a tag can say, with their classes."""
    numbers = map(str, range(100))
    return {text: n for n, text in enumerate(dict.fromkeys([*BANNERS, *SIGN_WORDS, *numbers]))}


@lru_cache(maxsize=1)
def channels() -> dict[str, int]:
    """Integer channels of a cell, and how many classes each has. "change…": what has happened to a
    thing in the last frames, where it is or was last seen."""
    looks = {"noun": len(nouns()), "colour": len(PAINTS)}
    return {
        "present": 2,
        **looks,
        "act": len(ACTS),
        "text": len(texts()),
        "change": len(CHANGES),
        **{f"changed_{name}": number for name, number in looks.items()},
    }


def cell_truth(clip: Clip, grid: int) -> NDArray[np.int64]:
    """Labels [frames, grid², channels] of the cells that hold centres of things that are there.

    IGNORE where a channel does not apply, and in all channels where a thing is half there. Of two
    in one cell the one of which more shows is told.
    """
    names = list(channels())
    told, change = names.index("text") + 1, names.index("change")
    labels = np.full((len(clip), grid * grid, len(names)), IGNORE, np.int64)
    labels[..., 0] = labels[..., change] = 0
    cells = _cells(clip, grid)
    looks = [(nouns().index(t.noun), _paint(t.colour)) for t in clip.things]
    for frame in range(len(clip)):
        shown = [t for t in clip.things if clip.visible[frame, t.ident] > 0]
        for thing in sorted(shown, key=lambda t: float(clip.visible[frame, t.ident])):
            cell = labels[frame, cells[frame, thing.ident]]
            if clip.there(frame, thing.ident) is not True:
                cell[:change] = IGNORE
                continue
            act = clip.act(frame, thing.ident)
            text = texts().get(thing.text.lower().removeprefix("$"), IGNORE)
            doing = IGNORE if act is None else ACTS.index(act)
            cell[:told] = (1, *looks[thing.ident], doing, text)
    for event in clip.events:
        ident = event.things[0]
        for frame in range(max(event.frame, 1), min(event.frame + _FRESH_FRAMES, len(clip))):
            seen = np.flatnonzero(clip.visible[: frame + 1, ident] > 0)
            if len(seen):
                cell = labels[frame, cells[seen[-1], ident]]
                cell[change:] = (CHANGES.index(event.kind), *looks[ident])
    return labels


def _paint(colour: str) -> int:
    return list(PAINTS).index(colour) if colour else IGNORE


def _cells(clip: Clip, grid: int) -> NDArray[np.int64]:
    """[frames, things]: the cell of each one's centre."""
    centres = (clip.boxes[..., :2] + clip.boxes[..., 2:]) / 2
    at = np.clip(centres // (SIZE / grid), 0, grid - 1).astype(np.int64)
    cells: NDArray[np.int64] = at[..., 1] * grid + at[..., 0]
    return cells


def cell_measures(clip: Clip, grid: int) -> NDArray[np.float32]:
    """[frames, grid², 4] in cells, NaN where unknown: the offset (x, y) of a thing's centre from
    the middle of its cell, and the way (x, y) it came in the last LAG_FRAMES frames."""
    measures = np.full((len(clip), grid * grid, 4), np.nan, np.float32)
    centres = (clip.boxes[..., :2] + clip.boxes[..., 2:]) / 2 / (SIZE / grid)
    cells = _cells(clip, grid)
    for frame, ident in np.argwhere(clip.presence == 1):
        cell = measures[frame, cells[frame, ident]]
        cell[:] = np.nan
        cell[:2] = centres[frame, ident] % 1 - 0.5
        if frame >= LAG_FRAMES and clip.presence[frame - LAG_FRAMES, ident] == 1:
            cell[2:] = centres[frame, ident] - centres[frame - LAG_FRAMES, ident]
    return measures


def is_calm(clip: Clip) -> NDArray[np.bool_]:
    """[frames]: whether nothing happens in a frame or next to it, so that what is understood of it
    should change smoothly: the temporal consistency loss counts there alone."""
    calm = np.ones(len(clip), bool)
    for event in clip.events:
        if event.kind not in ("moved", "crossed"):  # motion is smooth
            calm[max(event.start - _CALM_FRAMES, 0) : event.frame + _CALM_FRAMES + 1] = False
    debatable = (clip.presence < 0).any(axis=1)
    return calm & ~debatable
