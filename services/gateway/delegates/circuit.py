"""The circuit to a delegate: whether it is asked at all. No I/O."""

import time
from collections.abc import Callable

from services.common.backoff import Backoff

MOST_FAILURES = 3  # in a row
FIRST_REST_S, MOST_REST_S = 2.0, 60.0


class Circuit:
    """Counts failures in a row. After some of them a delegate rests, for longer each time; then one
    question tries it, and the others wait for what comes of that."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._backoff = Backoff(FIRST_REST_S, MOST_REST_S)
        self._failures = 0
        self._rests_until_s = float("-inf")

    @property
    def rests(self) -> bool:
        return self._clock() < self._rests_until_s

    def begin(self) -> None:
        """A question tries it: after a rest, this one alone."""
        if self._failures >= MOST_FAILURES:
            self._rests_until_s = self._clock() + MOST_REST_S

    def left(self) -> None:
        """Nobody waited for what would have come of it."""
        self._rests_until_s = float("-inf")

    def answered(self) -> None:
        self._failures = 0
        self._rests_until_s = float("-inf")
        self._backoff.reset()

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            self._rests_until_s = self._clock() + self._backoff.next_s()
