"""The clock of an RTP sender: capture times from timestamps and the reports that tie them to wall
clock.
"""

from services.gateway.sources.clock import ArrivalClock
from services.gateway.sources.source import ClockSource
from services.gateway.sources.timestamps import signed_step

CLOCK_HZ = 90_000  # of every video payload
NTP_TO_UNIX_S = 2_208_988_800
SECOND_NS = 1_000_000_000
# A sender's wall clock is believed when it puts capture at most this long before arrival, and not
# much after it (reports are made when packets leave, so a busy encoder blurs them).
MAX_AGE_NS = 10 * SECOND_NS
MAX_AHEAD_NS = SECOND_NS // 2


class SenderClock:
    """Capture times from RTP timestamps and the sender reports that tie them to wall clock."""

    def __init__(self, clock_hz: int = CLOCK_HZ) -> None:
        self._clock_hz = clock_hz
        self._arrival = ArrivalClock()
        self._report: tuple[int, int] | None = None  # (Unix ns, RTP timestamp)

    def report(self, ntp_timestamp: int, rtp_timestamp: int) -> None:
        """A sender report; `ntp_timestamp` is 32.32 fixed point since 1900."""
        seconds = (ntp_timestamp >> 32) - NTP_TO_UNIX_S
        fraction_ns = (ntp_timestamp & 0xFFFFFFFF) * SECOND_NS >> 32
        self._report = (seconds * SECOND_NS + fraction_ns, rtp_timestamp)

    def map(self, rtp_timestamp: int, arrival_ns: int) -> tuple[int, ClockSource]:
        """(capture time, its source) of a picture; `rtp_timestamp` is unwrapped."""
        stamp_ns = rtp_timestamp * SECOND_NS // self._clock_hz
        before = self._arrival.num_timelines
        capture_ns, clock_source = self._arrival.map(stamp_ns, arrival_ns)
        if 0 < before < self._arrival.num_timelines:
            self._report = None  # it is of timestamps that are over
        if self._report is not None:
            wall_ns, reported = self._report
            step = signed_step(rtp_timestamp, reported)
            sender_ns = wall_ns + step * SECOND_NS // self._clock_hz
            if -MAX_AHEAD_NS <= arrival_ns - sender_ns <= MAX_AGE_NS:
                return min(sender_ns, arrival_ns), "sender_report"
        return capture_ns, clock_source
