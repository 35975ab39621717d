"""Check of SRT, which needs a library and a port."""

import ctypes
import socket
import struct
from collections.abc import Iterator

from sightline.doctor.finding import FAULT, OK, Environ, Finding
from sightline.doctor.probes import TIMEOUT_S

LIBRARIES = ("libsrt-gnutls.so.1.5", "libsrt.so.1.5", "libsrt-openssl.so.1.5")
_VARIABLE = "GATEWAY_SRT_PORT"
_CONTROL, _INDUCTION = 0x80000000, 1


def srt(environ: Environ) -> Iterator[Finding]:
    """libsrt is here where SRT is wanted, and its port is free or SRT's."""
    found = next(filter(_loads, LIBRARIES), "")
    text = environ.get(_VARIABLE, "")
    if not text:
        here = f"{found} is here" if found else "without libsrt srt:// sources are refused, too"
        yield Finding("srt", OK, f"SRT is off, {_VARIABLE} being unset; {here}")
        return
    if found:
        yield Finding("srt", OK, f"{found} is here")
    else:
        advice = f"apt-get install libsrt1.5-gnutls, or leave {_VARIABLE} unset"
        yield Finding("srt", FAULT, "there is no libsrt 1.5, which SRT needs", advice)
    if not (text.isdecimal() and int(text) < 65536):
        yield Finding("srt", FAULT, f"{_VARIABLE}={text!r} is no port", f"set {_VARIABLE}")
    elif int(text) == 0:
        yield Finding("srt", OK, "SRT: any free port")
    elif _is_free(int(text)):
        yield Finding("srt", OK, f"SRT: {text} is free by UDP")
    elif _answers(int(text)):
        yield Finding("srt", OK, f"SRT: {text} answers")
    else:
        advice = f"end that program, or choose another port with {_VARIABLE}"
        yield Finding("srt", FAULT, f"SRT: {text} by UDP is taken by another program", advice)


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _answers(port: int) -> bool:
    """Whether whoever listens answers the first packet of SRT's handshake with one."""
    header = struct.pack("!IIII", _CONTROL, 0, 0, 0)
    # version, extensions, first sequence number, packet size, window, kind, socket, cookie, address
    hello = struct.pack("!IIIIIiII", 4, 2, 1, 1500, 8192, _INDUCTION, 1, 0) + bytes(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(TIMEOUT_S)
        try:
            peer.connect(("127.0.0.1", port))
            peer.send(header + hello)
            return peer.recv(1500)[:4] == struct.pack("!I", _CONTROL)
        except OSError:
            return False
