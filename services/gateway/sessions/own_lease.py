"""The lease of one session, as its gateway knows it: whether the session still is its own."""

import asyncio
import contextlib
import time

WAIT_S = 2.0  # that a question waits to hear whether the session still is this gateway's


class OwnLease:
    """How long the session is this gateway's, which may have slept meanwhile. One event loop."""

    def __init__(self) -> None:
        self._until_s = float("inf")  # there is one gateway
        self._told = asyncio.Event()

    def note(self, until_s: float) -> None:
        """The session is this gateway's until then (monotonic), as far as others know."""
        self._until_s = until_s
        self._told.set()
        self._told = asyncio.Event()

    async def wait_told(self, timeout_s: float) -> None:
        """Wait, where it has run out, until it is renewed or given up, but not for long: another
        gateway may have the session by now."""
        if time.monotonic() > self._until_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(timeout_s, WAIT_S)):
                    await self._told.wait()
