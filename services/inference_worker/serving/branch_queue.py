"""Results of a branch, from the device thread to whoever waits for them."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from services.inference_worker.engine.jobs import FinishReason, Seen


@dataclass(frozen=True, slots=True)
class BranchQueue:
    """A `BranchSink` that carries results from the device thread into an asyncio queue, as
    (kind, value). The queue needs no bound: a branch gives at most max_tokens + 2 results."""

    loop: asyncio.AbstractEventLoop
    queue: "asyncio.Queue[tuple[str, Any]]" = field(default_factory=asyncio.Queue)

    def _put(self, kind: str, value: Any) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.queue.put_nowait, (kind, value))

    def started(self, seen: Seen) -> None:
        self._put("started", seen)

    def token(self, token: int) -> None:
        self._put("token", token)

    def scored(self, score: float) -> None:
        self._put("scored", score)

    def finished(self, reason: FinishReason) -> None:
        self._put("finished", reason)

    def failed(self, error: Exception) -> None:
        self._put("failed", error)
