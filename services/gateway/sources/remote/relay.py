"""The one connection of an RTSP or RTMP source: libavformat speaks to a loopback port of ours, and
we to the checked and pinned address behind it, because it would follow a redirect anywhere."""

import contextlib
import logging
import secrets
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Protocol
from urllib.parse import quote

from services.gateway.sources.patience import Patience
from services.gateway.sources.remote.answers import NotServedError
from services.gateway.sources.remote.datagrams import Datagrams
from services.gateway.sources.remote.egress_policy import EgressPolicy
from services.gateway.sources.remote.rtp_sender import SenderChangedError
from services.gateway.sources.remote.rtsp import MAX_WAITING_BYTES, RtspPipe
from services.gateway.sources.remote.secured import secured
from services.gateway.sources.remote.url import SourceUrl

log = logging.getLogger(__name__)

READ_BYTES = 65_536
ACCEPT_S = 10.0
_AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Pipe(Protocol):
    """Bytes between a player and a server, without sockets. Both `from_` methods raise
    UnreachableError when the connection must end; what is to be sent is taken from the two
    buffers."""

    to_player: bytearray
    to_server: bytearray

    def from_player(self, data: bytes) -> None: ...

    def from_server(self, data: bytes) -> None: ...


class PlainPipe:
    """Bytes as they are."""

    def __init__(self) -> None:
        self.to_player, self.to_server = bytearray(), bytearray()

    def from_player(self, data: bytes) -> None:
        self.to_server += data

    def from_server(self, data: bytes) -> None:
        self.to_player += data


class Relay:
    """A connection to `url`, and a loopback port on which exactly one player may use it.

    `location` is what libavformat opens, with `options`. `moved` is set when an RTSP server says
    that the video is elsewhere. It ends once `patience` with the pictures is over: libavformat
    itself may wait for ever in what it does not understand. Raises UnreachableError.
    """

    def __init__(
        self, egress: EgressPolicy, url: SourceUrl, timeout_s: float, patience: Patience
    ) -> None:
        self._patience = patience
        self._server = egress.connect(url.host, url.port, timeout_s)
        try:
            if url.scheme in ("rtsps", "rtmps"):
                self._server = secured(self._server, url.host)
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        except BaseException:
            self._server.close()
            raise
        self._listener.settimeout(ACCEPT_S)
        port = self._listener.getsockname()[1]
        self._player: socket.socket | None = None
        self._closed = False
        self._rtsp: RtspPipe | None = None
        self.options: dict[str, str] = {}
        if url.scheme.startswith("rtsp"):
            secret = secrets.token_hex(16)  # who else finds the port does not see the video
            base = f"rtsp://127.0.0.1:{port}/{secret}"
            self._rtsp = RtspPipe(url, base, self._open_datagrams)
            self._pipe: Pipe = self._rtsp
            self.location = base + url.target
        else:
            self._pipe = PlainPipe()
            user = "" if url.user is None else _user_in_url(url)
            self.location = f"rtmp://{user}127.0.0.1:{port}{url.target}"
            scheme = url.scheme
            self.options["rtmp_tcurl"] = f"{scheme}://{url.place}/{_application(url.target)}"
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    @property
    def refused(self) -> bool:
        """Whether an RTSP server refused a track."""
        return self._rtsp is not None and self._rtsp.refused

    @property
    def not_served(self) -> NotServedError | None:
        """What an RTSP server answered that has no such video, or not for us."""
        return self._rtsp.not_served if self._rtsp is not None else None

    @property
    def moved(self) -> str | None:
        return self._rtsp.moved if self._rtsp is not None else None

    def close(self) -> None:
        """End both connections; whoever reads gets the end of the stream. Any thread."""
        self._closed = True
        for connection in (self._player, self._server, self._listener):
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _open_datagrams(self) -> Datagrams:
        own, server = self._server.getsockname()[0], self._server.getpeername()[0]
        return Datagrams(own, server)

    def _run(self) -> None:
        try:
            self._player, _ = self._listener.accept()
            self._listener.close()
            if not self._closed:
                self._player.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._carry(self._player, self._server)
        except SenderChangedError as error:
            log.info("a source is opened anew", extra={"reason": str(error)})
        except (OSError, ValueError):  # a side has gone, or `close` was called
            pass
        finally:
            for connection in (self._player, self._server, self._listener):
                if connection is not None:
                    connection.close()
            for datagrams in self._rtsp.datagrams if self._rtsp is not None else ():
                datagrams.close()

    def _carry(self, player: socket.socket, server: socket.socket) -> None:
        """Carry bytes until one side has gone. Raises OSError."""
        pipe = self._pipe
        player.setblocking(False)
        server.setblocking(False)
        while not self._closed:
            if self._patience.is_over:
                self._patience.tell()
                return
            if self._rtsp is not None:
                self._rtsp.advance()
            readable = []
            if len(pipe.to_server) < MAX_WAITING_BYTES:
                readable.append(player)
            if len(pipe.to_player) < MAX_WAITING_BYTES:
                readable.append(server)
            tracks = list(self._rtsp.datagrams) if self._rtsp is not None else []
            for datagrams in tracks:
                readable += datagrams.sockets
            writable = [player] * bool(pipe.to_player) + [server] * bool(pipe.to_server)
            pending = getattr(server, "pending", int)()
            ready, able, _ = select.select(readable, writable, [], 0 if pending else 1.0)
            if (player in ready) and not _moved(player, pipe.from_player):
                return
            if (server in ready or pending) and not _moved(server, pipe.from_server):
                self._finish(player)
                return
            for track, datagrams in enumerate(tracks):
                for index, own in enumerate(datagrams.sockets):
                    for packet in datagrams.received(own) if own in ready else ():
                        assert self._rtsp is not None
                        self._rtsp.from_datagrams(track, index, packet)
            for connection, waiting in ((player, pipe.to_player), (server, pipe.to_server)):
                if connection in able:
                    with contextlib.suppress(*_AGAIN):
                        num_bytes = connection.send(waiting[:READ_BYTES])
                        del waiting[:num_bytes]
                        self._patience.fed(num_bytes if connection is player else 0)

    def _finish(self, player: socket.socket) -> None:
        """The server has gone: the player still gets what it sent."""
        end_s = time.monotonic() + ACCEPT_S
        waiting = self._pipe.to_player
        while waiting and not self._closed and time.monotonic() < end_s:
            _, able, _ = select.select([], [player], [], 1.0)
            if able:
                del waiting[: player.send(waiting[:READ_BYTES])]


def _moved(source: socket.socket, take: Callable[[bytes], None]) -> bool:
    """Take what has come; False at the end of the stream."""
    try:
        data = source.recv(READ_BYTES)
    except _AGAIN:
        return True
    if data:
        take(data)
    return bool(data)


def _user_in_url(url: SourceUrl) -> str:
    return f"{quote(url.user or '', safe='')}:{quote(url.password or '', safe='')}@"


def _application(target: str) -> str:
    """Application of an RTMP URL as libavformat takes it: all but the stream's own name."""
    parts = target.partition("?")[0].strip("/").split("/")
    return "/".join(parts[:2] if len(parts) > 2 else parts[:1])
