"""What the training loops share: the learning rate, the running average, the checkpoint's file."""

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn


def cosine(step: int, steps: int, warmup: int, top: float, floor: float) -> float:
    """Learning rate: linear from `top` / `warmup` to `top`, then half a cosine down to `floor`."""
    if step < warmup:
        return top * (step + 1) / warmup
    share = (step - warmup) / max(steps - warmup, 1)
    return floor + (top - floor) * 0.5 * (1 + math.cos(math.pi * share))


@torch.no_grad()
def average(slow: nn.Module, fast: nn.Module, keep: float) -> None:
    """Move the running average `slow` towards what was learnt; `keep` is the share that stays."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1.0 - keep)
    for kept, buffer in zip(slow.buffers(), fast.buffers(), strict=True):
        kept.copy_(buffer)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; an interrupted write leaves the old file."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)
