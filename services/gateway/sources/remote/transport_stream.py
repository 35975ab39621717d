"""MPEG-TS that somebody sends to a UDP port of ours, bare or in RTP, to one machine or to many."""

import contextlib
import select
import socket
import time
from collections import deque

from services.gateway.sources.remote.egress_policy import Address, EgressPolicy, UnreachableError
from services.gateway.sources.remote.url import SourceUrl

RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024  # a keyframe of 4K comes at once
MAX_DATAGRAM_BYTES = 65_536
MAX_AT_ONCE = 256
SENDER_AWAY_S = 2.0  # after so long of silence another sender may take its place
WAIT_S = 0.5
_SYNC = 0x47
_RTP_VERSION, _RTP_MPEG_TS = 2, 33


class TransportStream:
    """The datagrams to one port, as a file that PyAV reads on the source's thread.

    The first sender of MPEG-TS is the only one that is heard until it falls silent: whoever else
    finds the port mixes nothing in. `abort` may be called on any thread. Raises UnreachableError
    for an address that the operator did not name: listening is not something for callers to
    choose.
    """

    def __init__(
        self, egress: EgressPolicy, url: SourceUrl, timeout_s: tuple[float, float]
    ) -> None:
        """`timeout_s`: until `opened`, and for each read after it."""
        open_s, self._read_s = timeout_s
        self._end_s: float | None = time.monotonic() + open_s
        self._aborted = False
        self._payloads: deque[bytes] = deque()
        self._sender: tuple[str, int] | None = None
        self._heard_s = 0.0
        allowed = [
            address
            for address in egress.addresses(url.host, url.port)
            if egress.allows(url.host, address, url.port)
        ]
        if not allowed:
            raise UnreachableError("not allowed by GATEWAY_URL_ALLOW: listening")
        self._socket = _listening(allowed[0], url.port)

    def opened(self) -> None:
        self._end_s = None

    def abort(self) -> None:
        self._aborted = True

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes; b"" when none come in time, as at the end of a file."""
        end_s = self._end_s or time.monotonic() + self._read_s
        while not self._payloads:
            left_s = end_s - time.monotonic()
            if self._aborted or left_s <= 0:
                return b""
            if select.select([self._socket], [], [], min(WAIT_S, left_s))[0]:
                self._receive()
        data = bytearray()
        while self._payloads and len(data) < size:
            payload = self._payloads.popleft()
            kept = size - len(data)
            data += payload[:kept]
            if len(payload) > kept:
                self._payloads.appendleft(payload[kept:])
        return bytes(data)

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> None:
        """Take the datagrams that wait."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(MAX_AT_ONCE):
                datagram, address = self._socket.recvfrom(MAX_DATAGRAM_BYTES)
                payload = payload_of(datagram)
                now_s = time.monotonic()
                if payload and (
                    address[:2] == self._sender or now_s - self._heard_s > SENDER_AWAY_S
                ):
                    self._sender, self._heard_s = address[:2], now_s
                    self._payloads.append(payload)


def payload_of(datagram: bytes) -> bytes:
    """MPEG-TS of a datagram; nothing where there is none (RFC 2250 for what is in RTP)."""
    if datagram[:1] == bytes((_SYNC,)):
        return datagram
    if len(datagram) < 12 or datagram[0] >> 6 != _RTP_VERSION or datagram[1] & 0x7F != _RTP_MPEG_TS:
        return b""
    start = 12 + 4 * (datagram[0] & 0x0F)
    if datagram[0] & 0x10:  # a header extension
        start += 4 + 4 * int.from_bytes(datagram[start + 2 : start + 4])
    end = len(datagram) - (datagram[-1] if datagram[0] & 0x20 else 0)  # padding
    payload = datagram[start : max(start, end)]
    return payload if payload[:1] == bytes((_SYNC,)) else b""


def _listening(address: Address, port: int) -> socket.socket:
    """A socket for what is sent to the address: one of this machine, or a group. Raises OSError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.ExitStack() as opened:
        own = opened.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        if address.is_multicast:  # several sessions, and other programs, may hear one group
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind((str(address), port))
        if address.is_multicast:
            group = address.packed + bytes(4)  # by whichever interface leads there
            if address.version == 4:
                own.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            else:
                own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        own.setblocking(False)
        opened.pop_all()
    return own
