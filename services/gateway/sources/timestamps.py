"""Timestamps of 32 bits, which RTP and RTMP let wrap."""


def signed_step(timestamp: int, before: int) -> int:
    """Distance of a timestamp from one before it, which may be unwrapped: the nearest value that
    it can mean."""
    return (timestamp - before + 0x80000000 & 0xFFFFFFFF) - 0x80000000


class TimestampUnwrapper:
    """Timestamps of one stream, in order of arrival, as numbers that grow beyond 32 bits."""

    def __init__(self) -> None:
        self._last: int | None = None

    def unwrap(self, timestamp: int) -> int:
        if self._last is None:
            self._last = timestamp
        self._last += signed_step(timestamp, self._last)
        return self._last

    def near(self, timestamp: int) -> int:
        """A timestamp of another stream on the same timeline, unwrapped; nothing is kept of it."""
        return timestamp if self._last is None else self._last + signed_step(timestamp, self._last)
