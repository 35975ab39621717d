"""A contact sheet: clips as strips of frames, and under them questions with their answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.rendering import Pixels
from training.world.asking import KINDS, ask
from training.world.catalogue import Split
from training.world.clip import Clip
from training.world.forward import draw_watch
from training.world.question import WINDOW
from training.world.wide import World, film

_SIDE = 128  # pixels
_STRIP = 10  # frames of a strip
_LINE = 15  # pixels
_GAP = 6


def questions_at(clip: Clip, frame: int, kinds: Sequence[str], limit: int) -> list[str]:
    """Lines like "[where] where is the dog -> at the top left"."""
    rng = np.random.default_rng((clip.seed, 13))
    lines: list[str] = []
    for kind in (list(kinds)[int(i)] for i in rng.permutation(len(kinds))):
        question = ask(clip, frame, kind, rng)
        if question is None or len(lines) >= limit:
            continue
        past = "".join(f"({asked} -> {said})  " for asked, said in question.history)
        lines.append(f"[{kind}] {past}{question.text} -> {question.answer}")
    watch = draw_watch(clip, max(frame - 20, 0), rng)
    if watch is not None:
        lines.append(
            f"[watch from {watch.asked}] {watch.text} -> "
            + ("never" if watch.when is None else f"at {watch.when}, not before {watch.earliest}")
        )
    return lines


def write_sheet(
    path: Path,
    seeds: Sequence[int],
    world: World = "street",
    split: Split = "train",
    *,
    length: int = 40,
    kinds: Sequence[str] = tuple(KINDS),
    limit: int = 7,
) -> None:
    """Write one block per seed: the frames before the asked one, then what is asked."""
    blocks: list[Block] = []
    for seed in seeds:
        clip = film(seed, length, world, split)
        frame = length - 1 - seed % 4
        lines = questions_at(clip, frame, kinds, limit)
        blocks.append(block_of(f"seed {seed}", clip.pixels, frame, lines))
    draw_blocks(path, blocks)


@dataclass(frozen=True, slots=True)
class Block:
    """A strip of captioned pictures, and lines of text under it."""

    pictures: list[tuple[str, Pixels]]
    lines: list[str]


def block_of(name: str, pixels: Pixels, frame: int, lines: list[str]) -> Block:
    """The window that ends with `frame` of a clip, in as many frames as a strip holds."""
    shown = np.unique(np.linspace(max(frame - WINDOW + 1, 0), frame, _STRIP).astype(int))
    return Block([(f"{name} frame {index}", pixels[index]) for index in shown], lines)


def draw_blocks(path: Path, blocks: Sequence[Block]) -> None:
    """Draw one block below the other; pictures of other sizes are shrunk or enlarged."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(12)
    heights = [_SIDE + _LINE * (len(block.lines) + 1) + _GAP for block in blocks]
    sheet = Image.new("RGB", (_SIDE * _STRIP, max(sum(heights), 1)), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for block, height in zip(blocks, heights, strict=True):
        for place, (caption, picture) in enumerate(block.pictures):
            small = Image.fromarray(np.asarray(picture))
            small.thumbnail((_SIDE, _SIDE))
            sheet.paste(small, (_SIDE * place, top + _LINE))
            draw.text((_SIDE * place + 2, top), caption, "black", font)
        for row, line in enumerate(block.lines):
            draw.text((4, top + _SIDE + _LINE * (row + 1) + 2), line, "black", font)
        top += height
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)  # a third of the bytes
