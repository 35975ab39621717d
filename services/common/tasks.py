"""Small asyncio pieces that every service needs: named tasks and a newest-wins queue."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


def spawn(coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
    """Start a named task whose failure is logged even if nobody awaits it.

    The caller keeps the task: the event loop itself holds only a weak reference.
    """
    task = asyncio.create_task(coroutine, name=name)
    task.add_done_callback(_log_failure)
    return task


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task failed", extra={"task": task.get_name()}, exc_info=error)


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until they have ended. Their errors are passed over: they were logged
    by `spawn`, or come, as when a connection breaks, after one that the caller has seen."""
    waiting = [task for task in tasks if task is not None]
    for task in waiting:
        task.cancel()
    # Those that have ended, too: asyncio would report an error that nobody asked for.
    await asyncio.gather(*waiting, return_exceptions=True)


class QueueClosed(Exception):  # noqa: N818 - a signal, like StopAsyncIteration
    """The queue was closed and is empty."""


class NewestQueue(Generic[T]):
    """A bounded queue in which new items push out the oldest.

    For live media: a slow reader sees the newest `capacity` items. `on_drop` is called with every
    item that is pushed out, so that no drop goes uncounted. One event loop only.
    """

    def __init__(self, capacity: int, on_drop: Callable[[T], None] | None = None) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._on_drop = on_drop
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put_nowait(self, item: T) -> None:
        if self._closed:
            return
        if len(self._items) == self._capacity:
            oldest = self._items.popleft()
            if self._on_drop is not None:
                self._on_drop(oldest)
        self._items.append(item)
        self._changed.set()

    async def get(self) -> T:
        """The oldest item still here. Raises QueueClosed once closed and empty."""
        while not self._items:
            if self._closed:
                raise QueueClosed
            self._changed.clear()
            await self._changed.wait()
        return self._items.popleft()

    def close(self) -> None:
        self._closed = True
        self._changed.set()
