"""The RTP packets of one track as libavformat is to see them: of one sender, whose numbers and
times go on (RFC 3550, appendix A.1).

Cameras begin anew behind their own connection, with another SSRC, other numbers or other times;
some do so every few seconds. libavformat takes lower numbers for late packets and drops them, up to
32,768 of them, lays times that leap wherever they point, and keeps the parameters that the first
description told. To open a camera anew for each of these costs what it shows meanwhile.
"""

import struct
import time
from collections.abc import Callable, Mapping

from services.gateway.sources.clock import JUMP_NS, REWIND_NS
from services.gateway.sources.remote.egress_policy import UnreachableError
from services.gateway.sources.remote.rtp_format import Beginning, RtpFormat
from services.gateway.sources.timestamps import signed_step

MOST_MISORDERED = 100  # packets by which one may come late
MAX_HELD = 32  # of another sender, before it is known what they begin with
_HEADER_BYTES = 12
RTCP = range(192, 224)  # as the second byte (RFC 5761, section 4)
_HEADER = struct.Struct("!2sHI4s")
_REWIND_S, _JUMP_S = REWIND_NS / 1e9, JUMP_NS / 1e9


class SenderChangedError(UnreachableError):
    """The packets come from another sender: what is known of them holds no longer."""


class RtpSender:
    """The sender of one track. `formats`: by payload type, as described."""

    def __init__(
        self, formats: Mapping[int, RtpFormat], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._formats = formats
        self._clock_s = clock_s
        self._ssrc: bytes | None = None
        self._shown_ssrc = b""  # by which the player knows it
        self._newest, self._stamp, self._stamp_s = 0, 0, 0.0
        self._number_shift = self._stamp_shift = 0  # from the sender's to what the player sees
        self._held: list[bytes] = []  # of another sender …
        self._next_held = (b"", 0)  # … and what it would send next
        self._repeats_sets = False

    @property
    def is_shifted(self) -> bool:
        """Whether packets are passed on with other times than their sender gave them, so that its
        reports hold no longer."""
        return bool(self._stamp_shift)

    def take(self, packet: bytes) -> list[bytes]:
        """Packets to pass on, now that this one came. Raises SenderChangedError when they are of
        another sender, which is told by two strange ones in a row (a single one may have strayed),
        and do not say themselves what a decoder has to know."""
        if len(packet) < _HEADER_BYTES or packet[0] >> 6 != 2 or packet[1] in RTCP:
            return [packet]
        _, number, stamp, ssrc = _HEADER.unpack_from(packet)
        if self._ssrc is None:
            self._ssrc = self._shown_ssrc = ssrc
            self._newest, self._stamp, self._stamp_s = number, stamp, self._clock_s()
        step = _step(number, self._newest)
        if ssrc == self._ssrc and step >= -MOST_MISORDERED:
            self._held.clear()
            return [self._shown(packet)]
        if self._held and self._next_held == (ssrc, number):
            self._held.append(packet)
        else:
            self._held = [packet]
        self._next_held = (ssrc, number + 1 & 0xFFFF)
        if len(self._held) < 2 or not self._is_enough():
            return []
        held, self._held = self._held, []
        self._follow(held[0])
        return [self._shown(one) for one in held]

    def _is_enough(self) -> bool:
        """Whether what is held can be shown as if nothing had happened; False: to be told by the
        next packet. Raises SenderChangedError."""
        for packet in self._held:
            beginning = self._beginning(packet)
            goes_on = beginning is Beginning.MIDDLE and self._repeats_sets
            if goes_on or beginning is Beginning.ANEW:
                return True
            if beginning is not Beginning.UNTOLD:
                break
        else:
            if len(self._held) < MAX_HELD:
                return False
        raise SenderChangedError("the video comes from another sender")

    def _beginning(self, packet: bytes) -> Beginning:
        known = self._formats.get(packet[1] & 0x7F)
        return Beginning.NEEDY if known is None else known.beginning(_payload(packet))

    def _follow(self, packet: bytes) -> None:
        """Let the packets from this one on follow those before it."""
        _, number, _, ssrc = _HEADER.unpack_from(packet)
        self._number_shift += self._newest + 1 - number
        self._ssrc, self._newest = ssrc, number - 1 & 0xFFFF
        self._lay(packet)

    def _lay(self, packet: bytes) -> None:
        """Let the packet's time follow that of the newest one by as much as it came later."""
        _, _, stamp, _ = _HEADER.unpack_from(packet)
        now_s = self._clock_s()
        rate = self._formats[packet[1] & 0x7F].rate
        later = max(1, round((now_s - self._stamp_s) * rate))
        self._stamp_shift += self._stamp + later - stamp
        self._stamp, self._stamp_s = stamp, now_s

    def _shown(self, packet: bytes) -> bytes:
        """A packet of the sender as the player sees it."""
        first, number, stamp, _ = _HEADER.unpack_from(packet)
        if _step(number, self._newest) > 0:
            self._newest = number
        known = self._formats.get(packet[1] & 0x7F)
        if known is not None:
            if known.video and not self._repeats_sets:
                self._repeats_sets = known.beginning(_payload(packet)) is Beginning.ANEW
            later_s, now_s = signed_step(stamp, self._stamp) / known.rate, self._clock_s()
            if later_s < -_REWIND_S or later_s > _JUMP_S + max(0.0, now_s - self._stamp_s):
                self._lay(packet)
            elif later_s > 0:
                self._stamp, self._stamp_s = stamp, now_s
        if self._number_shift or self._stamp_shift:
            number = number + self._number_shift & 0xFFFF
            stamp = stamp + self._stamp_shift & 0xFFFFFFFF
            return _HEADER.pack(first, number, stamp, self._shown_ssrc) + packet[_HEADER_BYTES:]
        return packet


def _step(number: int, before: int) -> int:
    """How far a number lies behind one before it, both of 16 bits."""
    return (number - before + 0x8000 & 0xFFFF) - 0x8000


def _payload(packet: bytes) -> bytes:
    start = _HEADER_BYTES + 4 * (packet[0] & 0x0F)
    if packet[0] & 0x10:  # a header extension
        start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4])
    return packet[start : start + 8]  # what it begins with
