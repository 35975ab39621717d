"""The size a session's frames have for its model."""

import math
from dataclasses import dataclass
from typing import Self

from sightline.v1 import inference_pb2

LONGEST_SHAPE = 16.0  # pictures that are longer than so many times their short side are squeezed


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSize:
    """The size that a model wants of frames. `width`, `height` where `factor` is 0. Otherwise sides
    are multiples of `factor` pixels, and their product is within `min_pixels` and `max_pixels`."""

    width: int
    height: int
    factor: int = 0
    min_pixels: int = 0
    max_pixels: int = 0

    @classmethod
    def of(cls, description: inference_pb2.ModelDescription, max_pixels: int) -> Self:
        """The rule of a worker's model for a session's budget; 0: the model's own."""
        default = description.frame_width * description.frame_height
        return cls(
            width=description.frame_width,
            height=description.frame_height,
            factor=description.size_factor,
            min_pixels=description.min_pixels,
            max_pixels=min(max_pixels or default, description.max_pixels),
        )

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size for a picture: its shape as nearly as the rule allows, and not more pixels than
        it has, because more would tell the model nothing."""
        if not self.factor:
            return self.width, self.height
        shape = min(max(width / height, 1 / LONGEST_SHAPE), LONGEST_SHAPE)
        pixels = min(max(width * height, self.min_pixels), self.max_pixels)
        columns = max(1, round(math.sqrt(pixels * shape) / self.factor))
        rows = max(1, round(math.sqrt(pixels / shape) / self.factor))
        cells = max(1, self.max_pixels // self.factor**2)
        if columns * rows > cells:
            columns = min(max(1, int(math.sqrt(cells * shape))), cells)
            rows = min(max(1, round(columns / shape)), cells // columns)
        return columns * self.factor, rows * self.factor
