"""Pictures of the world: anti-aliased shapes on varied backgrounds, with what cameras add.

One clip renders at 128×128 for training and, with `scale`, larger for real video files.
"""

from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.world.shapes import SIZE, Clip, Thing

Pixels = NDArray[np.uint8]
Mask = NDArray[np.float32]

RGB = {
    "red": (215, 35, 40),
    "green": (40, 175, 65),
    "blue": (45, 85, 230),
    "yellow": (240, 215, 45),
    "pink": (240, 100, 200),
    "white": (245, 245, 245),
}
_SUBPIXELS = 4
_NOISE_LENGTH = 1 << 21


@lru_cache(maxsize=8192)
def sprite(shape: str, width: int, height: int, shift_x: int, shift_y: int) -> Mask:
    """Coverage 0…1 of a shape, [height + 2, width + 2, 1], moved by quarter pixels."""
    samples = 4
    ys = (np.arange((height + 2) * samples) + 0.5) / samples - 1 - shift_y / _SUBPIXELS
    xs = (np.arange((width + 2) * samples) + 0.5) / samples - 1 - shift_x / _SUBPIXELS
    v = (ys / height * 2 - 1)[:, None]  # −1…1 over the shape's box
    u = (xs / width * 2 - 1)[None, :]
    if shape == "circle":
        inside = u**2 + v**2 <= 1
    elif shape == "square":
        inside = (abs(u) <= 0.9) & (abs(v) <= 0.9)
    elif shape == "triangle":
        inside = (v <= 0.9) & (v >= -1) & (abs(u) <= (v + 1) / 1.9)
    elif shape == "cross":
        inside = ((abs(u) <= 0.33) & (abs(v) <= 1)) | ((abs(v) <= 0.33) & (abs(u) <= 1))
    else:
        raise ValueError(f"no shape {shape!r}")
    blocks = inside.astype(np.float32).reshape(height + 2, samples, width + 2, samples)
    return np.ascontiguousarray(blocks.mean(axis=(1, 3))[..., None])


@lru_cache(maxsize=1)
def noise_strip() -> NDArray[np.int16]:
    """A long strip of unit noise × 16, cut at random places: drawing anew costs ten times more."""
    strip = np.random.default_rng(7).normal(0, 16, _NOISE_LENGTH)
    return strip.astype(np.int16)


class Scene:
    """The look of one clip: background, colours, noise. Drawn from `seed` alone."""

    def __init__(self, seed: int, scale: int = 1, clean: bool = False) -> None:
        self.rng = np.random.default_rng((seed, 1))
        self.scale = scale
        self.side = int(SIZE) * scale
        self.gain = float(self.rng.uniform(0.8, 1.05))
        self.background = self._background(self.rng)
        jitter = self.rng.uniform(-10, 10, (len(RGB), 3))
        self.colours = {
            name: np.clip((np.array(rgb) + shift) * self.gain, 0, 255).astype(np.float32)
            for (name, rgb), shift in zip(RGB.items(), jitter, strict=True)
        }
        self.noise = 0.0 if clean else float(self.rng.choice([0.0, 2.0, 5.0, 9.0]))
        self.blur = not clean and bool(self.rng.random() < 0.35)
        self.thin_chroma = not clean and bool(self.rng.random() < 0.35)

    def _background(self, rng: Generator) -> Pixels:
        """Plain, a gradient, or a mild texture; dark and nearly grey, so that colours stand out."""
        grid = np.linspace(0, 1, self.side, dtype=np.float32)
        base = rng.uniform(15, 125) + rng.uniform(-14, 14, 3)
        picture = np.broadcast_to(base, (self.side, self.side, 3)).astype(np.float32)
        style = rng.random()
        if style > 0.35:
            slope_x, slope_y = rng.uniform(-45, 45, 2)
            ramp = slope_x * (grid[None, :] - 0.5) + slope_y * (grid[:, None] - 0.5)
            picture = picture + ramp[..., None].astype(np.float32)
        if style > 0.7:
            waves = np.zeros((self.side, self.side), np.float32)
            for _ in range(3):
                fx, fy, phase = rng.uniform(-25, 25), rng.uniform(-25, 25), rng.uniform(0, 6.28)
                waves += np.sin(fx * grid[None, :] + fy * grid[:, None] + phase)
            picture = picture + (waves * rng.uniform(1, 5))[..., None]
        clipped: Pixels = np.clip(picture * self.gain, 0, 255).astype(np.uint8)
        return clipped

    def draw(self, things: tuple[Thing, ...], out: Pixels) -> None:
        """Draw one frame into `out` [side, side, 3]."""
        out[:] = self.background
        for thing in things:
            self._paste(thing, out)

    def _paste(self, thing: Thing, out: Pixels) -> None:
        width = max(round(thing.width * self.scale), 1)
        height = max(round(thing.height * self.scale), 1)
        left = thing.x * self.scale - width / 2
        top = thing.y * self.scale - height / 2
        x, shift_x = divmod(round(left * _SUBPIXELS), _SUBPIXELS)
        y, shift_y = divmod(round(top * _SUBPIXELS), _SUBPIXELS)
        mask = sprite(thing.shape, width, height, shift_x, shift_y)
        x, y = x - 1, y - 1
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + mask.shape[1], self.side), min(y + mask.shape[0], self.side)
        if x0 >= x1 or y0 >= y1:
            return
        part = mask[y0 - y : y1 - y, x0 - x : x1 - x]
        region = out[y0:y1, x0:x1]
        region[:] = (region + (self.colours[thing.colour] - region) * part).astype(np.uint8)

    def weather(self, frames: Pixels) -> None:
        """Add in place what lenses, sensors and codecs add. frames: [n, side, side, 3]."""
        strip = noise_strip()
        for frame in frames:
            if self.thin_chroma:
                wide = frame.astype(np.int16)
                luma = (wide[..., 0] + 2 * wide[..., 1] + wide[..., 2]) >> 2
                wide -= luma[..., None]
                chroma = wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2]
                full = (chroma >> 2).repeat(2, axis=0).repeat(2, axis=1) + luma[..., None]
                frame[:] = np.clip(full, 0, 255, out=full)
            if self.blur:
                wide = frame.astype(np.uint16)
                frame[:, :-1] = (wide[:, :-1] + wide[:, 1:]) >> 1
                wide = frame.astype(np.uint16)
                frame[:-1] = (wide[:-1] + wide[1:]) >> 1
            if self.noise:
                start = int(self.rng.integers(_NOISE_LENGTH - frame.size))
                grain = strip[start : start + frame.size].reshape(frame.shape)
                shaken = frame + ((grain * int(self.noise)) >> 4)
                frame[:] = np.clip(shaken, 0, 255, out=shaken)


def render(clip: Clip, scale: int = 1) -> Pixels:
    """[frames, 128 × scale, 128 × scale, 3] RGB as the model sees it; larger ones are clean."""
    scene = Scene(clip.seed, scale, clean=scale > 1)
    frames = np.empty((len(clip), scene.side, scene.side, 3), np.uint8)
    for things, out in zip(clip.frames, frames, strict=True):
        scene.draw(things, out)
    scene.weather(frames)
    return frames
