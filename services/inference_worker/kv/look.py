"""Look of pictures: what is known of them beside the tokens that they became. No tensors here."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

NEWEST = 4
"""Segments that say how strange the present is: one picture alone may be a flash or a codec's."""
FAMILIAR = 1.0
"""The strangest that a picture may be which the model still knows."""


@dataclass(slots=True, eq=False)
class Look:
    """Look of one tubelet, known once it was encoded. `strangeness`: how unlike those of the
    model's training it is; above `FAMILIAR` it is unfamiliar. 0: nobody can tell."""

    strangeness: float = 0.0


def strangeness_now(newest_first: Iterable[Look]) -> float:
    """Strangeness of the present: the mean of the newest pictures'."""
    newest = [look.strangeness for look in islice(newest_first, NEWEST)]
    return sum(newest) / len(newest) if newest else 0.0
