"""The one port of all WebRTC: UDP, and TCP of the same number for where UDP is blocked."""

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

from aioice import Connection
from aioice.ice import get_host_addresses
from aiortc import (
    RTCBundlePolicy,
    RTCCertificate,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
)

from services.gateway.webrtc.certificate import Certificate
from services.gateway.webrtc.datagrams import Datagrams
from services.gateway.webrtc.demultiplexer import Address, Demultiplexer
from services.gateway.webrtc.seat import Seat, Send
from services.gateway.webrtc.streams import Stream, Streams
from sightline.errors import InternalError, UnavailableError

log = logging.getLogger(__name__)

OVERFLOWED = "socket_full"  # the reason of packets that the system threw away
BUFFER_BYTES = 4 * 1024 * 1024  # of the socket: keyframes of many publishers come at once
BINDS = 16  # tries to find a number that is free for UDP and for TCP
_CREATE = "_RTCPeerConnection__createDtlsTransport"


class WebRtcPort:
    """Sockets that every peer connection made here shares.

    `addresses` are those by which others reach the port, where they are not this machine's own:
    IP addresses, or names that are looked up at the start, with a port where it is another one.
    `dropped` hears the reason of packets that nobody takes, and how many. Port 0 is any free one.
    `start` raises OSError for a port that is taken and for a name that cannot be looked up,
    ValueError for what is no address.
    """

    def __init__(
        self,
        port: int,
        addresses: Sequence[str] = (),
        dropped: Callable[..., None] = lambda reason, count=1: None,
    ) -> None:
        self.port = port
        self._names = addresses
        self._public: list[Address] = []  # port 0: that of the socket
        self._dropped = dropped
        self._demultiplexer = Demultiplexer(dropped, self._reply)
        self._streams = Streams(self._demultiplexer, dropped)
        self._sockets: dict[str, asyncio.DatagramTransport] = {}
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        found: list[Address] = []
        for address in self._names:
            name, port = parse_address(address)
            infos = await loop.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
            found += [(str(info[4][0]), port) for info in infos]
        self._public = list(dict.fromkeys(found))
        wanted = self.port
        for attempt in range(BINDS):
            try:
                await self._bind(wanted)
                return
            except OSError:
                await self.aclose()
                self.port = wanted
                if wanted or attempt == BINDS - 1:
                    raise

    async def _bind(self, wanted: int) -> None:
        loop = asyncio.get_running_loop()
        for lane, family, host in (
            ("udp4", socket.AF_INET, "0.0.0.0"),
            ("udp6", socket.AF_INET6, "::"),
        ):
            try:
                udp = _bound(family, socket.SOCK_DGRAM, host, self.port or wanted)
            except OSError as error:
                # A machine without IPv6 says one of these.
                if lane == "udp6" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue
                raise
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                udp.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
            datagrams = Datagrams(udp, lane, self._demultiplexer, self._lost)
            transport, _ = await loop.create_datagram_endpoint(
                lambda datagrams=datagrams: datagrams,  # type: ignore[misc]
                sock=udp,
            )
            self._sockets[lane] = transport
            self.port = udp.getsockname()[1]
            tcp = _bound(family, socket.SOCK_STREAM, host, self.port)
            server = await loop.create_server(lambda: Stream(self._streams), sock=tcp)
            self._servers.append(server)

    async def aclose(self) -> None:
        """Close the sockets, once no peer connection needs them any longer."""
        for server in self._servers:
            server.close()
        self._streams.aclose()
        for transport in self._sockets.values():
            transport.close()
        self._servers.clear()
        self._sockets.clear()
        await asyncio.sleep(0)  # in which the event loop closes them

    @property
    def num_connections(self) -> int:
        return self._demultiplexer.num_members

    @property
    def num_addresses(self) -> int:
        return self._demultiplexer.num_addresses

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    def peer_connection(self, ice_servers: Sequence[RTCIceServer] = ()) -> RTCPeerConnection:
        """A peer connection whose packets go by this port. Raises UnavailableError before `start`,
        and InternalError when aiortc is not the one it was written for."""
        if not self._sockets:
            raise UnavailableError("the WebRTC port is not open")
        if not hasattr(RTCPeerConnection, _CREATE):
            raise InternalError(f"this version of aiortc has no {_CREATE}")
        if not hasattr(RTCCertificate, "_create_ssl_context"):
            raise InternalError("this version of aiortc has no _create_ssl_context")
        # A list, not None: None makes aiortc ask a public STUN server.
        configuration = RTCConfiguration(
            iceServers=list(ice_servers), bundlePolicy=RTCBundlePolicy.MAX_BUNDLE
        )
        return _PeerConnection(self, configuration)

    def seat(self, connection: Connection) -> Seat:
        """Give an aioice connection its place here, before it gathers candidates."""
        lanes: dict[str, Send] = {
            lane: cast("Callable[[bytes, Address], None]", transport.sendto)
            for lane, transport in self._sockets.items()
        }
        lanes["tcp"] = self._streams.send
        hosts = self._hosts()
        return Seat(connection, self._demultiplexer, lanes, hosts, self._forgotten, self._dropped)

    def _hosts(self) -> list[tuple[str, Address]]:
        """Lane and address of every candidate: first the configured ones, then this machine's."""
        own = get_host_addresses(use_ipv4=True, use_ipv6="udp6" in self._sockets)
        udp: list[tuple[str, Address]] = []
        for host, port in dict.fromkeys([*self._public, *((host, 0) for host in own)]):
            lane = f"udp{ipaddress.ip_address(host).version}"
            if lane in self._sockets:
                udp.append((lane, (host, port or self.port)))
        return udp + [("tcp", address) for _, address in udp]

    def _reply(self, lane: str, data: bytes, address: Address) -> None:
        self._sockets[lane].sendto(data, address)

    def _lost(self, count: int) -> None:
        self._dropped(OVERFLOWED, count)

    def _forgotten(self, lane: str, address: Address) -> None:
        if lane == "tcp":
            self._streams.close(address)


class _PeerConnection(RTCPeerConnection):
    """aiortc's, whose ICE has its seat at the port.

    aiortc makes its transports in one private method, and lets nobody choose their sockets, nor its
    certificate.
    """

    def __init__(self, port: WebRtcPort, configuration: RTCConfiguration) -> None:
        self._port = port
        super().__init__(configuration)
        self._RTCPeerConnection__certificates = [Certificate.generateCertificate()]

    def _RTCPeerConnection__createDtlsTransport(self) -> Any:  # noqa: N802
        make = getattr(super(), _CREATE)
        transport = make()
        self._port.seat(transport.transport._connection)
        return transport


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of "host", "host:port", "2001:db8::1" or "[2001:db8::1]:port"; without one, 0.
    Raises ValueError."""
    if address.count(":") > 1 and not address.startswith("["):
        return address, 0
    host, _, port = address.rpartition(":") if address[-1:] != "]" else (address, "", "")
    if not host:
        host, port = port, ""
    number = int(port or 0)
    host = host.strip("[]")
    if not host or not 0 <= number <= 65535:
        raise ValueError(f"{address!r} is no address")
    return host, number


def _bound(family: socket.AddressFamily, kind: socket.SocketKind, host: str, port: int) -> Any:
    bound = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
