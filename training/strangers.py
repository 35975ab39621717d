"""Pictures of no world of ours: what a model is to call unfamiliar, and is measured by."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import av
import numpy as np
from numpy.random import Generator

from services.gateway.frames.display import Display
from training.rendering import Pixels
from training.resizing import resized
from training.world.camera import through_codec
from training.world.goods import read

FOLDERS = ("clothing", "grocery", "packaging", "hands")  # of photographs that may be learnt from
NO_GOODS = ("packaging", "hands")  # those that a model of real goods does not know
_KEPT_ONE_IN = 5  # of them, to look at what was not learnt from
_FPS = 8.0

PATTERNS: Sequence[str] = (
    "testsrc2=size=640x360:rate=8",
    "mandelbrot=size=640x360:rate=8",
    "smptehdbars=size=640x360:rate=8",
    "cellauto=size=320x180:rate=8",
    "sierpinski=size=640x360:rate=8",
)


def photographs(folder: Path, names: Sequence[str] = FOLDERS) -> tuple[list[Path], list[Path]]:
    """Photographs to learn from, and others, of these folders."""
    found = sorted(path for name in names for path in (folder / name).rglob("*.jpg"))
    kept = [path for path in found if zlib.crc32(path.stem.encode()) % _KEPT_ONE_IN == 0]
    apart = set(kept)
    return [path for path in found if path not in apart], kept


def taken(paths: Sequence[Path], number: int, side: int, rng: Generator) -> Iterator[Pixels]:
    """So many pictures [side, side, 3] of photographs, each cut, lit, sharp and encoded in another
    way."""
    order = [int(each) for each in rng.permutation(len(paths))]
    for index in range(number):
        whole = read(paths[order[index % len(order)]])
        yield _as_seen(whole, side, rng)


def _as_seen(whole: Pixels, side: int, rng: Generator) -> Pixels:
    height, width = whole.shape[:2]
    share = rng.uniform(0.35, 1)
    rows, columns = max(16, int(height * share)), max(16, int(width * share))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    cut = whole[top : top + rows, left : left + columns]
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    light = np.clip((np.arange(256) / 255) ** rng.uniform(0.6, 1.7) * rng.uniform(0.5, 1.2), 0, 1)
    lit = (light * 255).astype(np.uint8)[np.ascontiguousarray(cut)]
    if rng.random() < 0.15:
        lit = np.repeat(lit.mean(2, keepdims=True), 3, 2).astype(np.uint8)
    shown = np.ascontiguousarray(lit)[None]
    if rng.random() < 0.4:  # out of focus, or far away
        less = int(rng.integers(24, 100))
        shown = resized(shown, less, less)
    shown = resized(shown, side, side)
    if rng.random() < 0.5:
        quality = int(rng.integers(20, 36))
        shown = through_codec(np.repeat(shown, 2, 0), quality, _FPS)[1:]
    return np.asarray(shown[0], np.uint8)


def patterns(frames: int = 16, side: int = 128) -> Iterator[Pixels]:
    """Video [frames, side, side, 3] of test pictures and patterns that libavfilter makes, and of
    noise."""
    for name in PATTERNS:
        yield _pattern(name, frames, side)
    rng = np.random.default_rng(1)
    yield rng.integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


def _pattern(name: str, frames: int, side: int) -> Pixels:
    graph = av.filter.Graph()
    kind, _, options = name.partition("=")
    source, colours = graph.add(kind, options), graph.add("format", "rgb24")
    sink = graph.add("buffersink")
    source.link_to(colours)
    colours.link_to(sink)
    graph.configure()
    display = Display()
    pulled = (cast(av.VideoFrame, graph.pull()) for _ in range(frames))
    raw = b"".join(display.rgb(frame, side, side) for frame in pulled)
    return np.frombuffer(raw, np.uint8).reshape(frames, side, side, 3)
