"""Which gRPC calls may begin, and whose messages are being received.

grpc has one limit for messages, of the whole server, and none for what one address may hold. What
it does offer is that a message is read only when somebody asks for it: so the requests of calls
that have a single one are asked for in turns.
"""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from services.common.metrics import REFUSED
from services.common.places import Trusted, host_of_peer
from sightline.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
)

PATIENCE_S = 1.0  # that a message may take while others wait for its turn


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """`calls` at once, over all and of one place; `streams_per_place`: of those, which stream
    their requests, so that a message of each may be on its way at any time. `receiving`: single
    requests on their way, of one place. `first_message_s`: how long one may take to come."""

    calls: int = 8192
    calls_per_place: int = 4096
    streams_per_place: int = 4096
    receiving: int = 16
    first_message_s: float = 10.0


@dataclass(slots=True, eq=False)
class _Turn:
    """One message being received. `cut`: others wait, and this one took too long."""

    began_s: float = field(default_factory=time.monotonic)
    granted: asyncio.Event = field(default_factory=asyncio.Event)
    cut: bool = False
    task: asyncio.Task[Any] | None = None


class Receiving:
    """Turns of one place: `most` messages on their way at once.

    The newest waits shortest: who sends slowly, or many, keeps those waiting who came with it. A
    message that has taken `PATIENCE_S` while others wait is given up for the next one.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._active: deque[_Turn] = deque()  # oldest first
        self._waiting: list[_Turn] = []

    @property
    def idle(self) -> bool:
        return not self._active and not self._waiting

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn and have it. Raises ResourceExhaustedError when it is cut short."""
        turn = _Turn(task=asyncio.current_task())
        if len(self._active) < self._most:
            self._active.append(turn)
        else:
            self._waiting.append(turn)
            try:
                while not turn.granted.is_set():
                    self._cut_oldest()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(PATIENCE_S / 4):
                            await turn.granted.wait()
            except BaseException:
                self._leave(turn)
                raise
        turn.began_s = time.monotonic()
        try:
            yield
        except asyncio.CancelledError:
            if turn.cut and turn.task is not None:
                turn.task.uncancel()
                raise ResourceExhaustedError(
                    "the message came too slowly while others waited"
                ) from None
            raise
        finally:
            self._leave(turn)

    def _cut_oldest(self) -> None:
        oldest = self._active[0] if self._active else None
        if oldest is None or oldest.cut or time.monotonic() - oldest.began_s < PATIENCE_S:
            return
        oldest.cut = True
        if oldest.task is not None:
            oldest.task.cancel()

    def _leave(self, turn: _Turn) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        if turn in self._active:
            self._active.remove(turn)
        if self._waiting and len(self._active) < self._most:
            following = self._waiting.pop()
            self._active.append(following)
            following.granted.set()


def place_of_call(context: Any, trusted: Trusted) -> str:
    """Where the caller is; "" where limits per address do not hold."""
    forwarded = ""
    host = host_of_peer(context.peer())
    if host in trusted:
        for name, value in context.invocation_metadata() or ():
            if name == "x-forwarded-for" and isinstance(value, str):
                forwarded = value
    return trusted.place(host, forwarded)


class Admission:
    """The calls of one server. One event loop."""

    def __init__(self, limits: CallLimits, trusted: Trusted) -> None:
        self._limits = limits
        self._trusted = trusted
        self._calls: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self._receiving: dict[str, Receiving] = {}

    def place(self, context: Any) -> str:
        return place_of_call(context, self._trusted)

    @contextlib.contextmanager
    def call(self, place: str, streams: bool) -> Iterator[None]:
        """Count a call while it lasts. Raises ResourceExhaustedError for one too many."""
        limits = self._limits
        full = self._calls.total() >= limits.calls
        if place:
            full |= self._calls[place] >= limits.calls_per_place
            full |= streams and self._streams[place] >= limits.streams_per_place
        if full:
            REFUSED.labels("grpc", "too_many_calls").inc()
            raise ResourceExhaustedError("too many calls are open: end one first")
        self._calls[place] += 1
        self._streams[place] += streams
        try:
            yield
        finally:
            self._calls[place] -= 1
            self._streams[place] -= streams
            if not self._calls[place]:
                del self._calls[place], self._streams[place]

    async def first(self, requests: AsyncIterator[Any], place: str) -> Any:
        """The request of a call that has a single one, as bytes.

        Raises InvalidArgumentError where none comes, DeadlineExceededError when it takes too long,
        ResourceExhaustedError when it comes slowly and others wait.
        """
        receiving = self._receiving.setdefault(place, Receiving(self._limits.receiving))
        try:
            async with asyncio.timeout(self._limits.first_message_s), receiving.turn():
                raw = await anext(aiter(requests), None)
        except TimeoutError:
            REFUSED.labels("grpc", "no_message").inc()
            raise DeadlineExceededError("the request did not arrive in time") from None
        except ResourceExhaustedError:
            REFUSED.labels("grpc", "slow_message").inc()
            raise
        finally:
            if receiving.idle:
                self._receiving.pop(place, None)
        if raw is None:
            raise InvalidArgumentError("the call brought no request")
        return raw
