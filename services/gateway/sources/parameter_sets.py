"""Demands of an H.264 or HEVC stream on its decoder, read from its sequence parameter sets."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SETS = 64  # of one access unit
_H264_SET = re.compile(rb"\x00\x00\x01[\x07\x27\x47\x67\x87\xa7\xc7\xe7]")
_HEVC_SET = re.compile(rb"\x00\x00\x01[\x42\x43\xc2\xc3]")
_SET_BYTES = 1024  # of one set; more is read by nobody
_WITH_CHROMA = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))
_SAMPLES = (1.0, 1.5, 2.0, 3.0)  # per pixel, by chroma_format_idc


class MalformedError(ValueError):
    """The bytes are no parameter set, or too many."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Size of a coded picture in pixels, its bytes, and how many of them are kept at once."""

    width: int
    height: int
    picture_bytes: int
    num_pictures: int


def needs_of(codec: str, data: bytes, length_bytes: int = 0) -> list[Needs]:
    """Needs of every sequence parameter set in an access unit. `length_bytes`: of the length before
    each unit; 0 for start codes, which are looked for within units too. Raises MalformedError."""
    found: list[Needs] = []
    for payload in _sets(codec, data, length_bytes):
        if len(found) == MAX_SETS:
            raise MalformedError("too many parameter sets")
        bits = _Bits(payload)
        found.append(_h264(bits) if codec == "h264" else _hevc(bits))
    return found


def needs_of_configuration(codec: str, extradata: bytes) -> tuple[list[Needs], int]:
    """Needs that are told by avcC, hvcC or Annex B extradata, and its `length_bytes`.

    Raises MalformedError.
    """
    if not extradata or extradata[0] != 1:
        return needs_of(codec, extradata), 0
    found: list[Needs] = []
    try:
        if codec == "h264":
            length_bytes, position = (extradata[4] & 3) + 1, 6
            arrays = [(7, extradata[5] & 0x1F)]
        else:
            length_bytes, position = (extradata[21] & 3) + 1, 23
            arrays = [(0, 0)] * extradata[22]
        for kind, count in arrays:
            if codec == "hevc":
                kind, count = extradata[position] & 0x3F, _number(extradata, position + 1)
                position += 3
            for _ in range(count):
                size = _number(extradata, position)
                unit = extradata[position + 2 : position + 2 + size]
                position += 2 + size
                if (codec, kind) in (("h264", 7), ("hevc", 33)):
                    found += needs_of(codec, b"\0\0\1" + unit)
    except IndexError as error:
        raise MalformedError("a cut configuration") from error
    return found, length_bytes


def _number(data: bytes, position: int) -> int:
    return data[position] << 8 | data[position + 1]


def _sets(codec: str, data: bytes, length_bytes: int) -> Iterator[bytes]:
    """Payloads of parameter sets, behind their headers, without emulation prevention.

    Start codes are looked for within units that have lengths too, where libavcodec follows them;
    not in the lengths: one of 0x167 bytes looks like the start of a set.
    """
    if not length_bytes:
        yield from _started(codec, data)
        return
    header = 1 if codec == "h264" else 2
    position = 0
    while position + length_bytes < len(data):
        size = int.from_bytes(data[position : position + length_bytes])
        position += length_bytes
        yield from _started(codec, data[position : position + size])
        kind = data[position] & 0x1F if codec == "h264" else data[position] >> 1 & 0x3F
        if kind == (7 if codec == "h264" else 33):
            yield _unescaped(data[position + header : position + min(size, _SET_BYTES)])
        position += max(1, size)


def _started(codec: str, data: bytes) -> Iterator[bytes]:
    """Payloads of parameter sets behind start codes."""
    header = 1 if codec == "h264" else 2
    for start in (_H264_SET if codec == "h264" else _HEVC_SET).finditer(data):
        yield _unescaped(data[start.start() + 3 + header : start.start() + _SET_BYTES])


def _unescaped(payload: bytes) -> bytes:
    return payload.replace(b"\0\0\3", b"\0\0")


class _Bits:
    """Reads bits and Exp-Golomb numbers; raises MalformedError past the end."""

    def __init__(self, data: bytes) -> None:
        self._number = int.from_bytes(data)
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise MalformedError("a cut parameter set")
        self._left -= count
        return self._number >> self._left & (1 << count) - 1

    def unsigned(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise MalformedError("an absurd number")
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        value = self.unsigned()
        return (value + 1) // 2 if value % 2 else -(value // 2)


def _h264(bits: _Bits) -> Needs:
    """ITU-T H.264, 7.3.2.1.1."""
    profile = bits.take(8)
    bits.take(16)
    bits.unsigned()
    chroma, depth = 1, 8
    if profile in _WITH_CHROMA:
        chroma = bits.unsigned()
        if chroma == 3:
            bits.take(1)
        depth = 8 + max(bits.unsigned(), bits.unsigned())
        bits.take(1)
        if bits.take(1):
            for number in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
    bits.unsigned()
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(min(256, bits.unsigned())):
            bits.signed()
    references = bits.unsigned()
    bits.take(1)
    width = 16 * (bits.unsigned() + 1)
    height = 16 * (bits.unsigned() + 1)
    if not bits.take(1):
        height *= 2
    return _needs(width, height, chroma, depth, min(16, references) + 2)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _hevc(bits: _Bits) -> Needs:
    """ITU-T H.265, 7.3.2.2.1."""
    bits.take(4)
    layers = bits.take(3)
    bits.take(1)
    bits.take(96)
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)
    bits.unsigned()
    chroma = bits.unsigned()
    if chroma == 3:
        bits.take(1)
    width, height = bits.unsigned(), bits.unsigned()
    if bits.take(1):
        for _ in range(4):
            bits.unsigned()
    depth = 8 + max(bits.unsigned(), bits.unsigned())
    bits.unsigned()
    kept = 0
    for _ in range(layers + 1 if bits.take(1) else 1):
        kept = max(kept, bits.unsigned() + 1)
        bits.unsigned()
        bits.unsigned()
    return _needs(width, height, chroma, depth, min(16, kept) + 2)


def _needs(width: int, height: int, chroma: int, depth: int, pictures: int) -> Needs:
    if chroma > 3:
        raise MalformedError("an unknown chroma format")
    samples = width * height * _SAMPLES[chroma]
    return Needs(width, height, int(samples * (2 if depth > 8 else 1)), pictures)
