"""The choice among workers: in which order a session asks them for admission."""

import random
from collections.abc import Callable, Iterator, Sequence

from services.gateway.workers.worker import Worker

Choice = Callable[[Sequence[Worker]], Iterator[Worker]]


class TwoChoices:
    """Choice of two: of two workers drawn at random the one with the larger share of its KV pages
    free, then likewise of those that are left, until none is.

    Gateways decide by reports that are up to a second old and know nothing of each other's
    sessions. If each took the emptiest, all would choose the same worker until the next report; of
    two at random the better one is nearly as even, and no worker is everybody's choice
    (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()

    def __call__(self, workers: Sequence[Worker]) -> Iterator[Worker]:
        left = list(workers)
        while left:
            drawn = self._rng.sample(range(len(left)), min(2, len(left)))
            best = min(drawn, key=lambda place: left[place].fullness)
            left[best], left[-1] = left[-1], left[best]
            yield left.pop()
