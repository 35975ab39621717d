"""Meter of a session's frames: rates, and the counters that Prometheus reads."""

from collections import deque
from dataclasses import dataclass

from services.gateway import metrics
from services.gateway.frames.frame_counts import FrameCounts

RATE_S = 3  # seconds that rates are averaged over


@dataclass(frozen=True, slots=True)
class _Tick:
    at_s: float
    received: int
    processed: int


class FrameMeter:
    """Reads `counts` once a second."""

    def __init__(self, counts: FrameCounts) -> None:
        self._counts = counts
        self._exported = FrameCounts()
        self._ticks: deque[_Tick] = deque(maxlen=RATE_S + 1)

    def skip(self) -> None:
        """Leave out all that was counted until now: another gateway has told of it."""
        self._exported = self._counts.copy()

    def tick(self, now_s: float, kind: str) -> tuple[FrameCounts, FrameCounts]:
        """Export what was counted since the last time, of a source of this kind. Returns the counts
        of now and of then."""
        now, before = self._counts.copy(), self._exported
        self._exported = now
        self._ticks.append(_Tick(now_s, now.received, now.processed))
        metrics.FRAMES_RECEIVED.labels(kind).inc(now.received - before.received)
        metrics.FRAMES_SAMPLED.labels(kind).inc(now.sampled - before.sampled)
        metrics.FRAMES_PROCESSED.inc(now.processed - before.processed)
        for reason, count in now.dropped.items():
            metrics.FRAMES_DROPPED.labels(reason).inc(count - before.dropped[reason])
        for what, count in now.noted.items():
            metrics.SOURCE_NOTES.labels(what).inc(count - before.noted[what])
        return now, before

    @property
    def received_per_s(self) -> float:
        first, last = self._ends()
        return (last.received - first.received) / max(1e-6, last.at_s - first.at_s)

    @property
    def processed_per_s(self) -> float:
        first, last = self._ends()
        return (last.processed - first.processed) / max(1e-6, last.at_s - first.at_s)

    def _ends(self) -> tuple[_Tick, _Tick]:
        if not self._ticks:
            return _Tick(0.0, 0, 0), _Tick(0.0, 0, 0)
        return self._ticks[0], self._ticks[-1]
