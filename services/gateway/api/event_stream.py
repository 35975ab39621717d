"""Server-sent events: a reply that goes on, read by EventSource, curl and every HTTP client."""

import asyncio
import json
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from services.common.tasks import cancel_and_wait, spawn
from services.gateway.api.operations import SSE
from sightline.errors import UnavailableError

T = TypeVar("T")

HEARTBEAT_S = 15.0
SEND_TIMEOUT_S = 20.0
LOOK_S = 0.5  # between two looks at whether the client is still there


class ClientGoneError(Exception):
    """The client has closed its connection."""


class EventStream:
    """One reply. It begins with the first event, so that until then a refusal is an ordinary one.

    A comment is sent whenever nothing was for a while, so that proxies keep the connection.
    """

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(
            headers={"Content-Type": SSE, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        self._sent_s = 0.0
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await cancel_and_wait(self._beating)

    @property
    def begun(self) -> bool:
        return self.response.prepared

    async def begin(self) -> None:
        """Begin before there is an event. Raises as `send`."""
        await self._write(": here they come\n\n")

    async def send(self, data: Any, *, kind: str = "", number: str = "") -> None:
        """Send an event: JSON, or text as it is. Raises ClientGoneError, and UnavailableError for a
        client that does not read."""
        text = data if isinstance(data, str) else json.dumps(data)
        fields = [("id", number), ("event", kind), ("data", text)]
        await self._write("".join(f"{name}: {value}\n" for name, value in fields if value) + "\n")

    async def _write(self, text: str) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                if not self.response.prepared:
                    await self.response.prepare(self._request)
                    self._beating = spawn(self._beat(), name="events:beat")
                await self.response.write(text.encode())
        except TimeoutError:
            raise UnavailableError("the client does not read its events") from None
        except ConnectionError:
            raise ClientGoneError from None
        self._sent_s = asyncio.get_running_loop().time()

    async def _beat(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(max(0.0, self._sent_s + HEARTBEAT_S - clock()))
            if clock() - self._sent_s >= HEARTBEAT_S:
                try:
                    await self._write(": still here\n\n")
                except (ClientGoneError, UnavailableError):
                    return


async def wait_gone(request: web.Request) -> None:
    """Wait until the client has closed its connection. aiohttp does not tell: one has to look."""
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)


async def while_there(request: web.Request, work: Awaitable[T]) -> T:
    """What the work gives; it is cancelled when the client leaves. Raises ClientGoneError then."""
    working = asyncio.ensure_future(work)
    gone = asyncio.create_task(wait_gone(request), name="http:gone")
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        await cancel_and_wait(working, gone)
