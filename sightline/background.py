"""One event loop in a thread of its own, for everything the synchronous client does."""

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

__all__ = ["Background", "background"]

T = TypeVar("T")


class Background:
    """The event loop that does the work, in a daemon thread that starts at first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._stopped = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine from any other thread; an interrupt cancels it."""
        future: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(
            work, self._running_loop()
        )
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """An asynchronous iterator's items, one hop each."""
        try:
            while True:
                try:
                    yield self.run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            if not self._stopped:
                self.run(_close(items))

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                self._loop, self._process = asyncio.new_event_loop(), os.getpid()
                self._loop.set_exception_handler(_ignore_shared_poller)
                thread = threading.Thread(
                    target=self._loop.run_forever, name="sightline", daemon=True
                )
                thread.start()
                atexit.register(self._stop, self._loop, thread)
            return self._loop

    def _stop(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self._stopped = True
        loop.call_soon_threadsafe(loop.stop)
        thread.join(1.0)


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


async def _close(items: Any) -> None:
    """Close an asynchronous generator; one that was interrupted needs a moment to unwind."""
    for _ in range(100):
        try:
            await items.aclose()
            return
        except RuntimeError:
            await asyncio.sleep(0)


def _ignore_shared_poller(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """grpc wakes every event loop of the process for each event; those that find nothing left
    to read complain with BlockingIOError, which means nothing (grpc issue 25364)."""
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)


background = Background()
