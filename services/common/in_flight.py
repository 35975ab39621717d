"""Calls under way: how many there may be, whose they are, and that a service ends after them."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import Counter as Metric

from services.common.metrics import REFUSED
from sightline.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from sightline.reasons import Reason

DRAINING_S = 5.0  # until whoever takes the place of a service that ends may answer


def share(most: int, others: int) -> int:
    """Number that one place may have, of `most`, where other places have `others`: half of what
    they leave. So whoever comes later finds room."""
    return max(1, (most - others + 1) // 2)


class InFlight:
    """Counts what is under way, refuses what is too much, and waits for the rest when its service
    ends. One event loop.

    what: in messages, "answers". owner: who refuses, "the worker". most: None, or so many at once,
    of which one place (see `services.common.places`) may have its `share`; "" is no place.
    changed: hears every new count. reason: of refusals of what is too much.
    """

    def __init__(
        self,
        what: str,
        *,
        owner: str,
        most: int | None = None,
        changed: Callable[[int], object] | None = None,
        reason: Reason = Reason.TOO_MANY_QUESTIONS,
    ) -> None:
        self.draining = False
        self._what = what
        self._owner = owner
        self._most = most
        self._changed = changed
        self._too_many = reason
        self._places: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def count(self) -> int:
        return self._places.total()

    def check(self, place: str = "") -> None:
        """Raise UnavailableError while the service drains, ResourceExhaustedError when it is full
        or the place has its share: what `enter` would."""
        if self.draining:
            raise UnavailableError(
                f"{self._owner} is draining", reason=Reason.DRAINING, retry_after_s=DRAINING_S
            )
        if self._most is None:
            return
        count, mine = self.count, self._places[place]
        if count >= self._most:
            raise self._refusal(
                "full", f"{count} {self._what} are under way already: wait a little"
            )
        if place and mine >= share(self._most, count - mine):
            raise self._refusal(
                "share", f"{mine} {self._what} from your address are under way: end one first"
            )

    def enter(self, place: str = "") -> None:
        """Count one more, until `leave`. Raises what `check` does."""
        self.check(place)
        self._places[place] += 1
        self._tell()

    def leave(self, place: str = "") -> None:
        self._places[place] -= 1
        if not self._places[place]:
            del self._places[place]
        self._tell()

    @contextlib.contextmanager
    def under_way(self, place: str = "") -> Iterator[None]:
        """Counts one more for as long as the context lasts. Raises what `check` does."""
        self.enter(place)
        try:
            yield
        finally:
            self.leave(place)

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

    def _tell(self) -> None:
        if self.count:
            self._empty.clear()
        else:
            self._empty.set()
        if self._changed is not None:
            self._changed(self.count)

    def _refusal(self, reason: str, message: str) -> ResourceExhaustedError:
        REFUSED.labels("calls", reason).inc()
        return ResourceExhaustedError(message, reason=self._too_many, retry_after_s=1.0)


@contextlib.contextmanager
def counted_end(ended: Metric) -> Iterator[None]:
    """Counts how a call ends that has a context like this, by reason."""
    reason = "cancelled"  # what remains when the caller goes away
    try:
        yield
        reason = "done"
    except Exception as error:
        reason = _ENDS.get(type(error), "failed")
        raise
    finally:
        ended.labels(reason).inc()


_ENDS: dict[type[Exception], str] = {
    InvalidArgumentError: "refused",
    ResourceExhaustedError: "full",
    DeadlineExceededError: "idle",
    UnavailableError: "draining",
}
