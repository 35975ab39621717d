"""The line of one conversation to the server: one connection after another.

One task reads the connection while it lasts. When it breaks with something open, the line connects
again with its resume handle and the last sequence it saw. Without a connection for `reconnect_s`,
everything open fails with UnavailableError. An idle one that breaks is connected again when there
is something to ask.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod

import grpc

from sightline.calls import Calls, StreamClosedError, backoff_s, from_rpc, send
from sightline.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    ResourceExhaustedError,
    SightlineError,
    UnavailableError,
)
from sightline.v1 import gateway_pb2 as pb
from sightline.wire import error_of

log = logging.getLogger(__name__)

STABLE_S = 5.0  # a connection that lasted so long was a good one: back-off starts anew
SILENCE_S = 3.0  # without a word from the server, which speaks every second
OUTBOX = 1024  # messages to the server that may wait
_BROKEN = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
    )
)


class Line(ABC):
    """Connections of one conversation, `start` tells which. What is open of it is for who derives
    from this to keep. Belongs to one event loop."""

    def __init__(self, calls: Calls, start: pb.Start) -> None:
        self.id = start.conversation
        self._calls = calls
        self._start = start
        self._resume_handle = ""
        self._last_sequence = 0
        self._outbox: asyncio.Queue[pb.ClientEvent] | None = None  # while connected
        self._task: asyncio.Task[None] | None = None
        self._connected = False  # in this or an earlier try since the last break
        self._leaving = False  # as soon as it may

    @property
    @abstractmethod
    def _busy(self) -> bool:
        """Whether there is anything for which to hold a connection."""

    @property
    @abstractmethod
    def _may_leave(self) -> bool:
        """Whether a server that ends has answered all that it will."""

    @abstractmethod
    def _tell(self, session: pb.Session, *, goes_on: bool) -> None:
        """Tell a server that has just been reached what it may not know; `goes_on`: it knows what
        was open before."""

    @abstractmethod
    def _take(self, message: pb.ServerEvent) -> None:
        """Hear the server."""

    @abstractmethod
    def _fail(self, error: SightlineError) -> None:
        """All that is open fails."""

    @property
    def _is_connected(self) -> bool:
        return self._outbox is not None

    def _hold(self) -> None:
        """Hold a connection while there is something open."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(
                self._run(), name=f"conversation:{self._start.session}"
            )

    def _send(self, message: pb.ClientEvent) -> None:
        """Hand a message to the connection; without one, `_tell` tells the server later.
        Raises ResourceExhaustedError."""
        if self._outbox is None:
            return
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            raise ResourceExhaustedError("the server does not read what it is asked") from None

    async def _hang_up(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])

    async def _run(self) -> None:
        """Hold a connection while there is work; returns when one broke and nothing is open."""
        loop = asyncio.get_running_loop()
        within_s = self._calls.timeouts.reconnect_s
        deadline, attempt = loop.time() + within_s, 0
        while self._busy:
            self._connected, since = False, loop.time()
            try:
                failure: SightlineError = await self._connection()
            except grpc.aio.AioRpcError as error:
                failure = from_rpc(error, self._calls.address)
                if error.code() not in _BROKEN and not isinstance(failure, UnavailableError):
                    self._fail(failure)
                    return
            except SightlineError as error:
                self._fail(error)
                return
            now = loop.time()
            if self._connected:
                deadline = now + within_s
                attempt = 0 if now - since > STABLE_S else attempt
            wait_s = backoff_s(attempt, self._calls.rng, least_s=0.05)
            if now + wait_s >= deadline:
                self._fail(UnavailableError(f"{failure.message} (tried for {within_s:g} s)"))
                return
            attempt += 1
            log.debug("connection broke", extra={"error": failure.message, "again_in_s": wait_s})
            if self._busy:
                await asyncio.sleep(wait_s)

    async def _connection(self) -> SightlineError:
        """One connection from start to end. Returns why it ended, or raises what broke it."""
        self._leaving = False
        stub = self._calls.stub
        call = stub.Converse()
        writer = None
        try:
            try:
                async with asyncio.timeout(self._calls.timeouts.call_s):
                    await send(call, pb.ClientEvent(start=self._next_start()))
                    first = await call.read()
            except StreamClosedError:
                first = await call.read()  # raises the server's reason
            except TimeoutError:
                await self._calls.leave(stub)
                return DeadlineExceededError("the server did not start the conversation")
            if first is grpc.aio.EOF:
                return UnavailableError("the server closed the connection")
            self._begin(first)
            assert self._outbox is not None
            writer = asyncio.create_task(_write(call, self._outbox), name="conversation:writer")
            while True:
                try:
                    async with asyncio.timeout(SILENCE_S):
                        message = await call.read()
                except TimeoutError:  # it tells of the session every second
                    await self._calls.leave(stub)
                    return UnavailableError("the server is silent")
                if message is grpc.aio.EOF:
                    break
                self._hear_next(message)
                if self._leaving and self._may_leave:
                    await self._calls.leave(stub)
                    return UnavailableError("the server is going away")
            return UnavailableError("the server closed the connection")
        finally:
            self._outbox = None
            if writer is not None:
                writer.cancel()
            call.cancel()

    def _next_start(self) -> pb.Start:
        start = pb.Start()
        start.CopyFrom(self._start)
        start.conversation = self.id
        start.resume_handle = self._resume_handle
        start.last_sequence = self._last_sequence if self._resume_handle else 0
        return start

    def _begin(self, first: pb.ServerEvent) -> None:
        """Take the server's `started`."""
        if first.WhichOneof("event") == "error":
            raise error_of(first.error)
        if first.WhichOneof("event") != "started":
            raise FailedPreconditionError("the server did not begin with `started`")
        started = first.started
        self._connected = True
        self.id = started.conversation
        self._resume_handle = started.resume_handle
        self._outbox = asyncio.Queue(OUTBOX)
        goes_on = started.resumed == "line"
        if not goes_on:
            self._last_sequence = first.sequence
        self._tell(started.session, goes_on=goes_on)

    def _hear_next(self, message: pb.ServerEvent) -> None:
        if message.sequence:
            if message.sequence <= self._last_sequence:
                return  # came already, before the connection broke
            self._last_sequence = message.sequence
        if message.HasField("go_away"):
            log.debug("server is going away", extra={"reason": message.go_away.reason})
            self._leaving = True
        self._take(message)


async def _write(
    call: "grpc.aio.StreamStreamCall[pb.ClientEvent, pb.ServerEvent]",
    outbox: "asyncio.Queue[pb.ClientEvent]",
) -> None:
    """The connection's only writer. A failed write is the reader's news too."""
    with contextlib.suppress(grpc.aio.AioRpcError, StreamClosedError):
        while True:
            await send(call, await outbox.get())
