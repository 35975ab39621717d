"""Waiting for what another task, thread or process makes true: no longer than that takes, and on a
busy machine long enough.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0  # a limit for what is broken, not a measure of how long anything should take
PAUSE_S = 0.005
MOST_PAUSE_S = 0.1  # a question to another process costs both, and is asked the less the longer


async def eventually(
    condition: Callable[[], T], what: str = "", *, timeout_s: float = PATIENCE_S
) -> T:
    """First result of `condition` that is true; other tasks run meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, _complaint(what, timeout_s, result)
        await asyncio.sleep(PAUSE_S)
    return result


def wait_until(condition: Callable[[], T], what: str = "", *, timeout_s: float = PATIENCE_S) -> T:
    """First result of `condition` that is true; the calling thread sleeps meanwhile."""
    began = time.monotonic()
    while not (result := condition()):
        waited = time.monotonic() - began
        assert waited < timeout_s, _complaint(what, timeout_s, result)
        time.sleep(min(MOST_PAUSE_S, max(PAUSE_S, waited / 10)))
    return result


async def until_threads_end(before: set[threading.Thread]) -> None:
    """Wait until no thread is left of those that have begun since; asyncio keeps its own: of its
    pool, and one for each child process, which ends a moment after the child."""

    def left() -> list[str]:
        names = {thread.name for thread in set(threading.enumerate()) - before}
        return sorted(name for name in names if not name.startswith(("asyncio_", "asyncio-")))

    await eventually(lambda: not left(), f"the end of {left()}")


def _complaint(what: str, timeout_s: float, result: object) -> str:
    return f"{what or 'the condition'} did not come true in {timeout_s:g} s, but is {result!r}"
