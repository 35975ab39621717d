"""The RTMP port: accepts connections and looks after them until they are over."""

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable

from services.common.listener import DoorLimits, Listener, Visit
from services.common.places import Trusted
from services.common.tasks import cancel_and_wait, spawn
from services.gateway.sources.rtmp.connection import (
    READ_BYTES,
    RtmpConnection,
    RtmpLimits,
)
from services.gateway.sources.source import PublisherGate

log = logging.getLogger(__name__)

# Publishers are few and stay; how many publish is bounded by sessions, each of which has one.
RTMP_DOORS = DoorLimits(
    waiting=128,
    waiting_per_place=32,
    settled=1024,
    settled_per_place=1024,
    new_per_s=20.0,
    new_at_once=100,
    wait_s=15.0,
)


class RtmpServer:
    """Takes publishers at rtmp://host:port/<app>/<key>. `gate` decides whose.

    `port` 0 picks a free one; `port` holds the real one after `start`. `doors` says how many may
    wait to publish, and `trusted` whose addresses are not counted. `counts` says how often
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
        doors: DoorLimits = RTMP_DOORS,
        trusted: Trusted | None = None,
        encryption: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """encryption: what gives each connection its TLS context, for RTMPS."""
        self._gate = gate
        self._host = host
        self.port = port
        self._app = app
        self._limits = limits or RtmpLimits()
        self._listener = Listener(
            self._protocol,
            limits=doors,
            trusted=trusted or Trusted(),
            count=self._count,
            encryption=encryption,
        )
        self._open = False
        self._connections: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        await self._listener.start(self._host, self.port)
        self.port = self._listener.port
        self._open = True

    async def aclose(self) -> None:
        """Stop listening and end every connection; sinks get `ended("closed")`."""
        if not self._open:
            return
        self._open = False
        self._listener.close()
        await cancel_and_wait(*self._connections)
        await self._listener.aclose()

    @property
    def num_connections(self) -> int:
        return len(self._connections)

    def _protocol(self, visit: Visit) -> asyncio.Protocol:
        reader = asyncio.StreamReader(limit=READ_BYTES)
        return asyncio.StreamReaderProtocol(
            reader, lambda reader, writer: self._accepted(reader, writer, visit)
        )

    def _accepted(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, visit: Visit
    ) -> None:
        self.counts["accepted"] += 1
        if not self._open:
            writer.close()
            return
        connection = RtmpConnection(
            reader,
            writer,
            self._gate,
            app=self._app,
            limits=self._limits,
            count=self._count,
            settled=visit.settle,
        )
        task = spawn(connection.run(), name=f"rtmp:{connection.peer}")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    def _count(self, reason: str) -> None:
        self.counts[reason] += 1
