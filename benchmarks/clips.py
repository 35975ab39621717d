"""Pictures to show: single frames for an engine, H.264 clips for publishers."""

from fractions import Fraction
from pathlib import Path

import av

CLIP_SEED = 11
WIDTH, HEIGHT = 640, 360


def model_frames(number: int) -> list[bytes]:
    """Consecutive 128×128 RGB frames of the shop that the built-in model knows."""
    from training.recipe import load_recipe
    from training.world.wide import film

    clip = film(CLIP_SEED, number, "shop", trade=load_recipe("builtin").trade)
    return [frame.tobytes() for frame in clip.pixels]


def write_h264(path: Path, fps: int, seconds: float) -> None:
    """640×360 as a camera sends it: no B-frames, a keyframe every second.

    The world is square; it is stretched here, and squeezed again where the model's size is square.
    """
    from training.recipe import load_recipe
    from training.world.video import pictures

    options = {"preset": "veryfast", "tune": "zerolatency", "crf": "23", "g": str(fps), "bf": "0"}
    trade = load_recipe("builtin").trade
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in pictures(CLIP_SEED, seconds, "shop", 3, fps, trade):
            square = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = square.reformat(WIDTH, HEIGHT, "yuv420p", threads=1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
