"""Facts about an encoded picture that can be read without decoding it."""

from sightline.errors import InvalidArgumentError

MAX_UNITS = 64  # headers looked at before giving up


def is_keyframe(codec: str, data: bytes) -> bool:
    """Whether decoding can start at this access unit, as far as its headers tell.

    H.264 and HEVC in Annex B only: length-prefixed units are told apart by their container.
    """
    if not data:
        return False
    if codec in ("h264", "hevc"):
        return _annex_b_keyframe(codec, data)
    if codec == "vp8":
        return not data[0] & 0x01
    if codec == "vp9":
        profile_3 = data[0] & 0x30 == 0x30
        bits = data[0] << 1 if profile_3 else data[0]  # a reserved bit follows profile 3
        return not bits & 0x08 and not bits & 0x04
    if codec == "av1":
        return _av1_keyframe(data)
    return codec == "mjpeg"


def _annex_b_keyframe(codec: str, data: bytes) -> bool:
    position = 0
    for _ in range(MAX_UNITS):
        position = data.find(b"\x00\x00\x01", position) + 3
        if position < 3 or position >= len(data):
            return False
        if codec == "h264":
            kind = data[position] & 0x1F
            if kind in (1, 2, 5):  # the first slice decides
                return kind == 5
        else:
            kind = data[position] >> 1 & 0x3F
            if kind < 32:
                return 16 <= kind <= 23
    return False


def continues_picture(codec: str, data: bytes, length_bytes: int) -> bool:
    """Whether an access unit begins in the middle of a picture: its first slice is not the
    picture's. `data` holds units after lengths of `length_bytes`, H.264 or HEVC; of anything else
    it is False."""
    if codec not in ("h264", "hevc") or data.startswith(b"\0\0\0\1"):
        return False
    position = 0
    for _ in range(MAX_UNITS):
        start = position + length_bytes
        if start + 3 > len(data):
            return False
        if codec == "h264" and data[start] & 0x1F in (1, 2, 5):
            return not data[start + 1] & 0x80  # first_mb_in_slice, Exp-Golomb: 0 is one set bit
        if codec == "hevc" and data[start] >> 1 & 0x3F < 32:
            return not data[start + 2] & 0x80  # first_slice_segment_in_pic_flag
        position = start + int.from_bytes(data[position:start])
    return False


def length_bytes_of(codec: str, extradata: bytes) -> int:
    """Size of the length before every unit, as avcC or hvcC says; 4 where it does not."""
    place = {"h264": 4, "hevc": 21}.get(codec, -1)
    return (extradata[place] & 0x03) + 1 if 0 <= place < len(extradata) else 4


def _av1_keyframe(data: bytes) -> bool:
    """A temporal unit that carries a sequence header starts with a key frame."""
    position = 0
    for _ in range(MAX_UNITS):
        if position >= len(data):
            return False
        header = data[position]
        kind = header >> 3 & 0x0F
        if kind != 2:  # temporal delimiter
            return kind == 1
        position += 2 if header & 0x04 else 1
        if not header & 0x02:
            return False
        size = shift = 0
        while position < len(data) and shift < 35:
            size |= (data[position] & 0x7F) << shift
            shift += 7
            position += 1
            if not data[position - 1] & 0x80:
                break
        position += size
    return False


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) from a JPEG's frame header, before anything is decoded.

    Raises InvalidArgumentError when there is none.
    """
    position = 2
    while data[:2] == b"\xff\xd8" and position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(data[position + 5 : position + 7])
            width = int.from_bytes(data[position + 7 : position + 9])
            return width, height
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4])
    raise InvalidArgumentError("not a readable JPEG picture")
