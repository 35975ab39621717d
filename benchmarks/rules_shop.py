"""A live shop in real time: how long from the pick-up to the card at a program that listens.

It plays stories through the whole suite as the example does, with the example's own rules and
catalogue: `examples/live_shop/measure.py`.
"""

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import REPOSITORY
from benchmarks.rules_stories import SEED
from sightline import aio

FOLDER = REPOSITORY / "examples" / "live_shop"
SCALE, FPS = 3, 24  # of the stories' pictures
MOST_STORIES = 12


@dataclass(frozen=True, slots=True)
class RealTime:
    """Figures of the stories; delays from the first frame in which it was so, in seconds."""

    found: dict[str, Any] = field(default_factory=dict)
    card_delays_s: list[float] = field(default_factory=list)
    alarm_delays_s: list[float] = field(default_factory=list)


async def play_stories(
    client: aio.Client, folder: Path, violations: int, seconds: float
) -> RealTime:
    """Play stories of so many seconds, one after the other, until so many violations were shown."""
    with patch.object(sys, "path", [str(FOLDER), *sys.path]):
        import measure  # type: ignore[import-not-found]
        from catalogue import Catalogue  # type: ignore[import-not-found]
    goods, found = Catalogue(FOLDER / "catalogue.csv"), measure.Found()
    for index in range(MOST_STORIES):
        path = folder / f"story-{index}.mp4"
        await asyncio.to_thread(_write, path, SEED + index, seconds)
        heard = await measure.play(client, goods, path)
        truth = json.loads(path.with_suffix(".json").read_text())
        measure.judge(found, goods, truth, heard)
        path.unlink()
        if found.violations >= violations:
            break
    return RealTime(measure.told(found), found.delays_s, found.alarm_delays_s)


def _write(path: Path, seed: int, seconds: float) -> None:
    from training.recipe import load_recipe
    from training.world.video import write_video

    trade = load_recipe("builtin").trade
    write_video(path, seed, seconds, SCALE, FPS, world="shop", trade=trade)
