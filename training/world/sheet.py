"""A contact sheet: clips as strips of frames, and under them questions with their answers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.world.asking import KINDS, ask
from training.world.clip import Clip
from training.world.forward import draw_watch
from training.world.stage import Split
from training.world.wide import World, film

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
    """One block per seed, two side by side: the frames before the asked one, then what is asked."""
    from PIL import Image, ImageDraw, ImageFont

    blocks: list[Image.Image] = []
    font = ImageFont.load_default(12)
    for seed in seeds:
        clip = film(seed, length, world, split)
        frame = length - 1 - seed % 4
        shown = np.unique(np.linspace(max(frame - 29, 0), frame, _STRIP).astype(int))
        lines = questions_at(clip, frame, kinds, limit)
        height = 128 + _LINE + _LINE * (limit + 1) + _GAP
        block = Image.new("RGB", (128 * _STRIP, height), "white")
        draw = ImageDraw.Draw(block)
        for place, index in enumerate(shown):
            block.paste(Image.fromarray(clip.pixels[index]), (128 * place, _LINE))
            draw.text((128 * place + 2, 0), f"seed {seed} frame {index}", "black", font)
        for row, line in enumerate(lines):
            draw.text((4, 128 + _LINE * (row + 1) + 2), line, "black", font)
        blocks.append(block)
    sheet = Image.new("RGB", (128 * _STRIP, sum(block.height for block in blocks)), "white")
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    sheet.save(path)
