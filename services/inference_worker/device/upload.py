"""Uploads from the host to the device without waiting for either."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 16  # bytes, of every array: the widest load of a kernel

Arrays = Sequence[NDArray[Any]]


def staged(size_bytes: int, device: torch.device) -> Tensor:
    """Host memory [bytes] uint8 for an upload: pinned where the device is CUDA, from torch's cache,
    which hands it out again when the copies from it are done."""
    return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")


def packed_bytes(arrays: Arrays) -> int:
    """Bytes of all arrays, each on a boundary of its own."""
    return sum(_padded(array.nbytes) for array in arrays)


def upload(arrays: Arrays, device: torch.device, target: Tensor | None = None) -> list[Tensor]:
    """The arrays on the device, by one copy that is queued and not waited for.

    target: device memory [bytes] uint8 to copy into; as long as the arrays keep their order, types
    and shapes, each of them lies where it lay the last time.
    """
    host = staged(packed_bytes(arrays), device)
    view = host.numpy()
    start = 0
    for array in arrays:
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        view[start : start + len(flat)] = flat
        start += _padded(len(flat))
    if target is None:
        there = host.to(device, non_blocking=True)
    else:
        there = target[: len(host)]
        there.copy_(host, non_blocking=True)
    found = []
    start = 0
    for array in arrays:
        part = there[start : start + array.nbytes]
        found.append(part.view(torch.from_numpy(array[:0]).dtype).view(array.shape))
        start += _padded(array.nbytes)
    return found


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT
