"""Client of the dialogue service: conversations, read and written without holding an answer up."""

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from dataclasses import dataclass

import grpc
from prometheus_client import Counter, Gauge

from services.common.backoff import Backoff
from services.common.channels import channel_to
from services.common.identity import Identity
from services.common.tasks import cancel_and_wait, spawn
from services.common.tracing import trace_headers
from services.inference_worker.model.family import Round
from sightline.v1 import dialogue_pb2, dialogue_pb2_grpc

log = logging.getLogger(__name__)

ROUNDS = Counter(
    "sightline_worker_rounds_total",
    "Finished rounds by what became of them: written, duplicate, or dropped and why.",
    ["outcome"],  # written, duplicate, dropped_full, dropped_refused, dropped_shutdown
)
ROUNDS_WAITING = Gauge("sightline_worker_rounds_waiting", "Rounds not yet written to dialogue.")
CONTEXTS = Counter(
    "sightline_worker_contexts_total", "Histories asked of dialogue, by outcome.", ["outcome"]
)

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
MOST_READS = 16


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A finished round on its way to dialogue."""

    conversation: str
    session: str
    round: dialogue_pb2.Round


class DialogueClient:
    """Conversations at an address, or on a channel that the caller keeps. Made on a running event
    loop.

    At most `MOST_READS` conversations are read at a time, so that a thousand questions at once do
    not time each other out. Rounds are written in the background, in order, and again until
    dialogue takes them; at most `max_waiting` wait, then the oldest is dropped and counted.
    `available` is what an answer's `degraded` says: False from a failure until the same works
    again, for a Redis that is full is read as ever and takes nothing.
    """

    def __init__(
        self,
        peer: str | grpc.aio.Channel,
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
        self._context_timeout_s = context_timeout_s
        self._append_timeout_s = append_timeout_s
        self._flush_timeout_s = flush_timeout_s
        self._max_waiting = max_waiting
        self._first_backoff_s = first_backoff_s
        self._max_backoff_s = max_backoff_s
        self._reading = asyncio.Semaphore(MOST_READS)
        self._waiting: deque[_Waiting] = deque()
        self._on_wire = False  # the first of them is being written
        self._closing = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether dialogue gives and takes rounds, as far as is known."""
        return not self._failing

    @property
    def num_waiting(self) -> int:
        """Rounds that dialogue has not acknowledged yet."""
        return len(self._waiting)

    async def context(self, conversation: str, rounds: int) -> list[Round] | None:
        """The last `rounds` rounds, oldest first, those still waiting to be written included.

        While dialogue is away: the waiting ones alone, or None where there are none. Takes no
        longer than the deadline, and the turns of those who came before; raises nothing.
        """
        request = dialogue_pb2.ContextRequest(conversation=conversation, rounds=rounds)
        # Taken before dialogue answers: what is written meanwhile is then seen at least once.
        waiting = [item.round for item in self._waiting if item.conversation == conversation]
        kept = await self._read(request)
        CONTEXTS.labels("failed" if kept is None else "read").inc()
        if kept is None and not waiting:
            return None
        by_turn = {round_.turn: round_ for round_ in [*(kept or []), *waiting]}
        newest = list(by_turn.values())[-rounds:] if rounds > 0 else []
        return [Round(round_.question, round_.answer) for round_ in newest]

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
        session: str = "",
    ) -> None:
        """Hand over a finished round; it is written in the background. `session`: where the
        conversation takes place, kept if this round is its first."""
        if self._closing.is_set():
            ROUNDS.labels("dropped_shutdown").inc()
            return
        if len(self._waiting) >= self._max_waiting:
            del self._waiting[1 if self._on_wire and len(self._waiting) > 1 else 0]
            ROUNDS.labels("dropped_full").inc()
        round_ = dialogue_pb2.Round(
            turn=turn or secrets.token_urlsafe(12),  # without an id of its own it counts as new
            question=question,
            answer=answer,
            asked_ns=asked_ns,
            capture_ns=capture_ns,
            interrupted=interrupted,
        )
        self._waiting.append(_Waiting(conversation, session, round_))
        ROUNDS_WAITING.set(len(self._waiting))
        if self._writer is None or self._writer.done():
            self._writer = spawn(self._write_all(), name="write rounds")

    async def aclose(self) -> None:
        """Write what still waits, within `flush_timeout_s`; the rest is dropped and counted."""
        self._closing.set()
        if self._writer is not None:
            await asyncio.wait([self._writer], timeout=self._flush_timeout_s)
            await cancel_and_wait(self._writer)
        if self._waiting:
            ROUNDS.labels("dropped_shutdown").inc(len(self._waiting))
            log.warning("rounds lost at shutdown", extra={"rounds": len(self._waiting)})
            self._waiting.clear()
            ROUNDS_WAITING.set(0)
        if self._owns_channel:
            await self._channel.close()

    async def _write_all(self) -> None:
        """Write until nothing waits. One at a time, so that rounds keep their order."""
        backoff = Backoff(self._first_backoff_s, self._max_backoff_s)
        while self._waiting:
            item = self._waiting[0]
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
            self._note_success("write")  # a round that it will not have says nothing of others
            backoff.reset()
            if self._waiting and self._waiting[0] is item:  # not dropped to make room
                self._waiting.popleft()
                ROUNDS.labels(outcome).inc()
            ROUNDS_WAITING.set(len(self._waiting))

    async def _write(self, item: _Waiting) -> str:
        request = dialogue_pb2.AppendRequest(conversation=item.conversation, round=item.round)
        self._on_wire = True
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
        finally:
            self._on_wire = False
        return "duplicate" if reply.duplicate else "written"

    async def _pause(self, seconds: float) -> None:
        """Wait before the next try; shutting down shortens it."""
        if self._closing.is_set():
            await asyncio.sleep(min(seconds, self._first_backoff_s))
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), seconds)

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
