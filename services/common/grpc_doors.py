"""Connections at the gRPC port: who has held one too long without a call leaves for others.

grpc accepts by itself and asks nobody; it knows a most for all connections and none for those of
one address. But its sockets are this process's: they are looked at through /proc, and one that is
shut down is for grpc a peer that has left. Elsewhere than on Linux only grpc's own limits hold.
"""

import asyncio
import contextlib
import os
import socket
import stat
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from services.common.listener import DoorLimits
from services.common.places import Trusted, plain_host
from services.common.tasks import cancel_and_wait, spawn

SWEEP_S = 0.5
DESCRIPTORS = Path("/proc/self/fd")


@dataclass(slots=True)
class _Connection:
    """A connection by its socket's inode; `descriptor` may be another's by now."""

    descriptor: int
    inode: int
    peer: tuple[str, int]
    idle_since_s: float = field(default_factory=time.monotonic)


class GrpcDoors:
    """Looks after a gRPC port. `is_busy` says whether a peer (address, port) has a call.

    Of `limits`, `waiting` and `waiting_per_place` hold here: connections without a call.
    """

    def __init__(
        self,
        limits: DoorLimits,
        trusted: Trusted,
        *,
        is_busy: Callable[[tuple[str, int]], bool],
        count: Callable[[str], None],
    ) -> None:
        self._limits = limits
        self._trusted = trusted
        self._is_busy = is_busy
        self._count = count
        self._others: dict[int, int] = {}  # inodes of descriptors that are not ours to look after
        self._connections: dict[int, _Connection] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, port: int) -> None:
        if DESCRIPTORS.is_dir():
            self._task = spawn(self._sweep_forever(port), name="grpc:doors")

    async def aclose(self) -> None:
        await cancel_and_wait(self._task)

    def sweep(self, port: int) -> None:
        """Find the connections there are, and end the oldest idle ones of too many."""
        self._look(port)
        now_s = time.monotonic()
        by_place: defaultdict[str, list[_Connection]] = defaultdict(list)
        for connection in self._connections.values():
            if self._is_busy(connection.peer):
                connection.idle_since_s = now_s
            else:
                by_place[self._trusted.place(connection.peer[0])].append(connection)
        for place, idle in by_place.items():
            idle.sort(key=lambda connection: connection.idle_since_s)
            most = self._limits.waiting_per_place
            while place and len(idle) > most:
                self._end(idle.pop(0))
        rest = [connection for idle in by_place.values() for connection in idle]
        rest.sort(key=lambda connection: connection.idle_since_s)
        for connection in rest[: max(0, len(rest) - self._limits.waiting)]:
            self._end(connection)

    def _look(self, port: int) -> None:
        seen = set()
        for name in os.listdir(DESCRIPTORS):
            descriptor = int(name)
            try:
                status = os.fstat(descriptor)
            except OSError:
                continue
            if not stat.S_ISSOCK(status.st_mode):
                continue
            seen.add(descriptor)
            inode = status.st_ino
            known = self._connections.get(descriptor)
            if (known is not None and known.inode == inode) or (
                self._others.get(descriptor) == inode
            ):
                continue
            self._connections.pop(descriptor, None)
            peer = _peer(descriptor, port)
            if peer is None:
                self._others[descriptor] = inode
            else:
                self._others.pop(descriptor, None)
                self._connections[descriptor] = _Connection(descriptor, inode, peer)
        for gone in self._connections.keys() - seen:
            del self._connections[gone]
        for gone in self._others.keys() - seen:
            del self._others[gone]

    def _end(self, connection: _Connection) -> None:
        """Shut the connection down, if it is still the one that was looked at."""
        with contextlib.suppress(OSError), _duplicate(connection.descriptor) as same:
            if os.fstat(same.fileno()).st_ino == connection.inode:
                self._count("evicted")
                same.shutdown(socket.SHUT_RDWR)

    async def _sweep_forever(self, port: int) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            with contextlib.suppress(OSError):  # no descriptor to look at descriptors with
                self.sweep(port)


def _duplicate(descriptor: int) -> socket.socket:
    return socket.socket(fileno=os.dup(descriptor))


def _peer(descriptor: int, port: int) -> tuple[str, int] | None:
    """The peer of a connection that came in at `port`; None for other sockets."""
    try:
        with _duplicate(descriptor) as same:
            if same.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            if same.type != socket.SOCK_STREAM or same.getsockname()[1] != port:
                return None
            host, peer_port, *_ = same.getpeername()
    except OSError:  # it listens, or is not connected
        return None
    return plain_host(host), peer_port
