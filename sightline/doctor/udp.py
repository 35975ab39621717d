"""Check of the way that WebRTC's datagrams take."""

import socket
from collections.abc import Iterator

from sightline.doctor.finding import FAULT, OK, Environ, Finding
from sightline.doctor.ports import PORTS
from sightline.doctor.probes import TIMEOUT_S, is_free, stun


def udp(environ: Environ) -> Iterator[Finding]:
    """WebRTC's datagrams get through: to this machine's own address, and to STUN servers."""
    own = _own_address()
    try:
        _echo(own)
        yield Finding("udp", OK, f"datagrams reach {own}")
    except OSError as error:
        yield Finding(
            "udp",
            FAULT,
            f"no datagram reaches {own}: {error}",
            "let the firewall pass UDP, or publish by RTMP",
        )
    yield from _webrtc(environ)
    for server in filter(None, environ.get("GATEWAY_ICE_SERVERS", "").split(",")):
        scheme, _, rest = server.strip().partition(":")
        if scheme != "stun":
            continue
        host, _, port = rest.partition(":")
        try:
            seen = stun(host, int(port or 3478))
            yield Finding("udp", OK, f"{server.strip()} sees this machine as {seen}")
        except (OSError, ValueError) as error:
            advice = "let the firewall pass UDP, or take another server in GATEWAY_ICE_SERVERS"
            yield Finding("udp", FAULT, f"{server.strip()} does not answer: {error}", advice)


def _webrtc(environ: Environ) -> Iterator[Finding]:
    """Whether the gateway's WebRTC port, where it listens, is reached by each of its addresses."""
    usual = environ.get("GATEWAY_WEBRTC_PORT", "") or str(PORTS["GATEWAY_WEBRTC_PORT"][0])
    if not usual.isdecimal() or int(usual) == 0 or is_free(int(usual)):
        return
    named = environ.get("GATEWAY_WEBRTC_ADDRESSES", "").split(",")
    for address in [item.strip() for item in named if item.strip()] or [_own_address()]:
        host, number = address, usual
        if address.count(":") == 1 or address.startswith("["):
            bare, _, port = address.rpartition(":")
            host, number = (bare, port) if port.isdecimal() else (address, usual)
        try:
            seen = stun(host.strip("[]"), int(number))
            yield Finding(
                "udp", OK, f"WebRTC at {host}:{number} by UDP sees this machine as {seen}"
            )
        except (OSError, ValueError) as error:
            yield Finding(
                "udp",
                FAULT,
                f"WebRTC at {host}:{number} does not answer by UDP: {error}",
                "let the firewall or NAT pass UDP and TCP to GATEWAY_WEBRTC_PORT, and name in "
                "GATEWAY_WEBRTC_ADDRESSES what leads to it",
            )


def _own_address() -> str:
    """This machine's address in its network; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _echo(address: str) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        here.bind((address, 0))
        here.settimeout(TIMEOUT_S)
        there.sendto(b"sightline", here.getsockname())
        here.recv(16)
