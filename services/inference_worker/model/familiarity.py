"""Familiarity of pictures: whether one is at all like those of a model's training, by what the
layers of its encoder make of it.

Of every layer the mean and the spread of each channel over the picture are taken, which is what
style is (Gatys et al., arXiv:1508.06576), and weighed by one linear judge that was shown the
training's own pictures and photographs of other things (outlier exposure, Hendrycks et al.,
arXiv:1812.04606). Photographs are textured and shaded as no drawing is, whatever they show, so that
those of things it was never shown lie as far away. A model that was never measured so, such as a
published one, cannot tell, and says nothing of it.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

FILE = "familiarity.npz"
_WEIGHTS = "model.safetensors"
_MOST = 4.0  # powers of e: nothing is stranger than strange


class Familiarity:
    """Judge of one model's pictures. weights: [statistics], of what `statistics` gives; `offset`
    and weighed statistics together are 0 where a picture is as strange as one that is just
    familiar, and −1 where it is as usual as most."""

    def __init__(self, weights: Tensor, offset: float) -> None:
        self.weights = weights
        self.offset = offset

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        """Strangeness [frames] of pictures by their layers' maps [frames, channels, …]; above 1 is
        what the model does not know."""
        weighed: Tensor = statistics(maps) @ self.weights + self.offset
        return weighed.clamp(-_MOST, _MOST).exp()

    def save(self, folder: Path) -> None:
        """Write it beside the weights whose pictures it judges."""
        np.savez_compressed(
            folder / FILE,
            of=np.array(_digest(folder)),
            weights=self.weights.cpu().numpy(),
            offset=np.array(self.offset),
        )

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self | None:
        """That of a folder's weights; None where there is none, or it is of others."""
        try:
            with np.load(folder / FILE, allow_pickle=False) as read:
                if str(read["of"]) != _digest(folder):
                    log.warning("familiarity is of other weights", extra={"folder": str(folder)})
                    return None
                weights = torch.from_numpy(read["weights"].astype(np.float32))
                return cls(weights.to(device), float(read["offset"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError) as error:
            log.warning("familiarity not read", extra={"folder": str(folder), "reason": str(error)})
            return None


def statistics(maps: Sequence[Tensor]) -> Tensor:
    """Mean and spread of each channel of every layer's maps [frames, channels, height, width]:
    [frames, 2 × channels of all]."""
    found = []
    for each in maps:
        flat = each.permute(0, 2, 3, 1).flatten(1, 2)  # as they lie: sums go along rows
        flat = flat.to(torch.float32, copy=True)  # squared in place: fresh memory costs far more
        cells = flat.shape[1]
        mean, power = flat.mean(1), flat.square_().mean(1)
        spread = (power - mean.square()).clamp(min=0) * (cells / (cells - 1))
        found += [mean, spread.sqrt()]
    return torch.cat(found, dim=1)


def _digest(folder: Path) -> str:
    with (folder / _WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
