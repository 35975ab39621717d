"""libsrt, where this machine has it (Debian's libsrt1.5-gnutls or -openssl): the calls needed here.

PyAV's wheels are built without SRT, and an ffmpeg that listens shows nobody's stream id.
"""

import atexit
import ctypes
import functools
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

NAMES = ("libsrt-gnutls.so.1.5", "libsrt.so.1.5", "libsrt-openssl.so.1.5")
MESSAGE_BYTES = 1456  # the largest of live streams
PASSPHRASE = range(10, 80)  # characters that one may have
MAX_STREAM_ID = 512
_STATISTICS_BYTES = 4096  # more than struct SRT_TRACEBSTATS has …
_RECEIVED, _MISSED, _LOST = 16, 28, 68  # … where pkt(Recv|RcvLoss|RcvDrop)Total are
_ERROR = -1
_NO_SOCKET = -1
_BACKLOG = 64
_CRITICAL = 2  # of syslog's levels: others tell strangers' mistakes on our standard error
_REJECTED = 1000  # added to a status of HTTP's
# enum SRT_SOCKOPT
_REUSE_ADDRESS, _RECEIVE_TIMEOUT, _LATENCY, _PASSPHRASE = 15, 14, 23, 26
_CONNECT_TIMEOUT, _STREAM_ID, _IPV6_ONLY = 36, 46, 54
_CHECK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_char_p,
)
# Called on a thread of libsrt's with the stream id of whoever comes: 0, or the status of a refusal.
Check = Callable[[str], int]


class SrtMissingError(OSError):
    """A machine without libsrt."""

    def __init__(self) -> None:
        super().__init__(
            "SRT needs libsrt 1.5, which is not here: apt-get install libsrt1.5-gnutls, or take an "
            "image that was built with SRT=1"
        )


@functools.cache
def library() -> Any:
    """The library, started. Raises SrtMissingError."""
    for name in NAMES:
        try:
            found = ctypes.CDLL(name)
        except OSError:
            continue
        found.srt_getlasterror_str.restype = ctypes.c_char_p
        found.srt_rejectreason_str.restype = ctypes.c_char_p
        found.srt_startup()
        found.srt_setloglevel(_CRITICAL)
        atexit.register(found.srt_cleanup)
        return found
    raise SrtMissingError


@dataclass(frozen=True, slots=True)
class Line:
    """Packets of a connection: that came, that were missing at first, and that never came in
    time."""

    received: int = 0
    missed: int = 0
    lost: int = 0


