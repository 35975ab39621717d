"""The events of one viewer: waiting to be sent, and sent but perhaps lost.

Numbers are given when an event is handed out, so that what was never sent leaves no gap.
"""

import asyncio
from collections import deque

from services.gateway import metrics
from sightline.v1 import gateway_pb2

# What a resumed viewer gets anew anyway, and what says only "now".
_NOT_REPLAYED = frozenset({"started", "session_state", "watch_status", "go_away"})


class OutboxFullError(Exception):
    """The viewer does not read; what waits for it has reached its bound."""


class Outbox:
    """Bounded in events and in bytes. One reader at a time, one event loop.

    States, of the session and of each watch, are not queued: the newest one waits until everything
    else is sent, an older one is dropped and counted.
    """

    def __init__(self, *, max_pending: int, max_kept: int, max_bytes: int) -> None:
        self._max_pending = max_pending
        self._max_kept = max_kept
        self._max_bytes = max_bytes
        self._pending: deque[gateway_pb2.ServerEvent] = deque()
        self._pending_bytes = 0
        self._kept: deque[gateway_pb2.ServerEvent] = deque()
        self._kept_bytes = 0
        self._state: gateway_pb2.Session | None = None
        self._statuses: dict[str, gateway_pb2.WatchStatus] = {}  # watch → its newest, not sent yet
        self._sequence = 0
        self._lost_through = 0  # the newest event that was sent and then forgotten
        self._finishing = False
        self._closed = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, event: gateway_pb2.ServerEvent) -> None:
        """Queue an event that must arrive. Raises OutboxFullError; after `close` it is dropped."""
        if self._closed:
            metrics.EVENTS_DROPPED.labels("line_closed").inc()
            return
        size_bytes = event.ByteSize()
        full = len(self._pending) >= self._max_pending
        if full or self._pending_bytes + size_bytes > self._max_bytes:
            raise OutboxFullError
        self._pending.append(event)
        self._pending_bytes += size_bytes
        self._changed.set()

    def put_state(self, session: gateway_pb2.Session) -> None:
        """Offer the session's newest state; it replaces one that was not sent yet."""
        if self._closed:
            return
        if self._state is not None:
            metrics.EVENTS_DROPPED.labels("session_state").inc()
        self._state = session
        self._changed.set()

    def put_status(self, status: gateway_pb2.WatchStatus) -> None:
        """Offer a watch's newest status; it replaces one that was not sent yet."""
        if self._closed:
            return
        if status.watch in self._statuses:
            metrics.EVENTS_DROPPED.labels("watch_status").inc()
        self._statuses[status.watch] = status
        self._changed.set()

    async def next(self) -> gateway_pb2.ServerEvent | None:
        """The next event, numbered; None when finishing or closed and nothing is left."""
        while True:
            if self._pending:
                event = self._pending.popleft()
                self._pending_bytes -= event.ByteSize()
                break
            if self._closed or self._finishing:
                return None
            if self._state is not None:
                event = gateway_pb2.ServerEvent(session_state=self._state)
                self._state = None
                break
            if self._statuses:
                oldest = next(iter(self._statuses))
                event = gateway_pb2.ServerEvent(watch_status=self._statuses.pop(oldest))
                break
            self._changed.clear()
            await self._changed.wait()
        self._sequence += 1
        event.sequence = self._sequence
        if event.WhichOneof("event") not in _NOT_REPLAYED:
            self._keep(event)
        return event

    def remembers(self, last_sequence: int) -> bool:
        """Whether everything sent after `last_sequence` is still kept."""
        return self._lost_through <= last_sequence

    def rewind(self, last_sequence: int, first: gateway_pb2.ServerEvent) -> None:
        """Continue after `last_sequence`: `first`, then what was sent later, then what waits.

        Events that come again get new numbers, so that numbers only grow.
        """
        missed = [event for event in self._kept if event.sequence > last_sequence]
        self._kept.clear()
        self._kept_bytes = 0
        self._lost_through = 0
        for event in (*reversed(missed), first):
            event.sequence = 0
            self._pending.appendleft(event)
            self._pending_bytes += event.ByteSize()
        self._finishing = False
        self._changed.set()

    def finish(self) -> None:
        """Let `next` return None once everything queued is handed out. `rewind` undoes it."""
        self._finishing = True
        self._changed.set()

    def close(self, last: gateway_pb2.ServerEvent | None, *, discard: bool = False) -> None:
        """Take no more events; `last` is the final one. `discard` forgets what still waits."""
        if self._closed:
            return
        if discard:
            metrics.EVENTS_DROPPED.labels("slow_reader").inc(len(self._pending))
            self._pending.clear()
            self._pending_bytes = 0
        if last is not None:
            self._pending.append(last)
            self._pending_bytes += last.ByteSize()
        self._state = None
        self._statuses.clear()
        self._closed = True
        self._changed.set()

    def _keep(self, event: gateway_pb2.ServerEvent) -> None:
        self._kept.append(event)
        self._kept_bytes += event.ByteSize()
        while self._kept and (
            len(self._kept) > self._max_kept or self._kept_bytes > self._max_bytes
        ):
            oldest = self._kept.popleft()
            self._kept_bytes -= oldest.ByteSize()
            self._lost_through = oldest.sequence
