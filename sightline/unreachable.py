"""Why a gateway is not reached, in words that say what to change.

gRPC goes on trying whatever is wrong, and the last error that it tells is of the address that it
has tried last, of several. So the address is looked at once more, by hand, when all is lost anyway.
"""

import asyncio
import contextlib
import socket
import ssl

__all__ = ["why_unreachable"]

LOOK_S = 2.0
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and settings
_HTTP1 = b"HTTP/1"
_NO_GRPC = "what answers there speaks no gRPC"
_PORT = "the gateway's gRPC port is another one, usually 50051"


async def why_unreachable(address: str, *, encrypted: bool, waited_s: float) -> str:
    """The reason why nobody was reached at `address` (host:port, of several the first), asked with
    TLS or without, in `waited_s` seconds. Takes at most a few seconds more."""
    silent = f"nobody answered in {waited_s:g} s"
    if address.startswith("unix:"):
        return silent
    host, colon, port = address.partition(",")[0].rpartition(":")
    if not (colon and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        return f"{silent}; an address is HOST:PORT, usually with port 50051"
    place = (host.strip("[]"), int(port))
    try:
        async with asyncio.timeout(LOOK_S):
            return await (_encrypted(place) if encrypted else _plain(place)) or silent
    except ConnectionRefusedError:
        return f"nothing has listened there for {waited_s:g} s"
    except socket.gaierror:
        return f"no machine of the name {place[0]} is known"
    except (OSError, TimeoutError, UnicodeError):
        return silent


async def _plain(place: tuple[str, int]) -> str:
    """What speaks where an HTTP/2 client without TLS finds no gRPC; "" where it is HTTP/2."""
    reader, writer = await asyncio.open_connection(*place)
    try:
        writer.write(_HTTP2)
        said = b""
        with contextlib.suppress(ConnectionError):
            said = await reader.read(64)
    finally:
        writer.close()
    if said.startswith(_HTTP1):
        return f"HTTP is spoken there, no gRPC: {_PORT}"
    if said[3:4] == b"\x04":  # its settings
        return ""
    with contextlib.suppress(OSError, TimeoutError):
        await _greet(place)
        return "what answers there is encrypted: write https:// before the address (tls=True)"
    return f"{_NO_GRPC}: {_PORT}"


async def _encrypted(place: tuple[str, int]) -> str:
    """What speaks where a client with TLS finds no gRPC that it believes."""
    try:
        found = await _greet(place)
    except ssl.SSLError:
        return "what answers there is not encrypted: leave out https:// (tls, ca)"
    except ConnectionRefusedError:
        raise
    except ConnectionError:
        return f"{_NO_GRPC}: {_PORT}"
    if found != "h2":
        return f"HTTPS is spoken there, no gRPC: {_PORT}"
    return (
        "nobody answered whose certificate is believed: "
        "where its authority is your own, name that (--ca, ca=)"
    )


async def _greet(place: tuple[str, int]) -> str | None:
    """Shake hands with whoever it is; the protocol that they choose. Raises OSError."""
    context = ssl.create_default_context()
    context.check_hostname = False  # nothing is told them
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    writer = (await asyncio.open_connection(*place, ssl=context, server_hostname=place[0]))[1]
    protocol: str | None = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.transport.abort()
    return protocol
