"""Calls under way: how many there may be, and that a service ends after them."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from sightline.errors import ResourceExhaustedError, UnavailableError


class InFlight:
    """Counts what is under way, refuses what is too much, and waits for the rest when its service
    ends. One event loop.

    what: in messages, "answers". owner: who refuses, "the worker". most: None, or so many at once.
    changed: hears every new count.
    """

    def __init__(
        self,
        what: str,
        *,
        owner: str,
        most: int | None = None,
        changed: Callable[[int], object] | None = None,
    ) -> None:
        self.count = 0
        self.draining = False
        self._what = what
        self._owner = owner
        self._most = most
        self._changed = changed
        self._empty = asyncio.Event()
        self._empty.set()

    def check(self) -> None:
        """Raise UnavailableError while the service drains, ResourceExhaustedError when it is full:
        what `under_way` would."""
        if self.draining:
            raise UnavailableError(f"{self._owner} is draining")
        if self._most is not None and self.count >= self._most:
            raise ResourceExhaustedError(f"{self.count} {self._what} are under way already")

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Counts one more for as long as the context lasts. Raises what `check` does."""
        self.check()
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def refuse(self) -> None:
        """Take no more; what is under way goes on."""
        self.draining = True

    async def drain(self, timeout_s: float | None = None) -> bool:
        """Take no more, and wait until none is under way. False if some are left after that time.
        None: whoever calls sets the limit."""
        self.refuse()
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _count(self, change: int) -> None:
        self.count += change
        if self.count:
            self._empty.clear()
        else:
            self._empty.set()
        if self._changed is not None:
            self._changed(self.count)
