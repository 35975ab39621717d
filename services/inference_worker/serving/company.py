"""Company: callers that wait for each other, so that a device does for all what it does for one."""

import asyncio


class Company:
    """Lets callers go on together: when `most` are there, or the first has waited for
    `patience_s`. One event loop."""

    def __init__(self, most: int, patience_s: float) -> None:
        self._most = most
        self._patience_s = patience_s
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self) -> None:
        """Return once there is company, or no more patience."""
        if self._patience_s <= 0 or self._most <= 1:
            return
        loop = asyncio.get_running_loop()
        going: asyncio.Future[None] = loop.create_future()
        self._waiting.append(going)
        if len(self._waiting) >= self._most:
            self._go()
        elif self._timer is None:
            self._timer = loop.call_later(self._patience_s, self._go)
        try:
            await going
        finally:
            if going in self._waiting:  # it was cancelled
                self._waiting.remove(going)

    def _go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for going in waiting:
            if not going.done():
                going.set_result(None)
