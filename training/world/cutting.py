"""Cutting things out of photographs: a mask of what stands before a background that the edge of the
picture shows.

A small relative of GrabCut (Rother et al. 2004): colours of edge and middle are grouped, every
pixel is drawn to whichever it is nearer, and neighbours of like colour pull each other along (a
mean field of a Potts model). A mask that does not look like a thing is given up rather than taught.
"""

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

SIDE = 80  # longest side that is looked at
_EDGE = 0.06  # share of the sides that is believed to be background
_COLOURS = 5  # groups of each
_ROUNDS, _SWEEPS = 4, 6
_PULL = 1.6  # of all neighbours together
_LEAST, _MOST = 0.06, 0.82  # share of the picture that a thing takes
_MOST_AT_EDGE = 0.35  # share of the picture's edge that it may touch
_LEAST_INSIDE = 0.55  # share of the picture's middle that a thing takes
_MOST_RAGGED = 0.12  # share of a thing that is thinner than a few pixels
_THIN = 3
_LEAST_APART = 1.7  # times as far from the background's colours as the background itself


def cut_out(picture: Picture, likely: Mask | None = None) -> Plane | None:
    """Alpha [height, width] 0…1 of the thing in the middle of a picture [height, width, 3]; None
    where it cannot be told from what is behind it. likely: [height, width], pixels of its colours,
    where they are known; it may then lie at the edge too."""
    height, width = picture.shape[:2]
    step = max(1, round(max(height, width) / SIDE))
    small = _shrunk(picture, step)
    known = None if likely is None else _shrunk(likely[..., None] * np.uint8(255), step)[..., 0]
    found = _segment(_colours(small), None if known is None else known > 127)
    if found is None:
        return None
    alpha = _blurred(found.astype(np.float32))
    rows = np.clip((np.arange(height) + 0.5) / step - 0.5, 0, found.shape[0] - 1)
    columns = np.clip((np.arange(width) + 0.5) / step - 0.5, 0, found.shape[1] - 1)
    full = _sampled(alpha, rows, columns)
    return np.asarray(np.clip((full - 0.35) / 0.3, 0, 1), np.float32)


def _segment(colours: Plane, likely: Mask | None = None) -> Mask | None:
    height, width = colours.shape[:2]
    band = max(2, round(_EDGE * min(height, width)))
    edge = np.ones((height, width), bool)
    edge[band:-band, band:-band] = False
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    middle = (1 - np.hypot(x, y) / 1.2).astype(np.float32)  # things are in the middle, mostly
    flat = colours.reshape(-1, 3)
    if likely is not None:
        if (edge & ~likely).sum() < 30:
            return None
        edge &= ~likely
    back = _grouped(flat[edge.ravel()])
    away = _distance(flat, back).reshape(height, width)
    inside = (away > 1.5) & ~edge & (middle > 0)
    inside = inside if likely is None else likely & (away > 1.0)
    pulls = _likeness(colours)
    share = inside.astype(np.float32)
    for _ in range(_ROUNDS):
        if inside.sum() < 30 or (~inside).sum() < 30:
            return None
        front = _grouped(flat[inside.ravel()])
        far = _distance(flat, front).reshape(height, width)
        drawn = np.clip(away - far, -4, 4) + 0.8 * middle - 0.2
        drawn[edge] -= 1.0
        for _ in range(_SWEEPS):
            share = 1 / (1 + np.exp(-(drawn + _PULL * _pulled(2 * share - 1, pulls))))
        inside = share > 0.5
        back = _grouped(flat[~inside.ravel()])
        away = _distance(flat, back).reshape(height, width)
    thing = _filled(_largest(inside))
    taken, touched = float(thing.mean()), float(thing[_rim(thing)].mean())
    apart = float(away[thing].mean() / away[~thing].mean()) if thing.any() else 0.0
    good = _LEAST < taken < _MOST and touched < _MOST_AT_EDGE and apart > _LEAST_APART
    return thing if good and _is_whole(thing) else None


def _is_whole(thing: Mask) -> bool:
    """Whether a mask is of a whole thing: it takes the middle, and neither shadows nor holes have
    made rags of it."""
    rows, columns = thing.shape
    middle = thing[rows * 2 // 5 : rows * 3 // 5, columns * 2 // 5 : columns * 3 // 5]
    thick = _grown(~_grown(~thing, _THIN), _THIN) & thing
    ragged = 1 - float(thick.sum()) / float(thing.sum())
    return float(middle.mean()) > _LEAST_INSIDE and ragged < _MOST_RAGGED


def _grown(mask: Mask, pixels: int) -> Mask:
    """The mask and what is so near to it."""
    for _ in range(pixels):
        wide = np.pad(mask, 1, mode="edge")
        mask = wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2]
        mask = mask | wide[1:-1, 2:]
    return mask


