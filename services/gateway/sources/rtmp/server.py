"""The RTMP port: accepts connections and looks after them until they are over."""

import asyncio
import logging
from collections import Counter

from services.common.tasks import cancel_and_wait, spawn
from services.gateway.sources.base import PublisherGate
from services.gateway.sources.rtmp.connection import RtmpConnection, RtmpLimits

log = logging.getLogger(__name__)


class RtmpServer:
    """Takes publishers at rtmp://host:port/<app>/<key>. `gate` decides whose.

    `port` 0 picks a free one; `port` holds the real one after `start`. `counts` says how often
    connections ended badly, by reason.
    """

    kind = "rtmp"

    def __init__(
        self,
        gate: PublisherGate,
        *,
        host: str = "127.0.0.1",
        port: int = 1935,
        app: str = "live",
        limits: RtmpLimits | None = None,
    ) -> None:
        self._gate = gate
        self._host = host
        self.port = port
        self._app = app
        self._limits = limits or RtmpLimits()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._accepted, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop listening and end every connection; sinks get `ended("closed")`."""
        if self._server is None:
            return
        self._server.close()
        await cancel_and_wait(*self._connections)
        await self._server.wait_closed()
        self._server = None

    @property
    def num_connections(self) -> int:
        return len(self._connections)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["accepted"] += 1
        if len(self._connections) >= self._limits.connections:
            self.counts["too_many_connections"] += 1
            writer.close()
            return
        connection = RtmpConnection(
            reader,
            writer,
            self._gate,
            app=self._app,
            limits=self._limits,
            count=self._count,
        )
        task = spawn(connection.run(), name=f"rtmp:{connection.peer}")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    def _count(self, reason: str) -> None:
        self.counts[reason] += 1
