"""Whether a track's RTP packets still come from the sender that began it (RFC 3550, appendix A.1).

An RTSP server that begins anew behind its own connection, or gets its video from another encoder,
goes on with numbers of its own. libavformat takes lower ones for late packets and drops them, up to
32,768 of them, and keeps the parameters that the first description told.
"""

MOST_MISORDERED = 100  # packets by which one may come late
_HEADER_BYTES = 12
_RTCP = range(192, 224)  # as the second byte (RFC 5761, section 4)


class RtpSender:
    """The sender of one track, known by its packets."""

    def __init__(self) -> None:
        self._ssrc: bytes | None = None
        self._newest = 0
        self._other: tuple[bytes, int] | None = None  # of a stranger's packet: who, and what next

    def is_another(self, packet: bytes) -> bool:
        """Take a packet; whether it is of another sender. That is told by two strange ones in a
        row: a single one may have strayed."""
        if len(packet) < _HEADER_BYTES or packet[0] >> 6 != 2 or packet[1] in _RTCP:
            return False
        ssrc, number = packet[8:12], int.from_bytes(packet[2:4])
        step = (number - self._newest + 0x8000 & 0xFFFF) - 0x8000
        if self._ssrc is None or (ssrc == self._ssrc and step >= -MOST_MISORDERED):
            self._newest = number if self._ssrc is None or step > 0 else self._newest
            self._ssrc, self._other = ssrc, None
            return False
        if (ssrc, number) == self._other:
            return True
        self._other = (ssrc, number + 1 & 0xFFFF)
        return False
