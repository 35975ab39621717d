"""Looking workers up: the findings, and how a thread that blocks hands them on."""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass

from services.common.tasks import NewestQueue
from services.gateway import metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """The workers that there are, host:port each. Those `ending` are about to go."""

    addresses: tuple[str, ...]
    ending: frozenset[str] = frozenset()


class Standing:
    """Whether a place can be asked at the moment: the log says so once, a metric all the time.
    Any thread."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._failing = False

    def worked(self) -> None:
        metrics.DISCOVERY_CURRENT.labels(self._place).set(1)
        if self._failing:
            self._failing = False
            log.info("workers can be looked up again", extra={"place": self._place})

    def failed(self, reason: str) -> None:
        metrics.DISCOVERY_CURRENT.labels(self._place).set(0)
        metrics.DISCOVERY_FAILURES.inc()
        if not self._failing:
            self._failing = True
            log.warning(
                "workers cannot be looked up: those known stay",
                extra={"place": self._place, "reason": reason},
            )


async def from_thread(
    looks: Callable[[], Iterator[Found]], stop: Callable[[], None], standing: Standing
) -> AsyncGenerator[Found, None]:
    """Findings of `looks` in a thread of its own, the newest if several wait; at the end `stop` is
    called, which makes `looks` return soon. A defect of ours is told of in `standing`, too."""
    loop = asyncio.get_running_loop()
    newest: NewestQueue[Found] = NewestQueue(1)

    def run() -> None:
        try:
            for found in looks():
                loop.call_soon_threadsafe(newest.put_nowait, found)
        except RuntimeError:
            if not loop.is_closed():
                log.exception("workers are not looked up any more")
        except Exception:
            log.exception("workers are not looked up any more")
            standing.failed("a defect")

    # Nobody waits for its end: a resolver or a server that does not answer can hold it for long.
    threading.Thread(target=run, name="discovery", daemon=True).start()
    try:
        while True:
            yield await newest.get()
    finally:
        stop()
