"""Blocking work beside the event loop, on threads that no end of the process waits for.

`asyncio.to_thread` and executors are joined when the process exits: work that cannot be
interrupted, such as decoding a hostile picture, would keep it alive.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
END_S = 0.1
_Work = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class Lane:
    """One daemon thread that does one thing after the other. It starts with the first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._started = self._closed = False

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Do `work` on the thread and wait for its result. Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the lane is closed")
        if not self._started:
            self._started = True
            threading.Thread(
                target=_do_all, args=(self._work,), name=self._name, daemon=True
            ).start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._work.put((loop, future, lambda: work(*args)))
        return await future

    def close(self) -> None:
        """Let the thread end after what it is doing. Does not wait."""
        self._closed = True
        if self._started:
            self._work.put(None)


async def on_thread(work: Callable[..., T], *args: object, name: str) -> T:
    """Do `work` once, on a daemon thread of its own."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    item: _Work = (loop, future, lambda: work(*args))
    thread = threading.Thread(target=_do, args=(item,), name=name, daemon=True)
    thread.start()
    result = await future
    thread.join(END_S)  # it has nothing left to do
    return result


def _do_all(waiting: "queue.SimpleQueue[_Work | None]") -> None:
    while (item := waiting.get()) is not None:
        _do(item)
        del item  # nothing is kept alive while the thread waits


def _do(item: _Work) -> None:
    loop, future, work = item
    if future.cancelled():
        return
    try:
        settle = _setter(future, work(), None)
    except BaseException as error:  # whoever waits gets it
        settle = _setter(future, None, error)
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(settle)


def _setter(
    future: "asyncio.Future[Any]", result: object, error: BaseException | None
) -> Callable[[], None]:
    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    return settle
