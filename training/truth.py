"""Ground truth per grid cell, for the dense auxiliary targets of training."""

import numpy as np
from numpy.typing import NDArray

from training.questions import motion_of
from training.vocabulary import COLOURS, DIRECTIONS, SHAPES
from training.world.shapes import SIZE, Clip

IGNORE = -100
FRESH_FRAMES = 4
LAG_FRAMES = 4
MOTIONS = ("still", *DIRECTIONS)
CHANGES = ("nothing", "appeared", "disappeared", "turned")
# Integer channels of a cell, and how many classes each has.
CHANNELS = {
    "present": 2,
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "motion": len(MOTIONS),
    "change": len(CHANGES),
    "changed_colour": len(COLOURS),
    "changed_shape": len(SHAPES),
    "before": len(COLOURS),
}
PICTURE_CHANNELS = ("present", "colour", "shape")


def cell_truth(clip: Clip, grid: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Truth about every cell of every frame.

    Returns labels [frames, grid², channels], IGNORE where a channel does not apply, and measures
    [frames, grid², 4] in cells, NaN where unknown: the offset (x, y) of the centre from the cell's
    middle, and the way (x, y) the thing came in the last LAG_FRAMES frames.
    A thing belongs to the cell of its centre; a change stays for FRESH_FRAMES at the cell of the
    thing, or where it was last seen.
    """
    names = list(CHANNELS)
    labels = np.full((len(clip), grid * grid, len(names)), IGNORE, np.int64)
    measures = np.full((len(clip), grid * grid, 4), np.nan, np.float32)
    labels[..., names.index("present")] = 0
    labels[..., names.index("change")] = 0
    unit = SIZE / grid

    def cell_at(x: float, y: float) -> int:
        return int(y // unit) * grid + int(x // unit)

    for frame in range(len(clip)):
        present = clip.present(frame)
        for thing in present:
            cell = cell_at(thing.x, thing.y)
            motion = motion_of(clip, frame, thing)
            labels[frame, cell, :4] = (
                1,
                COLOURS.index(thing.colour),
                SHAPES.index(thing.shape),
                IGNORE if motion is None else MOTIONS.index(motion),
            )
            measures[frame, cell, :2] = (thing.x / unit % 1 - 0.5, thing.y / unit % 1 - 0.5)
            earlier = clip.frames[max(frame - LAG_FRAMES, 0)]
            for was in earlier if frame >= LAG_FRAMES else ():
                if was.ident == thing.ident and was.inside:
                    measures[frame, cell, 2:] = ((thing.x - was.x) / unit, (thing.y - was.y) / unit)
        for change in clip.changes:
            if not 0 <= frame - change.frame < FRESH_FRAMES or frame == 0:
                continue
            x, y = change.x, change.y
            for thing in present:
                if (thing.shape, thing.colour) == (change.shape, change.colour):
                    x, y = thing.x, thing.y
            labels[frame, cell_at(x, y), 4:] = (
                CHANGES.index(change.kind),
                COLOURS.index(change.colour),
                SHAPES.index(change.shape),
                COLOURS.index(change.before) if change.before else IGNORE,
            )
    return labels, measures