def _colours(picture: Picture) -> Plane:
    """Lightness and two opponent colours, of about the same weight to the eye."""
    red, green, blue = np.moveaxis(picture.astype(np.float32) / 255, 2, 0)
    light = 0.3 * red + 0.6 * green + 0.1 * blue
    return np.stack([light, 1.2 * (red - green), 1.2 * (0.5 * (red + green) - blue)], axis=2)


def _grouped(colours: Plane) -> tuple[Plane, Plane]:
    """Means [groups, 3] and spreads [groups] of colours [n, 3], by k-means."""
    order = np.argsort(colours[:, 0], kind="stable")
    means = colours[order[np.linspace(0, len(order) - 1, _COLOURS).astype(int)]].copy()
    nearest = np.zeros(len(colours), int)
    for _ in range(6):
        nearest = _apart(colours, means).argmin(1)
        for group in range(_COLOURS):
            members = colours[nearest == group]
            if len(members):
                means[group] = members.mean(0)
    spread = np.full(_COLOURS, 0.04, np.float32)
    for group in range(_COLOURS):
        members = colours[nearest == group]
        if len(members):
            apart = np.square(members - means[group]).sum(1).mean()
            spread[group] = max(0.04, float(np.sqrt(apart)))
    return means.astype(np.float32), spread


def _distance(colours: Plane, groups: tuple[Plane, Plane]) -> Plane:
    """Distance to the nearest group, in its own spreads."""
    means, spread = groups
    return np.asarray((np.sqrt(_apart(colours, means)) / spread).min(1))


def _apart(colours: Plane, means: Plane) -> Plane:
    """Squared distances [n, groups] of colours [n, 3] and means [groups, 3]."""
    near = np.square(colours).sum(1)[:, None] - 2 * colours @ means.T + np.square(means).sum(1)
    return np.asarray(np.maximum(near, 0), np.float32)


_WAYS = ((0, 1), (1, 0), (1, 1), (1, -1))


def _likeness(colours: Plane) -> list[Plane]:
    """How much each pixel and its neighbour in each of four ways are of one colour."""
    found = []
    for down, across in _WAYS:
        other = np.roll(colours, (-down, -across), (0, 1))
        found.append(np.exp(-60 * np.square(colours - other).sum(2)).astype(np.float32) / 8)
    return found


def _pulled(field: Plane, pulls: list[Plane]) -> Plane:
    total = np.zeros_like(field)
    for (down, across), pull in zip(_WAYS, pulls, strict=True):
        total += pull * np.roll(field, (-down, -across), (0, 1))
        total += np.roll(pull * field, (down, across), (0, 1))
    return total


def _rim(mask: Mask) -> Mask:
    rim = np.ones_like(mask)
    rim[1:-1, 1:-1] = False
    return rim


def _spread(seed: Mask, within: Mask) -> Mask:
    """All of `within` that is joined to `seed`."""
    reached = seed & within
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= within
        if (grown == reached).all():
            return grown
        reached = grown


def _largest(mask: Mask) -> Mask:
    """The largest piece of a mask."""
    names = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    for _ in range(2 * sum(mask.shape)):  # a piece takes its greatest name, unless it is a maze
        before = names.copy()
        for view in (names, names.T):
            for one, other in ((view[1:], view[:-1]), (view[:-1], view[1:])):
                one[:] = np.maximum(one, other)
                names[~mask] = 0
        if (names == before).all():
            break
    sizes = np.bincount(names.ravel())
    sizes[0] = 0
    largest: Mask = names == sizes.argmax()
    return largest & mask


def _filled(mask: Mask) -> Mask:
    """The mask with its holes."""
    return ~_spread(_rim(mask), ~mask)


def _shrunk(picture: Picture, step: int) -> Picture:
    height, width = (side // step * step for side in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // step, step, width // step, step, -1)
    return np.asarray(blocks.mean((1, 3)), np.uint8)


def _blurred(plane: Plane) -> Plane:
    padded = np.pad(plane, 1, mode="edge")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4, np.float32)


def _sampled(plane: Plane, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Plane:
    """Values between the plane's, at these rows and columns."""
    top, left = rows.astype(int), columns.astype(int)
    bottom = np.minimum(top + 1, plane.shape[0] - 1)
    right = np.minimum(left + 1, plane.shape[1] - 1)
    down, across = (rows - top)[:, None], columns - left
    upper = plane[top][:, left] * (1 - across) + plane[top][:, right] * across
    lower = plane[bottom][:, left] * (1 - across) + plane[bottom][:, right] * across
    return np.asarray(upper * (1 - down) + lower * down, np.float32)
