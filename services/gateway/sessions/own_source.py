"""Source that a session itself reads: opened with it, and again where another gateway had it."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from services.common.backoff import Backoff
from services.common.tasks import cancel_and_wait, spawn
from services.gateway.sessions.session_spec import SessionSpec
from services.gateway.sources.source import FrameSink, Source
from sightline.errors import SightlineError

log = logging.getLogger(__name__)

MakeSource = Callable[[SessionSpec, FrameSink], Source]
Admit = Callable[[], AbstractContextManager[FrameSink]]

REOPENS = 8  # tries at a file
CLOSE_S = 5.0


class OwnSource:
    """File or URL of a session, if it has one. It holds nothing of the session, which is freed at
    once when it ends; `admit` lends the session's sink while the source starts."""

    def __init__(self, session_id: str, spec: SessionSpec) -> None:
        self._id = session_id
        self._spec = spec
        self._source: Source | None = None
        self._reopening: asyncio.Task[None] | None = None

    async def open(self, make_source: MakeSource, timeout_s: float, admit: Admit) -> None:
        """Start it. Raises what it raises, or TimeoutError."""
        if not self._spec.source:
            return
        with admit() as sink:
            self._source = make_source(self._spec, sink)
            async with asyncio.timeout(timeout_s):
                await self._source.start()

    def reopen(
        self,
        make_source: MakeSource,
        timeout_s: float,
        away_s: float,
        admit: Admit,
        failed: Callable[[], None],
    ) -> None:
        """Start it in the background. A URL is tried for `away_s`, for ever where that is 0; a file
        for REOPENS times. `failed` is called at the end of that."""
        if self._spec.source:
            self._reopening = spawn(
                self._reopen(make_source, timeout_s, away_s, admit, failed),
                name=f"{self._id}:source:reopen",
            )

    async def _reopen(
        self,
        make_source: MakeSource,
        timeout_s: float,
        away_s: float,
        admit: Admit,
        failed: Callable[[], None],
    ) -> None:
        backoff, lost_s = Backoff(0.5, 15.0), time.monotonic()
        is_url = "://" in self._spec.source
        for tries in itertools.count(1):
            try:
                await self.open(make_source, timeout_s, admit)
                return
            except (SightlineError, TimeoutError, OSError, ValueError) as error:
                log.warning(
                    "source not opened again",
                    extra={"session": self._id, "reason": type(error).__name__},
                )
            if self._source is not None:
                await self._source.aclose()
                self._source = None
            gone = 0 < away_s <= time.monotonic() - lost_s if is_url else tries >= REOPENS
            if gone:
                break
            await asyncio.sleep(backoff.next_s())
        failed()

    async def stay_closed(self) -> None:
        """Try no longer to open it."""
        await cancel_and_wait(self._reopening)
        self._reopening = None

    async def aclose(self) -> None:
        """End it; one that does not end soon is left to itself."""
        if self._source is not None:
            closing = spawn(self._source.aclose(), name=f"{self._id}:source:close")
            done, _ = await asyncio.wait({closing}, timeout=CLOSE_S)
            if not done:
                await cancel_and_wait(closing)
