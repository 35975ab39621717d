"""Line drawings as strokes, drawn one after another as with a pen."""

import itertools
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_SIDE = 64
_PEN = 2.6  # half the width of a stroke, in texture pixels


def _arc(
    x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360
) -> list[tuple[float, float]]:
    angles = np.deg2rad(np.linspace(start, end, 17))
    return [(x + rx * float(np.cos(a)), y + ry * float(np.sin(a))) for a in angles]


def _spikes(number: int, inner: float) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    for k in range(2 * number + 1):
        radius = 0.5 if k % 2 == 0 else inner
        angle = np.pi * k / number - np.pi / 2
        points.append((0.5 + radius * float(np.cos(angle)), 0.52 + radius * float(np.sin(angle))))
    return points


def _rays() -> list[list[tuple[float, float]]]:
    found: list[list[tuple[float, float]]] = []
    for k in range(8):
        cos, sin = float(np.cos(np.pi * k / 4)), float(np.sin(np.pi * k / 4))
        found.append([(0.5 + r * cos, 0.5 + r * sin) for r in (0.34, 0.5)])
    return found


@lru_cache(maxsize=1)
def _strokes() -> dict[str, list[list[tuple[float, float]]]]:
    """Strokes of each drawing, in a box of 0…1."""
    heart = [
        (0.5 + 0.5 * float(np.sin(t)) ** 3, 0.46 - _heart(t)) for t in np.linspace(0, 6.2832, 33)
    ]
    petals = [
        _arc(0.5 + 0.2 * np.cos(a), 0.3 + 0.2 * np.sin(a), 0.12, 0.12)
        for a in np.linspace(0, 5.03, 5)
    ]
    return {
        "clock": [
            _arc(0.5, 0.5, 0.48, 0.48),
            [(0.5, 0.5), (0.5, 0.14)],
            [(0.5, 0.5), (0.76, 0.62)],
            *_ticks(),
        ],
        "snowman": [
            _arc(0.5, 0.68, 0.32, 0.31),
            _arc(0.5, 0.24, 0.17, 0.16),
            [(0.3, 0.1), (0.7, 0.1)],
            [(0.38, 0.1), (0.38, 0.0), (0.62, 0.0), (0.62, 0.1)],
            _arc(0.44, 0.21, 0.015, 0.02),
            _arc(0.56, 0.21, 0.015, 0.02),
            [(0.5, 0.26), (0.6, 0.29)],
            *(_arc(0.5, y, 0.015, 0.015) for y in (0.54, 0.66, 0.78)),
        ],
        "balloon": [
            _arc(0.5, 0.3, 0.29, 0.3),
            [(0.5, 0.6), (0.45, 0.66), (0.55, 0.66), (0.5, 0.6)],
            [(0.5, 0.66), (0.44, 0.76), (0.54, 0.88), (0.48, 1.0)],
        ],
        "gift": [
            [(0.1, 0.3), (0.1, 0.98), (0.9, 0.98), (0.9, 0.3), (0.1, 0.3)],
            [(0.5, 0.3), (0.5, 0.98)],
            [(0.1, 0.6), (0.9, 0.6)],
            _arc(0.36, 0.17, 0.15, 0.11),
            _arc(0.64, 0.17, 0.15, 0.11),
        ],
        "cat": [
            _arc(0.5, 0.58, 0.4, 0.4),
            _arc(0.36, 0.48, 0.04, 0.05),
            _arc(0.64, 0.48, 0.04, 0.05),
            _arc(0.5, 0.66, 0.18, 0.14, 20, 160),
            [(0.16, 0.38), (0.14, 0.04), (0.38, 0.21)],
            [(0.62, 0.21), (0.86, 0.04), (0.84, 0.38)],
            *(
                [(x, y), (x + way * 0.3, y + slope)]
                for way, x in ((-1, 0.4), (1, 0.6))
                for y, slope in ((0.64, -0.04), (0.68, 0.04))
            ),
        ],
        "umbrella": [
            _arc(0.5, 0.45, 0.46, 0.42, 180, 360),
            [(0.04, 0.45), (0.96, 0.45)],
            [(0.5, 0.45), (0.5, 0.88)],
            _arc(0.59, 0.88, 0.09, 0.09, 0, 180),
        ],
        "house": [
            [(0.12, 0.45), (0.12, 0.97), (0.88, 0.97), (0.88, 0.45)],
            [(0.0, 0.5), (0.5, 0.03), (1.0, 0.5)],
            [(0.4, 0.97), (0.4, 0.66), (0.62, 0.66), (0.62, 0.97)],
        ],
        "sun": [_arc(0.5, 0.5, 0.24, 0.24), *_rays()],
        "tree": [[(0.5, 1.0), (0.5, 0.55)], _arc(0.5, 0.3, 0.34, 0.28), [(0.3, 1.0), (0.7, 1.0)]],
        "boat": [
            [(0.02, 0.68), (0.2, 0.95), (0.8, 0.95), (0.98, 0.68), (0.02, 0.68)],
            [(0.5, 0.68), (0.5, 0.05)],
            [(0.5, 0.08), (0.88, 0.55), (0.5, 0.55)],
        ],
        "fish": [
            _arc(0.4, 0.5, 0.38, 0.25),
            [(0.76, 0.5), (1.0, 0.25), (1.0, 0.75), (0.76, 0.5)],
            _arc(0.22, 0.45, 0.03, 0.03),
        ],
        "star": [_spikes(5, 0.2)],
        "heart": [heart],
        "cup": [
            [(0.1, 0.2), (0.18, 0.95), (0.66, 0.95), (0.74, 0.2), (0.1, 0.2)],
            _arc(0.72, 0.5, 0.22, 0.2, -80, 90),
        ],
        "flower": [_arc(0.5, 0.3, 0.09, 0.09), *petals, [(0.5, 0.62), (0.5, 1.0)]],
        "face": [
            _arc(0.5, 0.5, 0.48, 0.48),
            _arc(0.33, 0.38, 0.05, 0.06),
            _arc(0.67, 0.38, 0.05, 0.06),
            _arc(0.5, 0.55, 0.25, 0.22, 20, 160),
        ],
    }


