"""Clips of the wide world by seed: `film` is all that training and examination call."""

from dataclasses import replace
from typing import Literal

import numpy as np

from training.world.camera import Backdrop, Camera, draw_backdrop, draw_camera, shutter_times
from training.world.catalogue import SIGN_WORDS, Split
from training.world.clip import Clip, Kind
from training.world.film import shoot
from training.world.real_shop import Laid, Photographs, RealShop, before_photograph
from training.world.shop import Shop, Trade
from training.world.sketch import Sketch, on_paper
from training.world.stage import Script
from training.world.street import Street

World = Literal["street", "shop", "goods", "photographs", "laid", "sketch"]
FRAMES_PER_SECOND = 8.0


def direct(
    seed: int, seconds: float, world: World, split: Split, trade: Trade | None = None
) -> tuple[Script, Backdrop]:
    """Script of the clip with this seed: what happens, and where. A longer one begins the same."""
    drawn = np.random.default_rng((seed, 10))
    backdrop = draw_backdrop(drawn, table=world in ("shop", "goods"))
    rng = np.random.default_rng((seed, 11))
    if world == "photographs":
        return Photographs(rng, backdrop.ground, split, seconds).direct(), backdrop
    if world == "laid":
        backdrop = before_photograph(backdrop, drawn)
        return Laid(rng, backdrop.ground, split, seconds).direct(), backdrop
    if world == "sketch":
        backdrop = on_paper(backdrop, drawn)
        return Sketch(rng, backdrop.ground, split, seconds).direct(), backdrop
    if world == "goods":
        backdrop = before_photograph(backdrop, drawn)
        return RealShop(rng, backdrop.ground, split, seconds, trade).direct(), backdrop
    if world == "shop":
        return Shop(rng, backdrop.ground, split, seconds, trade).direct(), backdrop
    return Street(rng, backdrop.ground, split, seconds).direct(), backdrop


def film(
    seed: int,
    length: int,
    world: World = "street",
    split: Split = "train",
    *,
    fps: float = FRAMES_PER_SECOND,
    scale: float = 1,
    clean: bool = False,
    trade: Trade | None = None,
) -> Clip:
    """`length` frames of the clip with this seed; everything in it follows from the arguments.

    split: "train" never shows an object do what is held out for it, "held_out" mostly does.
    clean: through a perfect camera. trade: what a narrower shop deals in. The same seconds at
    another fps or scale tell the same story.
    """
    script, backdrop = direct(seed, length / fps, world, split, trade)
    look = np.random.default_rng((seed, 14))
    camera = Camera() if clean else draw_camera(look)
    times = shutter_times(look, camera, length, fps)
    paint = np.random.default_rng((seed, 12))
    clip = shoot(
        script, backdrop, camera, times, paint, seed=seed, world=world, fps=fps, scale=scale
    )
    return replace(clip, texts=texts_of(world, trade))


def texts_of(world: World, trade: Trade | None) -> dict[Kind, tuple[str, ...]]:
    """Texts of signs and tags."""
    if world == "street":
        return {"sign": SIGN_WORDS}
    trade = trade or Trade()
    return {"sign": trade.banners, "tag": tuple(f"${price}" for price in trade.prices)}
