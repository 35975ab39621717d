"""ICE over TCP (RFC 6544): packets with their lengths before them (RFC 4571).

A stranger holds a connection for a few seconds and a packet's worth of memory: the first packet
proves whose it is, or the connection is closed.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import cast

from services.gateway.webrtc.demultiplexer import Address, Demultiplexer

MAX_STREAMS = 512
MAX_STREAMS_PER_HOST = 64
MAX_PACKET_BYTES = 4096  # more than any network carries in one
MAX_UNSENT_BYTES = 256 * 1024  # of a peer that reads too slowly; what is over is lost, as with UDP
PROOF_S = 5.0


class Streams:
    """The TCP connections held now. `dropped` hears the reason of what is refused or lost."""

    def __init__(
        self,
        demultiplexer: Demultiplexer,
        dropped: Callable[[str], None],
        *,
        proof_s: float = PROOF_S,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self.demultiplexer = demultiplexer
        self.dropped = dropped
        self.proof_s = proof_s
        self._max_streams = max_streams
        self._held: dict[Address, Stream] = {}
        self._hosts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._held)

    def enter(self, stream: "Stream") -> bool:
        """Whether there is room for it."""
        host = stream.address[0]
        if len(self._held) >= self._max_streams or self._hosts[host] >= MAX_STREAMS_PER_HOST:
            self.dropped("tcp_full")
            return False
        self._held[stream.address] = stream
        self._hosts[host] += 1
        return True

    def left(self, stream: "Stream") -> None:
        if self._held.get(stream.address) is not stream:
            return
        del self._held[stream.address]
        self._hosts[stream.address[0]] -= 1
        self._hosts += Counter()  # without those that came to nothing
        self.demultiplexer.lost("tcp", stream.address)

    def send(self, data: bytes, address: Address) -> None:
        stream = self._held.get(address)
        if stream is None:
            self.dropped("tcp_gone")
        else:
            stream.send(data)

    def close(self, address: Address) -> None:
        """Close the stream of an address, if there is one."""
        stream = self._held.get(address)
        if stream is not None:
            stream.close()

    def aclose(self) -> None:
        for stream in list(self._held.values()):
            stream.close()


class Stream(asyncio.Protocol):
    """One TCP connection."""

    def __init__(self, streams: Streams) -> None:
        self.address: Address = ("", 0)
        self._streams = streams
        self._transport: asyncio.Transport | None = None
        self._unread = bytearray()
        self._proof: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if peer is None:  # gone already
            self._transport.abort()
            return
        self.address = (peer[0], peer[1])
        if not self._streams.enter(self):
            self._transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._proof = loop.call_later(self._streams.proof_s, self._refuse, "tcp_silent")

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while len(self._unread) >= 2:
            size = int.from_bytes(self._unread[:2], "big")
            if size > MAX_PACKET_BYTES:
                self._refuse("tcp_too_long")
                return
            if len(self._unread) < 2 + size:
                return
            packet = bytes(self._unread[2 : 2 + size])
            del self._unread[: 2 + size]
            if not self._take(packet):
                return

    def _take(self, packet: bytes) -> bool:
        endpoint = self._streams.demultiplexer.route("tcp", packet, self.address)
        if endpoint is None:
            if self._proof is not None:
                self.close()
                return False
            return True
        if self._proof is not None:
            self._proof.cancel()
            self._proof = None
        endpoint.datagram_received(packet, self.address)
        return True

    def send(self, data: bytes) -> None:
        assert self._transport is not None
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._streams.dropped("tcp_slow")
        elif not self._transport.is_closing():
            self._transport.write(len(data).to_bytes(2, "big") + data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._proof is not None:
            self._proof.cancel()
        self._streams.left(self)

    def _refuse(self, reason: str) -> None:
        self._streams.dropped(reason)
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
