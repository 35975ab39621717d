"""Arrivals of a session's pictures: when they came, and whether they have stopped."""

import time

from services.gateway.frames.frame_counts import FrameCounts
from services.gateway.frames.pace import Pace
from services.gateway.sources.patience import NEXT_S

STALL_S = 5.0  # without a picture, after which a session is not live, …
SLOW_STALL_S = NEXT_S  # … or up to this where its pictures are always far apart


class Arrivals:
    """Looks at the counts of one session once a second; `last_s`: when pictures were last seen to
    have come, by time.monotonic(). No clock but at the beginning."""

    def __init__(self) -> None:
        self.last_s = time.monotonic()
        self._pace = Pace(STALL_S, SLOW_STALL_S)

    def note(
        self, now_s: float, counts: FrameCounts, before: FrameCounts, *, waiting: bool
    ) -> None:
        """Take note of what came since `before`; while some are `waiting`, none can be missed."""
        if counts.received != before.received:
            if before.received:
                self._pace.paused(now_s - self.last_s)
            self.last_s = now_s
        elif waiting:
            self.last_s = now_s

    def stopped(self, now_s: float, since_s: float) -> bool:
        """Whether none has come for longer than usual, nor since then."""
        return now_s - max(self.last_s, since_s) > self._pace.patience_s
