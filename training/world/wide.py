"""Clips of the wide world by seed: `film` is all that training and examination call."""

from typing import Literal

import numpy as np

from training.world.camera import Camera, draw_backdrop, draw_camera, shutter_times
from training.world.clip import Clip
from training.world.film import shoot
from training.world.shop import Shop
from training.world.stage import Script, Split
from training.world.street import Street

World = Literal["street", "shop"]
FRAMES_PER_SECOND = 8.0


def film(
    seed: int,
    length: int,
    world: World = "street",
    split: Split = "train",
    *,
    fps: float = FRAMES_PER_SECOND,
    scale: int = 1,
    clean: bool = False,
) -> Clip:
    """`length` frames of the clip with this seed; everything in it follows from the arguments.

    split: "train" never shows an object do what is held out for it, "held_out" mostly does.
    clean: through a perfect camera. The same seconds at another fps or scale tell the same story.
    """
    look = np.random.default_rng((seed, 10))
    backdrop = draw_backdrop(look, table=world == "shop")
    camera = Camera() if clean else draw_camera(look)
    times = shutter_times(look, camera, length, fps)
    rng = np.random.default_rng((seed, 11))
    seconds = length / fps
    script: Script
    if world == "shop":
        script = Shop(rng, backdrop.ground, split, seconds).direct()
    else:
        script = Street(rng, backdrop.ground, split, seconds).direct()
    return shoot(
        script,
        backdrop,
        camera,
        times,
        np.random.default_rng((seed, 12)),
        seed=seed,
        world=world,
        fps=fps,
        scale=scale,
    )
