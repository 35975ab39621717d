"""Doubt: names of things that a model says only where it is sure enough of them.

A model that was taught a few dozen things sees one of them in everything. So each name has a least
probability, measured on pictures that its training never saw, and what is less likely is called a
thing that the model is not sure of. Kept as doubt.json beside the weights.
"""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from tokenizers import Tokenizer
from torch import Tensor

log = logging.getLogger(__name__)

FILE = "doubt.json"
VAGUE = "thing i am not sure of"
"""Said in place of a name: one token, which no text that is asked becomes."""


def spoken(text: str) -> str:
    """The text as people say it: the name whose place is taken may have had another article."""
    return text.replace(f"an {VAGUE}", f"an object{VAGUE.removeprefix('thing')}")


@dataclass(frozen=True, slots=True, eq=False)
class Doubt:
    """bounds: [vocabulary] log probabilities below which a token is not said, −inf for all that is
    no name. vague: the token that is said instead."""

    bounds: Tensor
    vague: int

    def __call__(self, choice: Tensor, chosen: Tensor) -> Tensor:
        """Tokens [rows] to be said where `choice` is the likeliest, of log probability `chosen`."""
        return torch.where(chosen < self.bounds[choice], self.vague, choice)

    @classmethod
    def load(
        cls, folder: Path, tokenizer: Tokenizer, size: int, device: torch.device
    ) -> Self | None:
        """That of a folder whose model has `size` tokens; None where there is none."""
        try:
            told = json.loads((folder / FILE).read_text(encoding="utf-8"))
            least = {str(word): float(share) for word, share in told["least"].items()}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("doubt not read", extra={"folder": str(folder), "reason": str(error)})
            return None
        vague = tokenizer.token_to_id(VAGUE)
        if vague is None:
            log.warning("doubt has no words", extra={"folder": str(folder)})
            return None
        bounds = torch.full((size,), -math.inf)
        for word, share in least.items():
            token = tokenizer.token_to_id(word)
            if token is not None and share > 0:
                bounds[token] = math.log(share)
        return cls(bounds.to(device), int(vague))
