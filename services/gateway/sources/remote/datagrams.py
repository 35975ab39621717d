"""RTP over UDP for a camera that cannot send it over its RTSP connection."""

import contextlib
import errno
import socket

MAX_PACKET_BYTES = 65_535
MAX_AT_ONCE = 256  # packets taken before other connections have their turn
RECEIVE_BUFFER_BYTES = 2 * 1024 * 1024  # a keyframe of 4K comes in one burst
TRIES = 20
_PUNCHES = (b"\x80\0\0\0\0\0\0\0\0\0\0\0", b"\x80\xc9\0\1\0\0\0\0")  # an empty RTP and RTCP packet


class Datagrams:
    """A pair of sockets, RTP on an even port and RTCP on the next, with one server only: what
    others send is not read, and nothing is sent elsewhere.

    Raises OSError when there is no free pair.
    """

    def __init__(self, own: str, server: str) -> None:
        """Addresses of the RTSP connection's two ends."""
        self._server = server
        self.sockets = _pair(own)
        self.port: int = self.sockets[0].getsockname()[1]
        self._connected = False

    def connect(self, ports: tuple[int, int]) -> None:
        """The server's ports are known: a packet to each opens the way back through routers."""
        for own, port, punch in zip(self.sockets, ports, _PUNCHES, strict=True):
            own.connect((self._server, port))
            with contextlib.suppress(OSError):
                own.send(punch)
        self._connected = True

    def received(self, own: socket.socket) -> list[bytes]:
        """The packets that wait on one of `sockets`."""
        packets: list[bytes] = []
        with contextlib.suppress(OSError):  # none is left, or the server's port is closed
            while len(packets) < MAX_AT_ONCE:
                packet, address = own.recvfrom(MAX_PACKET_BYTES)
                if self._connected and address[0] == self._server:
                    packets.append(packet)
        return packets

    def send(self, index: int, packet: bytes) -> None:
        """Send by the first or the second socket."""
        if self._connected:
            with contextlib.suppress(OSError):
                self.sockets[index].send(packet)

    def close(self) -> None:
        for own in self.sockets:
            own.close()


def _pair(address: str) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(TRIES):
        with contextlib.ExitStack() as opened:
            first, second = (
                opened.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(2)
            )
            try:
                first.bind((address, 0))
                port = first.getsockname()[1]
                if port % 2:
                    continue
                second.bind((address, port + 1))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            for own in (first, second):
                own.setblocking(False)
                own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            opened.pop_all()
            return first, second
    raise OSError(errno.EADDRINUSE, "no free pair of ports")
