"""The clock of arrival: a publisher's own timestamps, laid onto wall clock."""

from services.gateway.sources.source import ClockSource

WINDOW_NS = 30_000_000_000  # how long a minimum is remembered: follows a drifting clock
JUMP_NS = 5_000_000_000  # timestamps that leap this far start a new timeline …
REWIND_NS = 1_000_000_000  # … and those that fall back further than B-frames ever do


class ArrivalClock:
    """Capture time = timestamp + the least delay seen lately (arrival − timestamp).

    The least delay is the connection's own, so jitter above it does not move capture times. It is
    the minimum of the current and the previous window, which lets it grow again when the
    publisher's clock runs slower than ours. A capture time is never later than the arrival.
    """

    def __init__(self, window_ns: int = WINDOW_NS) -> None:
        self._window_ns = window_ns
        self._window_end_ns = 0
        self._previous_ns: int | None = None
        self._current_ns = 0
        self._last_timestamp_ns: int | None = None
        self._frozen = 0
        self.num_timelines = 0  # that the timestamps have begun

    def map(self, timestamp_ns: int, arrival_ns: int) -> tuple[int, ClockSource]:
        """(capture time, where it comes from) of a packet; call in order of arrival.

        Timestamps that stand still cannot tell when a picture was taken: from the third equal one
        on it is the arrival.
        """
        delay_ns = arrival_ns - timestamp_ns
        if self._jumped(timestamp_ns, delay_ns):
            self.num_timelines += 1
            self._previous_ns = None
            self._current_ns = delay_ns
            self._window_end_ns = arrival_ns + self._window_ns
            self._frozen = 0
        elif arrival_ns >= self._window_end_ns:
            self._previous_ns = self._current_ns
            self._current_ns = delay_ns
            self._window_end_ns = arrival_ns + self._window_ns
        self._frozen = self._frozen + 1 if timestamp_ns == self._last_timestamp_ns else 0
        self._last_timestamp_ns = timestamp_ns
        self._current_ns = min(self._current_ns, delay_ns)
        if self._frozen >= 2:
            return arrival_ns, "arrival"
        return timestamp_ns + self._offset_ns, "stream"

    def lay(self, timestamp_ns: int) -> int | None:
        """Capture time of something else on the same timeline, such as sound, from which nothing is
        learned; None before the first packet."""
        return None if self._last_timestamp_ns is None else timestamp_ns + self._offset_ns

    @property
    def _offset_ns(self) -> int:
        if self._previous_ns is None:
            return self._current_ns
        return min(self._current_ns, self._previous_ns)

    def _jumped(self, timestamp_ns: int, delay_ns: int) -> bool:
        """A new timeline: the timestamps leapt, not merely the network paused."""
        if self._last_timestamp_ns is None:
            return True
        step_ns = timestamp_ns - self._last_timestamp_ns
        if step_ns < -REWIND_NS:
            return True
        return abs(step_ns) > JUMP_NS and abs(delay_ns - self._current_ns) > JUMP_NS
