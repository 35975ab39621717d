"""Work that is done once, however often it is asked for: what makes calls safe to repeat."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from sightline.errors import InvalidArgumentError
from sightline.reasons import Reason

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    """One piece of work. `asked`: what it was asked for, to tell a repetition from a mistake."""

    asked: bytes
    task: asyncio.Task[T]
    waiting: int = 0
    done_s: float | None = None  # monotonic


class Once(Generic[T]):
    """Results by key, each kept for `kept_s`, at most `most` of them; the oldest leaves first.

    Who asks for what is under way waits for it with the others. Work that nobody waits for any more
    is cancelled, and what failed is forgotten, so that it can be tried again. One event loop.
    """

    def __init__(
        self,
        name: str,
        *,
        most: int,
        kept_s: float,
        reason: Reason,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """name: of the tasks. reason: of the refusal of a key that was used for something else."""
        self._name = name
        self._most = most
        self._kept_s = kept_s
        self._reason = reason
        self._clock = clock
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def do(self, key: Hashable, asked: bytes, work: Callable[[], Awaitable[T]]) -> T:
        """The result of the work with this key, done now or before. Raises what the work raises,
        and InvalidArgumentError for a key that was used to ask for something else."""
        self._forget()
        entry = self._entries.get(key)
        if entry is None:
            entry = self._begin(key, asked, work)
        elif entry.asked != asked:
            raise InvalidArgumentError(
                "this id was used for another request: draw a new one", reason=self._reason
            )
        entry.waiting += 1
        try:
            return await asyncio.shield(entry.task)
        finally:
            entry.waiting -= 1
            if not entry.waiting and not entry.task.done():
                self._drop(key, entry)
                entry.task.cancel()

    def _begin(self, key: Hashable, asked: bytes, work: Callable[[], Awaitable[T]]) -> _Entry[T]:
        async def run() -> T:
            return await work()

        # Not by `spawn`: what it fails of is for those who wait.
        entry = _Entry(asked, asyncio.create_task(run(), name=self._name))
        self._entries[key] = entry

        def ended(task: asyncio.Task[T]) -> None:
            entry.done_s = self._clock()
            if task.cancelled() or task.exception() is not None:
                self._drop(key, entry)

        entry.task.add_done_callback(ended)
        return entry

    def _drop(self, key: Hashable, entry: _Entry[T]) -> None:
        if self._entries.get(key) is entry:
            del self._entries[key]

    def _forget(self) -> None:
        """Let go of what is too old or too much. What is under way stays: its callers bound it."""
        oldest_s = self._clock() - self._kept_s
        spare = len(self._entries) - self._most + 1
        for key, entry in list(self._entries.items()):
            if entry.done_s is None:
                continue
            if entry.done_s > oldest_s and spare <= 0:
                break
            del self._entries[key]
            spare -= 1
