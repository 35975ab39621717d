"""Resizing of pictures without a tensor library, for a model that takes another size."""

import functools

import numpy as np
from numpy.typing import NDArray


def resized(pixels: bytes, size: tuple[int, int], wanted: tuple[int, int]) -> bytes:
    """RGB of (width, height) as RGB of another size, each new pixel the mean of what it covers,
    between neighbours where it covers less than one."""
    if size == wanted:
        return pixels
    (width, height), (new_width, new_height) = size, wanted
    picture = np.frombuffer(pixels, np.uint8).reshape(height, width, 3).astype(np.float32)
    rows = np.tensordot(_weights(height, new_height), picture, 1)
    columns = np.tensordot(_weights(width, new_width), rows, (1, 1)).swapaxes(0, 1)
    return (columns + 0.5).clip(0, 255).astype(np.uint8).tobytes()


@functools.lru_cache(maxsize=16)
def _weights(length: int, wanted: int) -> NDArray[np.float32]:
    """Shares [wanted, length] that the old pixels of a row have in each new one: a triangle as wide
    as the new pixel, and no narrower than an old one."""
    scale = length / wanted
    centres = (np.arange(wanted) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(length)[None] - centres[:, None]) / max(1.0, scale)
    shares = np.maximum(0.0, 1.0 - distance)
    weights: NDArray[np.float32] = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights
