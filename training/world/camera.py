"""Camera: what stands behind a scene, and what a live camera and its network add to it."""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.rendering import Pixels, noise_strip
from training.world.goods import goods, sampled

MARGIN = 6  # units of background around the picture, for a shaking camera


@dataclass(frozen=True, slots=True, kw_only=True)
class Backdrop:
    """ground: mean RGB. table: height of a table's edge in units, None for none. photo: index of
    one of the grounds of `goods()`."""

    ground: tuple[float, float, float]
    style: str
    table: float | None = None
    photo: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Manner in which a clip is filmed. shake: units; gain and cast: of the light; noise: of the
    sensor, in grey levels; quality: H.264 CRF, 0 for no codec; stall: chance that a frame repeats
    the last; drop: chance that one is lost.
    """

    shake: float = 0.0
    gain: float = 1.0
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    flicker: float = 0.0
    vignette: float = 0.0
    noise: int = 0
    quality: int = 0
    stall: float = 0.0
    drop: float = 0.0


PERFECT = Camera()


def draw_backdrop(rng: Generator, table: bool = False) -> Backdrop:
    """Draw a backdrop of middling light and mild colours, so that dark, bright and strong ones
    stand out."""
    light = rng.uniform(60, 205)
    ground = np.clip(light + rng.uniform(-38, 38, 3), 20, 235)
    style = str(rng.choice(["plain", "ramp", "waves", "cloud", "stripes", "checks", "lights"]))
    edge = float(rng.uniform(72, 84)) if table else None
    return Backdrop(
        ground=(float(ground[0]), float(ground[1]), float(ground[2])), style=style, table=edge
    )


def draw_camera(rng: Generator) -> Camera:
    poor = float(rng.random())  # how bad this stream is
    return Camera(
        shake=float(rng.choice([0.0, 0.0, 0.8, 2.0])),
        gain=float(rng.uniform(0.72, 1.08)),
        cast=_cast(rng),
        flicker=float(rng.choice([0.0, 0.0, 0.05, 0.1])),
        vignette=float(rng.choice([0.0, 0.0, 0.25])),
        noise=int(rng.choice([0, 2, 5, 8])),
        quality=int(rng.integers(24, 37)) if poor > 0.4 else 0,
        stall=float(rng.choice([0.0, 0.0, 0.05])),
        drop=float(rng.choice([0.0, 0.0, 0.05])),
    )


def _cast(rng: Generator) -> tuple[float, float, float]:
    red, green, blue = rng.uniform(0.93, 1.07, 3)
    return float(red), float(green), float(blue)


def shutter_times(rng: Generator, camera: Camera, length: int, fps: float) -> NDArray[np.float64]:
    """Seconds of the world's clock at every frame. A repeated frame stands still, then catches up;
    after a lost one the clock has jumped. Never two in a row, so that nothing short is missed."""
    times = np.arange(length) / fps
    spared = 0
    for frame in range(1, length):
        spared -= 1
        if spared > 0:
            continue
        roll = rng.random()
        if roll < camera.stall:
            times[frame], spared = times[frame - 1], 3
        elif roll < camera.stall + camera.drop:
            times[frame:] += 1 / fps
            spared = 3
    return times


def paint_backdrop(backdrop: Backdrop, rng: Generator, scale: float) -> NDArray[np.float32]:
    """[128 + 2·MARGIN, same, 3] × scale, 0…255."""
    side = round((128 + 2 * MARGIN) * scale)
    grid = np.linspace(0, 1, side, dtype=np.float32)
    x, y = grid[None, :], grid[:, None]
    ground = np.array(backdrop.ground, np.float32)
    if backdrop.style == "ramp":
        slope_x, slope_y = rng.uniform(-60, 60, 2)
        light = slope_x * (x - 0.5) + slope_y * (y - 0.5)
    elif backdrop.style == "waves":
        light = np.zeros((side, side), np.float32)
        for _ in range(3):
            fx, fy, phase = rng.uniform(-25, 25), rng.uniform(-25, 25), rng.uniform(0, 6.28)
            light += rng.uniform(2, 8) * np.sin(fx * x + fy * y + phase)
    elif backdrop.style == "cloud":
        light = _smooth(rng, side, int(rng.integers(3, 9))) * rng.uniform(12, 34)
    elif backdrop.style == "stripes":
        angle, width = rng.uniform(0, 3.14), rng.uniform(14, 60)
        bands = np.sin((x * np.cos(angle) + y * np.sin(angle)) * width)
        light = np.clip(bands * 4, -1, 1) * rng.uniform(5, 16)
    elif backdrop.style == "checks":
        number = int(rng.integers(4, 12))
        light = (((x * number).astype(int) + (y * number).astype(int)) % 2 - 0.5) * 22
    elif backdrop.style == "lights":
        light = np.zeros((side, side), np.float32)
        for _ in range(7):
            cx, cy, radius = rng.random(), rng.random(), rng.uniform(0.05, 0.16)
            light += np.clip((radius - np.hypot(x - cx, y - cy)) * 25, 0, 1) * rng.uniform(6, 22)
    else:
        light = np.zeros((side, side), np.float32)
    if backdrop.photo >= 0:
        ground = sampled(goods().grounds[backdrop.photo], side)
    picture = ground + np.broadcast_to(light, (side, side))[..., None].astype(np.float32)
    if backdrop.table is not None:
        edge = int((backdrop.table + MARGIN) * scale)
        wood = np.clip(
            np.array(backdrop.ground, np.float32) * 0.72 + rng.uniform(-12, 12, 3), 15, 235
        ).astype(np.float32)
        grain = 4 * np.sin(y[edge:] * 160 + 3 * np.sin(x * 9))[..., None]
        picture[edge:] = wood + grain
        picture[edge : edge + round(2 * scale)] = wood * 0.7
    return np.clip(picture, 0, 255).astype(np.float32)


def _smooth(rng: Generator, side: int, knots: int) -> NDArray[np.float32]:
    """Noise with `knots` hills a side, about −1…1."""
    coarse = rng.normal(0, 1, (knots + 1, knots + 1))
    at = np.linspace(0, knots, side)
    low = np.minimum(at.astype(int), knots - 1)
    share = at - low
    share = share * share * (3 - 2 * share)
    rows = coarse[low] * (1 - share[:, None]) + coarse[low + 1] * share[:, None]
    hills: NDArray[np.float32] = rows[:, low] * (1 - share) + rows[:, low + 1] * share
    return hills.astype(np.float32)


def shaking(rng: Generator, camera: Camera, length: int) -> NDArray[np.float64]:
    """[length, 2]: how far the picture has moved, in units; a hand that trembles."""
    if not camera.shake:
        return np.zeros((length, 2))
    steps = rng.normal(0, camera.shake, (length, 2))
    path = np.zeros((length, 2))
    for frame in range(1, length):
        path[frame] = 0.7 * path[frame - 1] + steps[frame]
    return np.clip(path, -MARGIN + 1, MARGIN - 1)


def weather(frames: Pixels, camera: Camera, rng: Generator, fps: float) -> Pixels:
    """Light, lens, sensor and codec on clean frames [n, side, side, 3]; returns new ones."""
    length, side = len(frames), frames.shape[1]
    phase = rng.uniform(0, 6.28)
    if camera == PERFECT:
        return frames.copy()
    across = np.linspace(-1, 1, side, dtype=np.float32) ** 2
    lens = 1 - camera.vignette * (across[None, :] + across[:, None])[..., None] / 2
    lens = lens * np.array(camera.cast, np.float32) * camera.gain
    strip, out = noise_strip(), np.empty_like(frames)
    for index, frame in enumerate(frames):
        drift = 1 + camera.flicker * np.sin(phase + 2.5 * index / fps)
        lit = frame * (lens * np.float32(drift))
        if camera.noise:
            start = int(rng.integers(len(strip) - frame.size))
            lit += strip[start : start + frame.size].reshape(frame.shape) * (camera.noise / 16)
        out[index] = np.clip(lit, 0, 255, out=lit)
    return through_codec(out, camera.quality, fps) if camera.quality and length > 1 else out


def through_codec(frames: Pixels, quality: int, fps: float) -> Pixels:
    """Encode as H.264 at a CRF, as a live encoder does, and decode again.

    On one thread each, so that the same frames always give the same ones.
    """
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height = frames.shape[2], frames.shape[1]
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 1000)
    encoder.framerate = Fraction(fps).limit_denominator(1000)
    encoder.thread_count = 1
    encoder.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "crf": str(quality),
        "g": "30",
        "bf": "0",
    }
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    found: list[av.VideoFrame] = []
    for number, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = int(number * 1000 / fps)
        for packet in encoder.encode(picture):
            found += decoder.decode(packet)
    for packet in encoder.encode(None):
        found += decoder.decode(packet)
    found += decoder.decode(None)
    if len(found) != len(frames):
        raise RuntimeError(f"{len(frames)} frames went in, {len(found)} came out")
    return np.stack([frame.to_ndarray(format="rgb24") for frame in found]).astype(np.uint8)
