"""How a session's pictures are, as the server tells it: now, and whenever that changes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from sightline.closing import AsyncLeaving
from sightline.errors import SightlineError
from sightline.types import SourceHealth

__all__ = ["HealthWatch"]

PENDING = 256  # changes that wait for their reader; the oldest make way


class HealthWatch(AsyncLeaving):
    """The health of a session's pictures: how it is now and every change, by `async for` until
    `close`. Leaving the loop closes it, and so does `timeout_s` after its start."""

    def __init__(
        self, close: Callable[["HealthWatch"], None], *, timeout_s: float | None = None
    ) -> None:
        self._close = close
        self._timeout_s = timeout_s
        self._last: SourceHealth | None = None
        self._changes: deque[SourceHealth] = deque(maxlen=PENDING)
        self._closed = False
        self._error: SightlineError | None = None
        self._changed = asyncio.Event()

    async def _leave(self, error: BaseException | None) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[SourceHealth]:
        loop = asyncio.get_running_loop()
        end_s = None if self._timeout_s is None else loop.time() + self._timeout_s
        try:
            while True:
                left_s = None if end_s is None else max(0.0, end_s - loop.time())
                if (health := await self.next(left_s)) is None:
                    return
                yield health
        except TimeoutError:
            return
        finally:
            self.close()

    async def next(self, timeout_s: float | None = None) -> SourceHealth | None:
        """The next change; None once closed. Raises TimeoutError after `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            while not self._changes:
                if self._error is not None:
                    raise self._error
                if self._closed:
                    return None
                self._changed.clear()
                await self._changed.wait()
        return self._changes.popleft()

    def close(self) -> None:
        """Hear no more of it. Idempotent."""
        if not self._closed:
            self._closed = True
            self._close(self)
            self._changed.set()

    # Fed by the conversation

    def add(self, health: SourceHealth) -> None:
        if self._last is None or health.condition != self._last.condition:
            self._last = health
            self._changes.append(health)
            self._changed.set()

    def fail(self, error: SightlineError) -> None:
        if self._error is None and not self._closed:
            self._error = error
            self._changed.set()
