"""Questions to what listens on a port, asked by several checks."""

import email.utils
import http.client
import os
import socket
import struct
import time

TIMEOUT_S = 3.0


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
    return True


def date_of(port: int) -> float | None:
    """The clock of a service of ours at an HTTP port, in seconds since the epoch; None where none
    answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        reply = connection.getresponse()
        if b'"serving"' not in reply.read(4096):
            return None
        date = reply.getheader("Date")
        return email.utils.parsedate_to_datetime(date).timestamp() if date else time.time()
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def stun(host: str, port: int) -> str:
    """The address that a STUN server sees (RFC 8489). Raises OSError, ValueError."""
    magic, transaction = 0x2112A442, os.urandom(12)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(TIMEOUT_S)
        peer.connect((host, port))
        # With a name, as a server that answers nothing longer than its question wants it.
        name = b"sightline doctor".ljust(32)
        attribute = struct.pack("!HH", 0x8022, len(name)) + name
        peer.send(struct.pack("!HHI", 1, len(attribute), magic) + transaction + attribute)
        reply = peer.recv(1024)
    if len(reply) < 20 or reply[:2] != b"\x01\x01" or reply[8:20] != transaction:
        raise ValueError("its answer is not STUN's")
    place = 20
    while place + 4 <= len(reply):
        kind, length = struct.unpack_from("!HH", reply, place)
        if kind == 0x0020 and length >= 8:
            number = struct.unpack_from("!I", reply, place + 8)[0] ^ magic
            return socket.inet_ntoa(struct.pack("!I", number))
        place += 4 + length + (-length % 4)
    raise ValueError("its answer names no address")
