"""Steering of a session's frame rate: the load of its worker lowers it, and lets it rise again."""

import logging
import random

from services.gateway import metrics
from services.gateway.frames.frame_counts import FrameCounts
from services.gateway.frames.rate_control import RateControl
from services.gateway.frames.sampler import RATE_LOWERED, RING_FULL, Sampler

log = logging.getLogger(__name__)

PATIENCE = 3.0  # of the most patient of sessions that wait for room for more frames


class RateSteering:
    """The frame rate of one session, as wanted and as its worker can follow. One event loop.

    steers: whether the load may change it.
    """

    def __init__(self, session_id: str, sampler: Sampler, fps: float, *, steers: bool) -> None:
        self._session_id = session_id
        self._sampler = sampler
        self._steers = steers
        self._control = RateControl(fps, patience=random.uniform(1, PATIENCE))
        self.note = self._control.note

    @property
    def fps(self) -> float:
        """Frames per second that are shown now."""
        return self._control.fps

    @property
    def lowered(self) -> bool:
        return self._control.lowered

    def want(self, fps: float) -> None:
        """Begin anew with another rate at most."""
        self._sampler.set_fps(fps)
        self._sampler.slow(None)
        self._control.want(fps)

    def steer(
        self,
        now_s: float,
        counts: FrameCounts,
        before: FrameCounts,
        *,
        away: bool,
        busy: float,
    ) -> bool:
        """Let the load decide, about once a second, by what came since `before`; whether the rate
        changed. away: the worker is not what holds frames up. busy: share of its time that it is.
        """
        if not self._steers:
            return False
        passed_over = counts.dropped[RATE_LOWERED] - before.dropped[RATE_LOWERED]
        came = counts.sampled - before.sampled - passed_over
        lost = counts.dropped[RING_FULL] - before.dropped[RING_FULL]
        was = self._control.fps
        fps = self._control.decide(now_s, came, lost, away=away, busy=busy)
        if fps == was:
            return False
        metrics.RATE_CHANGES.labels("down" if fps < was else "up").inc()
        wanted = self._control.wanted
        log.info("frame rate", extra={"session": self._session_id, "fps": fps, "wanted": wanted})
        self._sampler.slow(fps if self._control.lowered else None)
        return True
