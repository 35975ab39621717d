"""Patience with live sources: how long they may say other things than pictures."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from services.gateway.sources.source import FrameSink

log = logging.getLogger(__name__)

FIRST_S = 15.0  # to the first picture
NEXT_S = 60.0  # from one picture to the next


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
        self._told = False

    def shown(self) -> None:
        """A picture came."""
        self._end_s = self._clock_s() + self._next_s

    @property
    def is_over(self) -> bool:
        return self._clock_s() > self._end_s

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
        return self._file.read(size)
