"""Patience with live sources: how long they may say other things than pictures."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from services.gateway.sources.source import FrameSink

log = logging.getLogger(__name__)

FIRST_S = 15.0  # to the first picture
NEXT_S = 60.0  # from one picture to the next
# So much that was read for so long, without that a packet came of it: libavformat passes over what
# has become another, such as FLV of another codec, and would do so for ever.
SWALLOWED_BYTES, SWALLOWED_S = 256 * 1024, 15.0


class _Readable(Protocol):
    def read(self, size: int) -> bytes: ...


class Patience:
    """The time that one live source has for its next picture: some go on for ever with sound, empty
    packets or what cannot be decoded, and would hold their session as long."""

    def __init__(
        self,
        sink: FrameSink,
        first_s: float = FIRST_S,
        next_s: float = NEXT_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """sink: hears of the end of it, as of something noted."""
        self._sink = sink
        self._next_s = next_s
        self._clock_s = clock_s
        self._end_s = clock_s() + first_s
        self._parsed_s: float | None = None  # when a packet came; None: none did yet
        self._swallowed_bytes = 0  # since then
        self._told = False

    def shown(self) -> None:
        """A picture came."""
        self._end_s = self._clock_s() + self._next_s
        self.parsed()

    def parsed(self) -> None:
        """A packet of whatever kind came of what was read."""
        self._parsed_s, self._swallowed_bytes = self._clock_s(), 0

    def fed(self, num_bytes: int) -> None:
        """So much was read. Any thread."""
        self._swallowed_bytes += num_bytes

    @property
    def is_over(self) -> bool:
        now_s = self._clock_s()
        if now_s > self._end_s:
            return True
        parsed_s = self._parsed_s
        swallowed = parsed_s is not None and self._swallowed_bytes > SWALLOWED_BYTES
        return swallowed and now_s - (parsed_s or 0.0) > SWALLOWED_S

    def tell(self) -> None:
        """Say, once, that it is over."""
        if not self._told:
            self._told = True
            self._sink.noted("no_picture")
            log.info("a live source goes on without pictures, and is left")


class PatientFile:
    """A live file that is at its end once patience with it is over."""

    def __init__(self, file: _Readable, patience: Patience) -> None:
        self._file = file
        self._patience = patience

    def read(self, size: int) -> bytes:
        if self._patience.is_over:
            self._patience.tell()
            return b""
        data = self._file.read(size)
        self._patience.fed(len(data))
        return data
