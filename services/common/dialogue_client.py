"""Client of the dialogue service: conversations, read and written without holding an answer up."""

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass

import grpc
from prometheus_client import Counter, Gauge

from services.common.backoff import Backoff
from services.common.channels import channel_to
from services.common.identity import Identity
from services.common.tasks import cancel_and_wait, spawn
from services.common.tracing import trace_headers
from sightline.v1 import dialogue_pb2, dialogue_pb2_grpc

log = logging.getLogger(__name__)

# Trying again can help. Anything else says that this round will never be taken.
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # Redis is full: it may be emptied
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)
MOST_READS = MOST_WRITES = 16


@dataclass(frozen=True, slots=True)
class RoundMetrics:
    """Counters of a service's rounds: by what became of them, those not yet written, and the
    histories that it asked for."""

    rounds: Counter  # outcome: written, duplicate, dropped_full, dropped_refused, dropped_shutdown
    waiting: Gauge
    contexts: Counter | None = None  # outcome: read, failed


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A finished round on its way to dialogue, the `number`-th. `stored` is told what became of
    it."""

    number: int
    conversation: str
    session: str
    round: dialogue_pb2.Round
    stored: "asyncio.Future[bool]"

    def settle(self, stored: bool) -> None:
        if not self.stored.done():
            self.stored.set_result(stored)


class DialogueClient:
    """Conversations at an address, or on a channel that the caller keeps. Made on a running event
    loop.

    At most `MOST_READS` conversations are read at a time, so that a thousand questions at once do
    not time each other out. Rounds are written in the background, those of a conversation in order,
    and again until dialogue takes them; at most `max_waiting` wait, then the oldest is dropped and
    counted. `available` is what an answer's `degraded` says: False from a failure until the same
    works again, for a Redis that is full is read as ever and takes nothing.
    """

    def __init__(
        self,
        peer: str | grpc.aio.Channel,
        metrics: RoundMetrics,
        *,
        context_timeout_s: float = 0.3,
        append_timeout_s: float = 5.0,
        flush_timeout_s: float = 3.0,
        max_waiting: int = 4096,
        first_backoff_s: float = 0.1,
        max_backoff_s: float = 2.0,
        identity: Identity | None = None,
    ) -> None:
        self._failing: set[str] = set()  # of "read", "write"
        self._channel, self._owns_channel = channel_to(peer, identity)
        self._stub = dialogue_pb2_grpc.DialogueServiceStub(self._channel)
        self._metrics = metrics
        self._context_timeout_s = context_timeout_s
        self._append_timeout_s = append_timeout_s
        self._flush_timeout_s = flush_timeout_s
        self._max_waiting = max_waiting
        self._first_backoff_s = first_backoff_s
        self._max_backoff_s = max_backoff_s
        self._reading = asyncio.Semaphore(MOST_READS)
        self._waiting: OrderedDict[str, deque[_Waiting]] = OrderedDict()  # by conversation
        self._num_waiting = 0
        self._numbers = itertools.count()
        self._on_wire: set[str] = set()  # conversations of which the first round is being written
        self._closing = asyncio.Event()
        self._writers: set[asyncio.Task[None]] = set()

    @property
    def available(self) -> bool:
        """Whether dialogue gives and takes rounds, as far as is known."""
        return not self._failing

    @property
    def num_waiting(self) -> int:
        """Rounds that dialogue has not acknowledged yet."""
        return self._num_waiting

    async def context(
        self, conversation: str, rounds: int, *, before: str = ""
    ) -> list[dialogue_pb2.Round] | None:
        """The last `rounds` rounds, oldest first, those still waiting to be written included.
        `before`: a turn that is asked again, and is no part of its own history.

        While dialogue is away: the waiting ones alone, or None where there are none. Takes no
        longer than the deadline, and the turns of those who came before; raises nothing.
        """
        wanted = rounds + bool(before)
        request = dialogue_pb2.ContextRequest(conversation=conversation, rounds=wanted)
        # Taken before dialogue answers: what is written meanwhile is then seen at least once.
        waiting = [item.round for item in self._waiting.get(conversation, ())]
        kept = await self._read(request)
        if self._metrics.contexts is not None:
            self._metrics.contexts.labels("failed" if kept is None else "read").inc()
        if kept is None and not waiting:
            return None
        by_turn = {round_.turn: round_ for round_ in [*(kept or []), *waiting]}
        if before:
            by_turn.pop(before, None)
        return list(by_turn.values())[-rounds:] if rounds > 0 else []

    async def _read(self, request: dialogue_pb2.ContextRequest) -> list[dialogue_pb2.Round] | None:
        """Rounds that dialogue keeps; None where it does not say. Who waits for the turn of others
        while dialogue goes away does not try as well."""
        hopeful = "read" not in self._failing
        if not hopeful and self._reading.locked():
            return None
        async with self._reading:
            if hopeful and "read" in self._failing:
                return None
            kept: list[dialogue_pb2.Round] = []
            try:
                reply = await self._stub.Context(
                    request, timeout=self._context_timeout_s, metadata=trace_headers()
                )
                kept = list(reply.rounds)
            except grpc.aio.AioRpcError as error:
                # NOT_FOUND: new, or expired; it begins with a round.
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    self._note_failure("read", error)
                    return None
            self._note_success("read")
            return kept

    def append(
        self,
        conversation: str,
        *,
        turn: str,
        question: str,
        answer: str,
        asked_ns: int,
        capture_ns: int,
        interrupted: bool,
        cut: bool = False,
        session: str = "",
    ) -> "asyncio.Future[bool]":
        """Hand over a finished round; it is written in the background. `session`: where the
        conversation takes place, kept if this round is its first. The result: whether it is stored,
        once that is known; nobody has to wait for it."""
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._closing.is_set():
            self._metrics.rounds.labels("dropped_shutdown").inc()
            stored.set_result(False)
            return stored
        if self._num_waiting >= self._max_waiting:
            self._drop_oldest()
        round_ = dialogue_pb2.Round(
            turn=turn or secrets.token_hex(12),  # without an id of its own it counts as new
            question=question,
            answer=answer,
            asked_ns=asked_ns,
            capture_ns=capture_ns,
            interrupted=interrupted,
            cut=cut,
        )
        item = _Waiting(next(self._numbers), conversation, session, round_, stored)
        self._waiting.setdefault(conversation, deque()).append(item)
        self._count(+1)
        if len(self._writers) < MOST_WRITES:
            writer = spawn(self._write_all(), name="write rounds")
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        return stored

    def forget(self, conversation: str) -> None:
        """Write nothing more of a conversation, which is being deleted."""
        for item in self._waiting.pop(conversation, ()):
            item.settle(False)
            self._count(-1)

    async def aclose(self) -> None:
        """Write what still waits, within `flush_timeout_s`; the rest is dropped and counted."""
        self._closing.set()
        if self._writers:
            await asyncio.wait(set(self._writers), timeout=self._flush_timeout_s)
            await cancel_and_wait(*self._writers)
        if self._num_waiting:
            self._metrics.rounds.labels("dropped_shutdown").inc(self._num_waiting)
            log.warning("rounds lost at shutdown", extra={"rounds": self._num_waiting})
            for conversation in list(self._waiting):
                self.forget(conversation)
        if self._owns_channel:
            await self._channel.close()

    # --- writing ----------------------------------------------------------------------------

    async def _write_all(self) -> None:
        """Write until nothing waits but what others write. Of a conversation one round at a time,
        so that they keep their order."""
        backoff = Backoff(self._first_backoff_s, self._max_backoff_s)
        while (item := self._next()) is not None:
            conversation = item.conversation
            self._on_wire.add(conversation)
            try:
                outcome = await self._write(item)
            except grpc.aio.AioRpcError as error:
                if error.code() in _PASSING:
                    self._note_failure("write", error)
                    await self._pause(backoff.next_s())
                    continue
                outcome = "dropped_refused"
                log.error(
                    "round refused",
                    extra={"code": error.code().name, "reason": error.details()},
                )
            finally:
                self._on_wire.discard(conversation)
            self._note_success("write")  # a round that it will not have says nothing of others
            backoff.reset()
            self._written(item, outcome)

    def _next(self) -> _Waiting | None:
        """The first round of a conversation that nobody writes, those in turn that wait longest."""
        for conversation, items in self._waiting.items():
            if conversation not in self._on_wire:
                self._waiting.move_to_end(conversation)
                return items[0]
        return None

    def _written(self, item: _Waiting, outcome: str) -> None:
        self._metrics.rounds.labels(outcome).inc()
        item.settle(outcome in ("written", "duplicate"))
        items = self._waiting.get(item.conversation)
        if items is None or items[0] is not item:  # forgotten meanwhile
            return
        items.popleft()
        if not items:
            del self._waiting[item.conversation]
        self._count(-1)

    async def _write(self, item: _Waiting) -> str:
        request = dialogue_pb2.AppendRequest(conversation=item.conversation, round=item.round)
        try:
            reply = await self._stub.Append(request, timeout=self._append_timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            opening = dialogue_pb2.OpenConversationRequest(
                id=item.conversation, session=item.session
            )
            await self._stub.Open(opening, timeout=self._append_timeout_s)
            reply = await self._stub.Append(request, timeout=self._append_timeout_s)
        return "duplicate" if reply.duplicate else "written"

    def _drop_oldest(self) -> None:
        """Make room for one more round. What is being written stays."""
        candidates = [
            items[at]
            for conversation, items in self._waiting.items()
            if len(items) > (at := int(conversation in self._on_wire))
        ]
        if not candidates:
            return
        oldest = min(candidates, key=lambda item: item.number)
        items = self._waiting[oldest.conversation]
        items.remove(oldest)
        if not items:
            del self._waiting[oldest.conversation]
        oldest.settle(False)
        self._metrics.rounds.labels("dropped_full").inc()
        self._count(-1)

    def _count(self, more: int) -> None:
        self._num_waiting += more
        self._metrics.waiting.set(self._num_waiting)

    async def _pause(self, seconds: float) -> None:
        """Wait before the next try; shutting down shortens it."""
        if self._closing.is_set():
            await asyncio.sleep(min(seconds, self._first_backoff_s))
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closing.wait()

    def _note_failure(self, operation: str, error: grpc.aio.AioRpcError) -> None:
        if self.available:
            fields = {"operation": operation, "code": error.code().name, "reason": error.details()}
            log.warning("dialogue is away", extra=fields)
        self._failing.add(operation)

    def _note_success(self, operation: str) -> None:
        if operation in self._failing:
            self._failing.remove(operation)
            if self.available:
                log.info("dialogue answers again")