class SrtSocket:
    """One socket of libsrt's. `close` may be called on any thread, and ends every wait."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._buffer = ctypes.create_string_buffer(MESSAGE_BYTES)
        self._check: Any = None  # libsrt keeps no reference

    @classmethod
    def listening(cls, host: str, port: int, passphrase: str | None, check: Check) -> "SrtSocket":
        """Raises OSError for a port that is taken."""
        own = cls(library().srt_create_socket())
        try:
            own._set(_REUSE_ADDRESS, 0)  # else two may listen, and neither knows
            if ":" in host:
                own._set(_IPV6_ONLY, int(host != "::"))
            if passphrase is not None:
                own._set(_PASSPHRASE, passphrase)
            own._check = _CHECK(_checked(check))
            library().srt_listen_callback(own._number, own._check, None)
            address = _address(host, port)
            own._do(library().srt_bind(own._number, address, len(address)))
            own._do(library().srt_listen(own._number, _BACKLOG))
        except BaseException:
            own.close()
            raise
        return own

    @classmethod
    def new(cls, *, stream_id: str, passphrase: str, latency_ms: int | None) -> "SrtSocket":
        """A socket to connect. Raises OSError for what libsrt does not take."""
        own = cls(library().srt_create_socket())
        try:
            if stream_id:
                own._set(_STREAM_ID, stream_id)
            if passphrase:
                own._set(_PASSPHRASE, passphrase)
            if latency_ms is not None:
                own._set(_LATENCY, latency_ms)
        except BaseException:
            own.close()
            raise
        return own

    def connect(self, host: str, port: int, timeout_s: float) -> None:
        """Blocks. Raises OSError."""
        self._set(_CONNECT_TIMEOUT, max(1, round(timeout_s * 1000)))
        address = _address(host, port)
        if library().srt_connect(self._number, address, len(address)) == _ERROR:
            reason = library().srt_getrejectreason(self._number)
            raise OSError(
                f"{_last_error()} ({library().srt_rejectreason_str(reason).decode()}, {reason})"
            )

    def accept(self) -> "tuple[SrtSocket, str] | None":
        """The next caller and its host:port; None once the socket is closed. Blocks."""
        address = ctypes.create_string_buffer(128)
        size = ctypes.c_int(len(address))
        number = library().srt_accept(self._number, address, ctypes.byref(size))
        if number == _NO_SOCKET:
            return None
        return SrtSocket(number), _place(address.raw[: size.value])

    @property
    def port(self) -> int:
        address = ctypes.create_string_buffer(128)
        size = ctypes.c_int(len(address))
        self._do(library().srt_getsockname(self._number, address, ctypes.byref(size)))
        return int.from_bytes(address.raw[2:4])

    @property
    def stream_id(self) -> str:
        text = ctypes.create_string_buffer(MAX_STREAM_ID + 1)
        size = ctypes.c_int(len(text))
        self._do(library().srt_getsockflag(self._number, _STREAM_ID, text, ctypes.byref(size)))
        return text.raw[: size.value].rstrip(b"\0").decode(errors="replace")

    def wait_at_most(self, seconds: float) -> None:
        """Set how long each `receive` from here on waits."""
        self._set(_RECEIVE_TIMEOUT, max(1, round(seconds * 1000)))

    def receive(self) -> bytes:
        """The next message; b"" when none came in time, and once either side has closed. Blocks,
        on one thread."""
        size = library().srt_recvmsg(self._number, self._buffer, MESSAGE_BYTES)
        return ctypes.string_at(self._buffer, size) if size > 0 else b""

    def line(self) -> "Line":
        """What the line has done until now; nothing once the socket is closed."""
        raw = ctypes.create_string_buffer(_STATISTICS_BYTES)
        if library().srt_bstats(self._number, raw, 0) == _ERROR:
            return Line()
        return Line(
            struct.unpack_from("=q", raw, _RECEIVED)[0],
            struct.unpack_from("=i", raw, _MISSED)[0],
            struct.unpack_from("=i", raw, _LOST)[0],
        )

    def close(self) -> None:
        library().srt_close(self._number)

    def _set(self, option: int, value: int | str) -> None:
        raw = value.encode() if isinstance(value, str) else ctypes.c_int(value)
        size = len(raw) if isinstance(raw, bytes) else ctypes.sizeof(raw)
        given = raw if isinstance(raw, bytes) else ctypes.byref(raw)
        self._do(library().srt_setsockflag(self._number, option, given, size))

    def _do(self, result: int) -> None:
        if result == _ERROR:
            raise OSError(_last_error())


def _checked(check: Check) -> Callable[..., int]:
    def admit(opaque: Any, number: int, version: int, peer: Any, stream_id: bytes | None) -> int:
        try:
            status = check((stream_id or b"").decode(errors="replace"))
        except Exception:
            log.exception("an SRT caller could not be looked at")
            status = 500
        if not status:
            return 0
        library().srt_setrejectreason(number, _REJECTED + status)
        return _ERROR

    return admit


def _last_error() -> str:
    text: bytes = library().srt_getlasterror_str()
    return text.decode(errors="replace")


def _address(host: str, port: int) -> bytes:
    """The system's struct sockaddr of an address. Raises OSError for a name without one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4][0]
        address = ipaddress.ip_address(found)
    if address.version == 4:
        return (
            struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + address.packed + bytes(8)
        )
    head = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0)
    return head + address.packed + bytes(4)


def _place(address: bytes) -> str:
    port = int.from_bytes(address[2:4])
    if struct.unpack("=H", address[:2])[0] == socket.AF_INET:
        return f"{ipaddress.ip_address(address[4:8])}:{port}"
    found = ipaddress.ip_address(address[8:24])
    mapped = getattr(found, "ipv4_mapped", None)
    return f"{mapped}:{port}" if mapped else f"[{found}]:{port}"
