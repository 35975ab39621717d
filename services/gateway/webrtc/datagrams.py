"""What comes to one of the UDP sockets that all WebRTC connections share."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any

from services.gateway.webrtc.demultiplexer import Demultiplexer

AT_ONCE = 64  # datagrams, before others have their turn
MAX_BYTES = 64 * 1024
_LOST = struct.Struct("=I")
_COUNT_LOST = 40  # SO_RXQ_OVFL of Linux, which Python does not name
_ANCILLARY_BYTES = socket.CMSG_SPACE(_LOST.size) if hasattr(socket, "CMSG_SPACE") else 0


class Datagrams(asyncio.DatagramProtocol):
    """Hands each datagram to the connection it is for.

    asyncio reads one and goes around its loop for the next; here all that wait are read, for behind
    one socket wait the pictures of every publisher. What the system throws away because they were
    not read in time is told to `lost`, where the system counts it.
    """

    def __init__(
        self,
        udp: socket.socket,
        lane: str,
        demultiplexer: Demultiplexer,
        lost: Callable[[int], None],
    ) -> None:
        self._socket = udp
        self._lane = lane
        self._demultiplexer = demultiplexer
        self._lost = lost
        self._num_lost = 0
        with contextlib.suppress(OSError):
            udp.setsockopt(socket.SOL_SOCKET, _COUNT_LOST, 1)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._take(data, addr)
        if not _ANCILLARY_BYTES:  # not Unix
            return
        for _ in range(AT_ONCE):
            try:
                data, ancillary, _, addr = self._socket.recvmsg(MAX_BYTES, _ANCILLARY_BYTES)
            except OSError:  # none waits, or the answer to one of ours says that nobody is there
                return
            if ancillary:
                self._count(ancillary)
            self._take(data, addr)

    def _take(self, data: bytes, addr: tuple[Any, ...]) -> None:
        address = (addr[0], addr[1])
        endpoint = self._demultiplexer.route(self._lane, data, address)
        if endpoint is not None:
            endpoint.datagram_received(data, address)

    def _count(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == _COUNT_LOST and len(value) >= _LOST.size:
                (lost,) = _LOST.unpack(value[: _LOST.size])
                if lost != self._num_lost:
                    self._lost(lost - self._num_lost & 0xFFFFFFFF)
                    self._num_lost = lost
