"""Percentiles over the last minute, in bounded memory."""

import math
from collections import Counter, deque

WINDOW_S = 60.0
SLOT_S = 5.0
_LOG_STEP = math.log(1.01)  # bins are one per cent wide
_LEAST_S = 1e-5


class Latencies:
    """Latencies of the last `WINDOW_S`, however many they were: bins, in slots of `SLOT_S`.

    Percentiles are right to one per cent. A source that pauses for a minute has none.
    """

    def __init__(self) -> None:
        self._slots: deque[tuple[int, Counter[int]]] = deque()

    def add(self, now_s: float, latency_s: float) -> None:
        """`now_s` of a clock that only rises."""
        number = int(now_s // SLOT_S)
        if not self._slots or self._slots[-1][0] != number:
            self._slots.append((number, Counter()))
            self._forget(now_s)
        self._slots[-1][1][round(math.log(max(latency_s, _LEAST_S)) / _LOG_STEP)] += 1

    def percentiles_ms(self, now_s: float, shares: tuple[float, ...]) -> list[float]:
        """Nearest rank; zeros where there is nothing to look back on."""
        self._forget(now_s)
        bins: Counter[int] = Counter()
        for _, counted in self._slots:
            bins.update(counted)
        total = bins.total()
        found = []
        for share in shares:
            left = min(total - 1, int(share * total))
            value_ms = 0.0
            for step in sorted(bins):
                left -= bins[step]
                if left < 0:
                    value_ms = 1000 * math.exp(step * _LOG_STEP)
                    break
            found.append(value_ms)
        return found

    def _forget(self, now_s: float) -> None:
        oldest = int((now_s - WINDOW_S) // SLOT_S)
        while self._slots and self._slots[0][0] <= oldest:
            self._slots.popleft()