def _ticks() -> list[list[tuple[float, float]]]:
    found: list[list[tuple[float, float]]] = []
    for k in range(4):
        cos, sin = float(np.cos(np.pi * k / 2)), float(np.sin(np.pi * k / 2))
        found.append([(0.5 + r * cos, 0.5 + r * sin) for r in (0.38, 0.46)])
    return found


def _heart(t: float) -> float:
    curve = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return float(curve) / 32


# Drawings whose first strokes are something else, with the number of those strokes.
BEGINNINGS = {
    "sun": (1, "circle"),
    "face": (1, "circle"),
    "clock": (1, "circle"),
    "balloon": (1, "circle"),
    "gift": (1, "square"),
    "cat": (4, "face"),
}


def _parts(name: str) -> list[list[tuple[float, float]]]:
    """Strokes of a drawing, or with "name:n" the first n of them, where they are in the whole."""
    whole, _, number = name.partition(":")
    return _strokes()[whole][: int(number) if number else None]


def share_of(name: str, strokes: int) -> float:
    """Share of a drawing that its first strokes are."""
    return (len(_nearest(f"{name}:{strokes}")) - 1) / (len(_nearest(name)) - 1)


@lru_cache(maxsize=32)
def _nearest(name: str) -> NDArray[np.float32]:
    """[segments + 1, 64, 64]: distance to the nearest of the first n segments, in pixels."""
    margin = _PEN + 0.5
    scale = _SIDE - 2 * margin
    ys, xs = np.mgrid[0:_SIDE, 0:_SIDE].astype(np.float32) + 0.5
    best = np.full((_SIDE, _SIDE), 1e3, np.float32)
    found = [best]
    for stroke in _parts(name):
        points = [(margin + x * scale, margin + y * scale) for x, y in stroke]
        for (ax, ay), (bx, by) in itertools.pairwise(points):
            pieces = max(int(np.hypot(bx - ax, by - ay) / 6), 1)  # long lines are drawn slowly too
            for k in range(pieces):
                px, py = ax + (bx - ax) * k / pieces, ay + (by - ay) * k / pieces
                dx, dy = (bx - ax) / pieces, (by - ay) / pieces
                along = ((xs - px) * dx + (ys - py) * dy) / max(dx * dx + dy * dy, 1e-6)
                along = np.clip(along, 0, 1)
                distance = np.hypot(xs - px - along * dx, ys - py - along * dy)
                best = np.minimum(best, distance).astype(np.float32)
                found.append(best)
    return np.stack(found)


def drawing(name: str, share: float) -> NDArray[np.float32]:
    """Coverage [64, 64], 0…1, of the first `share` of a drawing's strokes."""
    stack = _nearest(name)
    index = int(np.ceil(share * (len(stack) - 1)))
    coverage: NDArray[np.float32] = np.clip(_PEN + 0.5 - stack[index], 0, 1)
    return coverage


SKETCHES = tuple(_strokes())
