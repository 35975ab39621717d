"""Gaps in the frames that a worker is sent: how many of the session's rate are missing."""

from dataclasses import replace

from services.gateway import metrics
from services.gateway.frames.sampler import SampledFrame

MOST = 8  # of one gap: after a longer one nobody knows what happened meanwhile
LATE = 0.75  # of a period: rates that divide badly put frames as far from their places


class Gaps:
    """The measure of one session's gaps, whatever made them: the load, a full ring, a network."""

    def __init__(self) -> None:
        self._last_ns: int | None = None

    def told(self, frame: SampledFrame) -> SampledFrame:
        """The next frame for the worker, with how many are missing before it."""
        last_ns, self._last_ns = self._last_ns, frame.capture_ns
        if last_ns is None or not frame.period_ns:
            return frame
        missing = int((frame.capture_ns - last_ns) / frame.period_ns - LATE)
        if missing < 1:
            return frame
        missing = min(missing, MOST)
        metrics.FRAMES_HELD.inc(missing)
        return replace(frame, missing=missing)
