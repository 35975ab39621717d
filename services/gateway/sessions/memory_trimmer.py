"""Memory that ended sessions leave behind, given back to the system."""

import ctypes
import gc
import logging
from collections.abc import Callable

from services.common.threads import on_thread

log = logging.getLogger(__name__)

PAUSE_S = 10.0  # between two times; the first comes so long after a session ended


class MemoryTrimmer:
    """The trimmer of freed memory: `advance` is called once a second, `noted` for each session that
    ended.

    glibc keeps what threads freed in arenas of their own, and a decoder's thread is gone before its
    memory is used again: hundreds of MiB after some hundred sessions. Where there is no glibc,
    nothing is done. What is older than the service's start is never looked at by the collector.
    """

    def __init__(self) -> None:
        self._due_s: float | None = None
        self._ended = False
        self._trim = _malloc_trim()

    def started(self) -> None:
        """The service's parts are all there: what they are made of stays."""
        gc.collect()
        gc.freeze()

    def noted(self) -> None:
        self._ended = True

    async def advance(self, now_s: float) -> bool:
        """Give back what ended sessions left, when it is time; whether it was."""
        if self._ended and self._due_s is None:
            self._due_s = now_s + PAUSE_S
        if self._due_s is None or now_s < self._due_s:
            return False
        self._due_s, self._ended = None, False
        gc.collect()
        if self._trim is not None:
            await on_thread(self._trim, 0, name="memory:trim")  # without the interpreter's lock
        return True


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return trim
