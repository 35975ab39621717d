"""Pictures of single things: textures, and patches of them at a size, angle and place.

Everything is premultiplied float32 RGBA [height, width, 4], 0…255 (alpha 0…1). Sizes and angles are
rounded, so that patches repeat and the cache answers for most of them.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.rendering import sprite
from training.world.atlas import LETTER_HEIGHT, LETTERS, SIDE, atlas
from training.world.catalogue import PAINTS, items
from training.world.drawings import drawing
from training.world.goods import goods

Texture = NDArray[np.float32]
Box = tuple[float, float, float, float]  # left, top, right, bottom
ANGLE_STEP = 3
STAGES = 24  # of a drawing
ARM = 4.2  # height of hand and arm together, in widths of the hand
_SUBPIXELS = 4
_CACHED_UP_TO = 72  # pixels; larger patches are for files, not for training


@dataclass(frozen=True, slots=True)
class Look:
    """Look of a thing, whatever its size.

    item: index in `items()`, or −1 for a card with `text` or a drawing (then `drawing` names it).
    photo: index of a cut-out of `goods()`, where it is a real thing; whole: of a whole photograph;
    hand: of a hand, which has an arm, in a sleeve of `ink` where that is not "". paint: name in
    PAINTS, "" for as it is. ink: the paint of letters and strokes. face: of letters.
    """

    item: int = -1
    paint: str = ""
    text: str = ""
    drawing: str = ""
    ink: str = ""
    face: int = 0
    mirrored: bool = False
    photo: int = -1
    whole: int = -1
    hand: int = -1


@dataclass(frozen=True, slots=True)
class Patch:
    """Pixels whose first lies at (left, top); the box of what is opaque; the sum of alpha."""

    pixels: Texture
    left: int
    top: int
    box: Box
    area: float


@lru_cache(maxsize=256)
def texture(look: Look, stage: int = STAGES) -> tuple[Texture, ...]:
    """The thing upright in full size, then halved again and again: a patch samples the nearest."""
    full = _texture(look, stage)
    quarter = np.float32(0.25)
    levels = [np.pad(full, ((1, 1), (1, 1), (0, 0)))]
    while min(full.shape[:2]) >= 16:
        even = full[: full.shape[0] // 2 * 2, : full.shape[1] // 2 * 2]
        full = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) * quarter
        levels.append(np.pad(full, ((1, 1), (1, 1), (0, 0))))
    return tuple(levels)


def _texture(look: Look, stage: int) -> Texture:
    if look.drawing:
        mask = drawing(look.drawing, stage / STAGES)
        return _flat(mask, PAINTS[look.ink])
    if look.text:
        return _card(look)
    if look.photo >= 0:
        return _premultiplied(goods().pictures[look.photo], look.mirrored)
    if look.hand >= 0:
        hand = _premultiplied(goods().hands[look.hand], look.mirrored)
        return _with_real_arm(hand, PAINTS[look.ink] if look.ink else None)
    if look.whole >= 0:
        opaque = np.pad(goods().wholes[look.whole], ((0, 0), (0, 0), (0, 1)), constant_values=255)
        return _premultiplied(opaque, look.mirrored)
    item = items()[look.item]
    if not item.code:
        return _flat(sprite(item.noun, SIDE, SIDE, 0, 0)[1:-1, 1:-1, 0], PAINTS[look.paint])
    straight: Texture = atlas().sprites[look.item].astype(np.float32)
    if look.paint:
        straight[..., :3] = _tinted(straight[..., :3], PAINTS[look.paint])
    whole = _premultiplied(straight, look.mirrored)
    return _with_arm(whole) if item.group == "hand" else whole


def _premultiplied(straight: NDArray[Any], mirrored: bool) -> Texture:
    """Straight RGBA [height, width, 4], 0…255, as everything is here."""
    wide = straight[:, ::-1].astype(np.float32) if mirrored else straight.astype(np.float32)
    alpha = wide[..., 3:] / 255
    return np.ascontiguousarray(np.concatenate([wide[..., :3] * alpha, alpha], axis=2))


def _flat(mask: NDArray[np.float32], paint: tuple[int, int, int]) -> Texture:
    return np.concatenate(
        [mask[..., None] * np.array(paint, np.float32), mask[..., None]], axis=2
    ).astype(np.float32)


def _tinted(straight: Texture, paint: tuple[int, int, int]) -> Texture:
    """Sprite whose saturated parts take the paint and keeps its light and shade."""
    value = straight.max(axis=2, keepdims=True)
    saturation = (value - straight.min(axis=2, keepdims=True)) / np.maximum(value, 1)
    share = np.clip((saturation - 0.08) / 0.12, 0, 1)
    middle = np.median(value[saturation > 0.35]) if (saturation > 0.35).any() else 200.0
    light = np.clip(value / middle, 0.35, 1.25)
    painted: Texture = straight * (1 - share) + np.array(paint, np.float32) * light * share
    return np.clip(painted, 0, 255)


def _with_arm(fist: Texture) -> Texture:
    """A forearm below the fist, in the colour of its middle, a little darker to the sides."""
    height = int(SIDE * (ARM - 1)) + 14
    skin = fist[SIDE // 2, SIDE // 2, :3]
    across = np.linspace(-1, 1, int(SIDE * 0.62), dtype=np.float32)
    arm = np.zeros((height, SIDE, 4), np.float32)
    left = (SIDE - len(across)) // 2
    shade = (1 - 0.22 * across**2)[None, :, None]
    arm[:, left : left + len(across), :3] = skin * shade
    arm[:, left : left + len(across), 3] = 1
    return _on_arm(fist, arm)


def _with_real_arm(hand: Texture, sleeve: tuple[int, int, int] | None) -> Texture:
    """A forearm below a photographed hand, as wide as the wrist and wider below, in the colour of
    its lower rows, or from a little way below in a sleeve."""
    side = len(hand)
    wrist = hand[-side // 12 :]
    across = np.flatnonzero(wrist[..., 3].mean(0) > 0.5)
    left, right = (
        (int(across[0]), int(across[-1]) + 1) if len(across) else (side // 3, 2 * side // 3)
    )
    half, middle = max((right - left) / 2, side / 8), (left + right) / 2
    weight = max(float(wrist[..., 3].sum()), 1.0)
    skin = wrist[..., :3].sum((0, 1)) / weight
    height = int(side * (ARM - 1)) + side // 12
    below = np.arange(height, dtype=np.float32)[:, None] / side
    widths = half * (1 + 0.12 * below)
    bare = 0.35
    if sleeve is not None:
        widths = np.where(below < bare, widths, widths * 1.25 + 2)
    beside = (np.arange(side, dtype=np.float32)[None] + 0.5 - middle) / widths
    cover = np.clip((1 - np.abs(beside)) * widths + 0.5, 0, 1)
    shade = (1.02 - 0.3 * np.square(np.clip(beside, -1, 1)))[..., None]
    colour = np.broadcast_to(skin, (height, side, 3)).copy()
    if sleeve is not None:
        folds = 0.55 + 0.06 * np.sin(below * 23 + 1.3)
        colour = np.where(below[..., None] < bare, colour, folds[..., None] * np.array(sleeve))
    arm = np.concatenate(
        [np.clip(colour * shade, 0, 255) * cover[..., None], cover[..., None]], axis=2
    )
    return _on_arm(hand, arm)


def _on_arm(hand: Texture, arm: Texture) -> Texture:
    """A square hand with its arm below, which it hides where they meet."""
    side = len(hand)
    whole = np.zeros((int(side * ARM), side, 4), np.float32)
    whole[-len(arm) :] = arm
    top = whole[:side]
    top[:] = hand + top * (1 - hand[..., 3:])
    return whole


def _card(look: Look) -> Texture:
    """A card of one paint with a border, its text printed in another. "|" begins a new line."""
    store, border, gap = atlas(), 5, 0
    lines: list[NDArray[np.uint8]] = []
    for line in look.text.upper().split("|"):
        cells: list[NDArray[np.uint8]] = []
        for letter in line:
            if letter == " ":
                cells.append(np.zeros((LETTER_HEIGHT, 12), np.uint8))
                continue
            index = LETTERS.index(letter)
            width = int(store.advances[look.face, index])
            cells.append(store.letters[look.face, index, :, : min(width, LETTER_HEIGHT)])
        lines.append(np.concatenate(cells, axis=1))
    width = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, gap), _both(width - line.shape[1]))) for line in lines]
    coverage = np.concatenate(padded).astype(np.float32)[..., None] / 255
    coverage = np.pad(coverage, ((border, border), (border + 2, border + 2), (0, 0)))
    paper = np.array(PAINTS[look.paint], np.float32)
    colour = paper * (1 - coverage) + np.array(PAINTS[look.ink], np.float32) * coverage
    colour[:2] = colour[-2:] = colour[:, :2] = colour[:, -2:] = paper * 0.6
    return np.concatenate([colour, np.ones_like(coverage)], axis=2).astype(np.float32)


def _both(room: int) -> tuple[int, int]:
    return room // 2, room - room // 2


def aspect(look: Look) -> float:
    """Width ÷ height of the upright thing."""
    height, width = texture(look)[0].shape[:2]
    return float((width - 2) / (height - 2))


def patch(look: Look, stage: int, size: float, angle: float, x: float, y: float) -> Patch:
    """A thing whose longer side is `size` pixels, turned by `angle`° and centred at (x, y)."""
    steps_x, steps_y = round(x * _SUBPIXELS), round(y * _SUBPIXELS)
    whole_x, rest_x = divmod(steps_x, _SUBPIXELS)
    whole_y, rest_y = divmod(steps_y, _SUBPIXELS)
    rounded, steps = max(round(size), 2), round(angle / ANGLE_STEP)
    make = _warped if rounded <= _CACHED_UP_TO else _warped_large
    pixels, box, area = make(look, stage, rounded, steps, rest_x, rest_y)
    left, top = whole_x - pixels.shape[1] // 2, whole_y - pixels.shape[0] // 2
    moved = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
    return Patch(pixels, left, top, moved, area)


@lru_cache(maxsize=2048)
def _warped(
    look: Look, stage: int, size: int, steps: int, rest_x: int, rest_y: int
) -> tuple[Texture, Box, float]:
    levels = texture(look, stage)
    longest = max(levels[0].shape[:2]) - 2
    level = 0
    while level + 1 < len(levels) and longest / 2 ** (level + 1) >= size * 0.85:
        level += 1
    source = levels[level]
    rows, columns = source.shape[0] - 2, source.shape[1] - 2
    zoom = max(rows, columns) / size  # texture pixels per patch pixel
    radians = np.deg2rad(steps * ANGLE_STEP)
    cos, sin = float(np.cos(radians)), float(np.sin(radians))
    width, height = columns / zoom, rows / zoom
    half_w = int((abs(cos) * width + abs(sin) * height) / 2) + 2
    half_h = int((abs(sin) * width + abs(cos) * height) / 2) + 2
    dx = np.arange(-half_w, half_w + 1, dtype=np.float32)[None, :] - rest_x / _SUBPIXELS + 0.5
    dy = np.arange(-half_h, half_h + 1, dtype=np.float32)[:, None] - rest_y / _SUBPIXELS + 0.5
    u = (cos * dx + sin * dy) * zoom + columns / 2 + 0.5
    v = (cos * dy - sin * dx) * zoom + rows / 2 + 0.5
    u = np.clip(u, 0, columns + 0.999)
    v = np.clip(v, 0, rows + 0.999)
    left, top = u.astype(np.int32), v.astype(np.int32)
    share_u, share_v = (u - left)[..., None], (v - top)[..., None]
    upper = source[top, left] * (1 - share_u) + source[top, left + 1] * share_u
    lower = source[top + 1, left] * (1 - share_u) + source[top + 1, left + 1] * share_u
    pixels = (upper * (1 - share_v) + lower * share_v).astype(np.float32)
    opaque = pixels[..., 3] > 0.4
    across, down = np.flatnonzero(opaque.any(axis=0)), np.flatnonzero(opaque.any(axis=1))
    if not len(across):
        return pixels, (half_w, half_h, half_w, half_h), 0.0
    box = (int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1)
    return pixels, box, float(pixels[..., 3].sum())


# Large ones take up to megabytes: only what lies still from frame to frame is worth keeping.
_warped_large = lru_cache(maxsize=32)(_warped.__wrapped__)
