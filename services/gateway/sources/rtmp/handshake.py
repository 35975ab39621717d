"""The simple RTMP handshake (RTMP 1.0, section 5.2), server side.

The complex variant with digests protects nothing and no publisher insists on it.
"""

import os

from services.gateway.sources.rtmp import RtmpError

VERSION = 3
PACKET_BYTES = 1536


def check_version(c0: bytes) -> None:
    """Raises RtmpError for anything but plain RTMP, a browser or a port scanner for example."""
    if c0 != bytes([VERSION]):
        raise RtmpError("not an RTMP handshake")


def reply(c1: bytes) -> bytes:
    """S0, S1 and S2 for a C1 of 1536 bytes. S2 echoes C1."""
    s1 = bytes(8) + os.urandom(PACKET_BYTES - 8)
    return bytes([VERSION]) + s1 + c1
