"""Back-off between tries: waits that grow, with jitter."""

import random


class Backoff:
    """Waits that double from `first_s` to `most_s`, with jitter, until `reset`."""

    def __init__(self, first_s: float = 0.1, most_s: float = 2.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def reset(self) -> None:
        self._next_s = self._first_s

    def next_s(self) -> float:
        """Seconds to wait now; half fixed, half random, so that many callers spread out."""
        wait_s = self._next_s
        self._next_s = min(self._most_s, self._next_s * 2)
        return wait_s * random.uniform(0.5, 1.0)  # spreading, not a secret
