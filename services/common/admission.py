"""Admission of gRPC calls: which may begin, and whose messages are being received.

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
from services.common.places import Trusted, split_peer
from sightline.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from sightline.reasons import Reason

PATIENCE_S = 1.0  # that a message may take while others wait for its turn
LOOKS = 4  # in that time


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """Limits on what callers hold of one gRPC port.

    `calls` at once, over all and of one place; `streams_per_place`: of those, how many stream their
    requests, because a message of each may be on its way at any time; `streams_per_connection`:
    calls that one connection carries. `receiving`: single requests of one place that are on their
    way; `request_s`: how long each may take. The defaults are for ports that only other services
    reach, all of them from few places.
    """

    calls: int = 16384
    calls_per_place: int = 16384
    streams_per_place: int = 16384
    streams_per_connection: int = 16384
    receiving: int = 1024
    request_s: float = 10.0


@dataclass(slots=True, eq=False)
class _Turn:
    """One message being received. `cut`: others wait, and this one took too long."""

    task: asyncio.Task[Any] | None
    began_s: float = field(default_factory=time.monotonic)
    granted: asyncio.Event = field(default_factory=asyncio.Event)
    looks: int = 0  # of those who wait, at this one; a stall of the event loop is none
    cut: bool = False


class Receiving:
    """Turns of one place: `most` messages on their way at once, the others in order.

    While others wait, messages that have taken `PATIENCE_S` are given up: whoever sends slowly
    keeps those waiting who came with it, and not for long.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._active: set[_Turn] = set()
        self._waiting: deque[_Turn] = deque()

    @property
    def idle(self) -> bool:
        return not self._active and not self._waiting

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn and have it. Raises ResourceExhaustedError when it is cut short."""
        turn = _Turn(asyncio.current_task())
        if len(self._active) < self._most:
            self._active.add(turn)
        else:
            await self._wait(turn)
        turn.began_s = time.monotonic()
        try:
            yield
        except asyncio.CancelledError:
            if turn.cut and turn.task is not None:
                turn.task.uncancel()
                raise ResourceExhaustedError(
                    "the request came too slowly while others waited"
                ) from None
            raise
        finally:
            self._leave(turn)

    async def _wait(self, turn: _Turn) -> None:
        self._waiting.append(turn)
        try:
            while not turn.granted.is_set():
                if self._waiting[0] is turn:
                    self._cut_slow()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE_S / LOOKS):
                        await turn.granted.wait()
        except BaseException:
            self._leave(turn)
            raise

    def _cut_slow(self) -> None:
        now_s = time.monotonic()
        for turn in self._active:
            turn.looks += 1
            slow = turn.looks >= LOOKS and now_s - turn.began_s > PATIENCE_S
            if slow and not turn.cut and turn.task is not None:
                turn.cut = True
                turn.task.cancel()

    def _leave(self, turn: _Turn) -> None:
        with contextlib.suppress(ValueError):
            self._waiting.remove(turn)
        self._active.discard(turn)
        while self._waiting and len(self._active) < self._most:
            following = self._waiting.popleft()
            following.began_s = time.monotonic()
            self._active.add(following)
            following.granted.set()


def place_of_call(context: Any, trusted: Trusted) -> str:
    """Place of the caller; "" where limits per address do not hold."""
    forwarded = ""
    host = split_peer(context.peer())[0]
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
        self._peers: Counter[tuple[str, int]] = Counter()
        self._receiving: dict[str, Receiving] = {}

    def place(self, context: Any) -> str:
        return place_of_call(context, self._trusted)

    @contextlib.contextmanager
    def busy(self, context: Any) -> Iterator[None]:
        """Note while it lasts that a connection has a call."""
        peer = split_peer(context.peer())
        self._peers[peer] += 1
        try:
            yield
        finally:
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]

    def is_busy(self, peer: tuple[str, int]) -> bool:
        return peer in self._peers

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
            raise ResourceExhaustedError(
                "too many calls are open: end one first", reason=Reason.TOO_MANY_CALLS
            )
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
            async with receiving.turn(), asyncio.timeout(self._limits.request_s):
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
