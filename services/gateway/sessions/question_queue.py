"""Queue of a session's questions: whose each is, and whose is next.

Viewers need no account, so a viewer is who asks over one connection or its successors, and all
viewers at one place (see `services.common.places`) share what a place may have.
"""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.gateway import metrics
from sightline.errors import DeadlineExceededError


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody who asks. `place` is "" where limits per address do not hold."""

    place: str = ""
    viewer: str = ""


class QuestionQueue:
    """A session's questions: `most` with the worker at once; the others wait, and places take
    turns, and at each place its viewers. One event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running = 0
        self._waiting: OrderedDict[str, OrderedDict[str, deque[asyncio.Future[None]]]]
        self._waiting = OrderedDict()

    @property
    def num_waiting(self) -> int:
        return sum(
            len(questions) for viewers in self._waiting.values() for questions in viewers.values()
        )

    @property
    def has_room(self) -> bool:
        """Whether one more question would be let through at once, and another after it."""
        return self._running + 1 < self._most

    @contextlib.asynccontextmanager
    async def slot(self, asker: Asker, timeout_s: float) -> AsyncIterator[None]:
        """Wait until the worker may have the question. Raises DeadlineExceededError when it is not
        let through in time."""
        if self._running < self._most:
            self._running += 1
        else:
            await self._wait(asker, timeout_s)
        try:
            yield
        finally:
            self._running -= 1
            self._go_on()

    async def _wait(self, asker: Asker, timeout_s: float) -> None:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        viewers = self._waiting.setdefault(asker.place, OrderedDict())
        viewers.setdefault(asker.viewer, deque()).append(granted)
        metrics.QUESTIONS_WAITING.inc()
        try:
            async with asyncio.timeout(timeout_s):
                await granted
        except (TimeoutError, asyncio.CancelledError) as error:
            if granted.done() and not granted.cancelled():  # given and given up in one moment
                self._running -= 1
                self._go_on()
            else:
                self._leave(asker, granted)
            if isinstance(error, TimeoutError):
                raise DeadlineExceededError("too many questions wait: try again later") from None
            raise
        finally:
            metrics.QUESTIONS_WAITING.dec()

    def _leave(self, asker: Asker, granted: "asyncio.Future[None]") -> None:
        viewers = self._waiting[asker.place]
        viewers[asker.viewer].remove(granted)
        if not viewers[asker.viewer]:
            del viewers[asker.viewer]
        if not viewers:
            del self._waiting[asker.place]

    def _go_on(self) -> None:
        while self._waiting and self._running < self._most:
            place, viewers = self._waiting.popitem(last=False)
            viewer, questions = viewers.popitem(last=False)
            granted = questions.popleft()
            if questions:  # to the end of the row, as with its place
                viewers[viewer] = questions
            if viewers:
                self._waiting[place] = viewers
            self._running += 1
            granted.set_result(None)
