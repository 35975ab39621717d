"""H.264 on its way out: what can be forwarded, and its packets (RFC 6184)."""

from collections.abc import Iterator

from services.gateway.sources.bitstream import length_bytes_of

MAX_PAYLOAD_BYTES = 1200  # fits into every path's packets, with SRTP and UDP around it
_SLICE, _IDR, _REMARK, _SPS, _PPS = 1, 5, 6, 7, 8
_ORIENTATION = b"\x2f"  # how a picture is to be turned, as remarks say it (annex D)
_NOT_SENT = (_REMARK, 9, 12)  # remarks, delimiters and filling: nothing that a decoder needs
_FRAGMENT = 28
_PROFILES = (66, 77, 100)  # Baseline, Main, High: what browsers decode


def units_of(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """NAL units of an access unit, after lengths of so many bytes, or after start codes (0).

    What is cut off ends it.
    """
    if length_bytes:
        position = 0
        while position + length_bytes < len(data):
            start = position + length_bytes
            position = start + int.from_bytes(data[position:start])
            if position > len(data):
                return
            if position > start:
                yield data[start:position]
        return
    start = data.find(b"\x00\x00\x01") + 3
    while start >= 3:
        end = data.find(b"\x00\x00\x01", start)
        unit = data[start : end if end >= 0 else len(data)].rstrip(b"\x00")
        if unit:
            yield unit
        start = end + 3 if end >= 0 else -1


def configuration_of(extradata: bytes) -> tuple[int, list[bytes]]:
    """Bytes of the length before every unit, 0 for start codes, and the parameter sets that go
    before a keyframe."""
    if extradata[:1] != b"\x01":
        return 0, [unit for unit in units_of(extradata, 0) if unit[0] & 0x1F in (_SPS, _PPS)]
    sets: list[bytes] = []
    position = 5
    for mask in (0x1F, 0xFF):
        count = extradata[position] & mask if position < len(extradata) else 0
        position += 1
        for _ in range(count):
            size = int.from_bytes(extradata[position : position + 2])
            position += 2
            if size and position + size <= len(extradata):
                sets.append(extradata[position : position + size])
            position += size
    return length_bytes_of("h264", extradata), sets


def is_forwardable(units: list[bytes]) -> bool:
    """Whether browsers can show a picture of these units as it came: of a profile that they know,
    shown in the order of sending (no B slice), and upright."""
    for unit in units:
        kind = unit[0] & 0x1F
        if kind == _REMARK and unit[1:2] == _ORIENTATION:
            flags = int.from_bytes(unit[3:6])  # cancelled, mirrored twice, turned by 16 bits
            if not flags >> 23 and flags >> 5 & 0x3FFFF:
                return False
        if kind == _SPS and len(unit) > 1 and unit[1] not in _PROFILES:
            return False
        # A picture's first slice begins with a set bit: first_mb_in_slice is 0 in Exp-Golomb code.
        # slice_type follows: 010 is 1 and 00111 is 6, and both are B.
        first = kind == _SLICE and len(unit) > 1 and bool(unit[1] & 0x80)
        if first and (unit[1] & 0x70 == 0x20 or unit[1] & 0x7C == 0x1C):
            return False
    return True


class EncodedPicture:
    """One access unit as viewers get it. `stamp`: 90 kHz since 1970; grows from picture to picture.
    Its payloads are made once, for all viewers."""

    __slots__ = ("_payloads", "_units", "keyframe", "num_bytes", "stamp")

    def __init__(self, units: list[bytes], sets: list[bytes], *, keyframe: bool, stamp: int):
        kept = [unit for unit in units if unit[0] & 0x1F not in _NOT_SENT]
        if keyframe and not any(unit[0] & 0x1F == _SPS for unit in kept):
            kept = [*sets, *kept]
        self._units = kept
        self._payloads: list[bytes] | None = None
        self.keyframe = keyframe
        self.num_bytes = sum(map(len, kept))
        self.stamp = stamp

    def alone(self) -> "EncodedPicture":
        """The same picture for whoever keeps it long, without the payloads that viewers had made:
        those of long units are copies."""
        return EncodedPicture(self._units, [], keyframe=self.keyframe, stamp=self.stamp)

    @property
    def units(self) -> list[bytes]:
        return self._units

    @property
    def payloads(self) -> list[bytes]:
        """Payloads of its RTP packets, the last of which carries the marker."""
        if self._payloads is None:
            self._payloads = packetise(self._units)
        return self._payloads

    @property
    def annex_b(self) -> bytes:
        """The units after start codes."""
        return b"".join(b"\0\0\0\1" + unit for unit in self._units)

    @property
    def sets(self) -> list[bytes]:
        """Parameter sets of the stream."""
        return [unit for unit in self._units if unit[0] & 0x1F in (_SPS, _PPS)]


def packetise(units: list[bytes]) -> list[bytes]:
    """RTP payloads of units: single ones, and fragments (FU-A) of those that are too long."""
    payloads = []
    for unit in units:
        if len(unit) <= MAX_PAYLOAD_BYTES:
            payloads.append(unit)
            continue
        indicator = unit[0] & 0xE0 | _FRAGMENT
        size = MAX_PAYLOAD_BYTES - 2
        for start in range(1, len(unit), size):
            header = unit[0] & 0x1F
            header |= 0x80 if start == 1 else 0
            header |= 0x40 if start + size >= len(unit) else 0
            payloads.append(bytes((indicator, header)) + unit[start : start + size])
    return payloads
