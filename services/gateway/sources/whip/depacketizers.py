"""Pictures out of the RTP payloads of codecs that aiortc does not know: VP9, AV1, H.265.

aiortc joins the payloads of one timestamp and forgets where each begins, so each is given its
length (`framed`) on the way in; `picture_of` takes the joined ones apart again. No state: a picture
is its own packets.
"""

from collections.abc import Callable, Iterator

_LENGTH_BYTES = 2  # no payload is longer than a datagram
_START_CODE = b"\0\0\0\1"
_MAX_LAYERS = 8  # of one VP9 picture: a superframe has no room for more
_TEMPORAL_DELIMITER, _TILE_LIST, _PADDING = 2, 8, 15  # OBUs that are not for decoders
_AGGREGATION, _FRAGMENT = 48, 49  # H.265 payload types


def framed(payload: bytes) -> bytes:
    """The payload with its length before it. Raises ValueError for one no datagram could hold."""
    if len(payload) >= 1 << 8 * _LENGTH_BYTES:
        raise ValueError("a payload that is too long")
    return len(payload).to_bytes(_LENGTH_BYTES) + payload


def picture_of(codec: str, joined: bytes) -> bytes:
    """One picture as libavcodec takes it, of the framed payloads of "vp9", "av1" or "hevc".

    Raises ValueError where some are missing or make no sense.
    """
    try:
        return _ASSEMBLERS[codec](_payloads(joined))
    except IndexError:
        raise ValueError("a cut RTP payload") from None


def _payloads(joined: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(joined):
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(joined[position:start])
        if start < position <= len(joined):  # an empty one only probes the line
            yield joined[start:position]


def _vp9(payloads: Iterator[bytes]) -> bytes:
    """RFC 9628: a descriptor, then a part of a layer's frame. Several layers of one picture become
    a superframe (VP9 bitstream specification, annex B)."""
    layers: list[bytearray] = []
    for payload in payloads:
        start, begins = _vp9_descriptor(payload)
        if begins:
            layers.append(bytearray())
        if not layers or len(layers) > _MAX_LAYERS:
            raise ValueError("a VP9 picture without its beginning, or of too many layers")
        layers[-1] += payload[start:]
    if not layers or not all(layers):
        raise ValueError("an empty VP9 picture")
    if len(layers) == 1:
        return bytes(layers[0])
    size_bytes = (max(map(len, layers)).bit_length() + 7) // 8
    marker = bytes((0xC0 | (size_bytes - 1) << 3 | len(layers) - 1,))
    sizes = b"".join(len(layer).to_bytes(size_bytes, "little") for layer in layers)
    return b"".join(layers) + marker + sizes + marker


def _vp9_descriptor(payload: bytes) -> tuple[int, bool]:
    """Length of a payload's descriptor (RFC 9628, section 4.2), and whether a layer begins."""
    flags = payload[0]
    has_id, predicted, has_layer, flexible = (bool(flags & bit) for bit in (128, 64, 32, 16))
    position = 1
    if has_id:
        position += 2 if payload[position] & 0x80 else 1
    if has_layer:
        position += 1 if flexible else 2
    if flexible and predicted:
        for _ in range(3):
            position += 1
            if not payload[position - 1] & 1:
                break
    if flags & 0x02:  # the scalability structure
        structure = payload[position]
        position += 1
        if structure & 0x10:
            position += 4 * ((structure >> 5) + 1)
        if structure & 0x08:
            count = payload[position]
            position += 1
            for _ in range(count):
                position += 1 + (payload[position] >> 2 & 3)
    if position > len(payload):
        raise ValueError("a cut VP9 descriptor")
    return position, bool(flags & 0x08)


def _av1(payloads: Iterator[bytes]) -> bytes:
    """RTP Payload Format For AV1, section 4: OBUs without their lengths, perhaps in parts."""
    picture = bytearray()
    part: bytearray | None = None  # an OBU that goes on in the next packet
    for payload in payloads:
        head = payload[0]
        elements = list(_av1_elements(payload, head >> 4 & 3))
        if bool(head & 0x80) != (part is not None) or not elements:
            raise ValueError("an AV1 picture lacks a part")
        for index, element in enumerate(elements):
            if index or part is None:
                part = bytearray()
            part += element
            if index < len(elements) - 1 or not head & 0x40:
                picture += _sized(bytes(part))
                part = None
    if part is not None or not picture:
        raise ValueError("an AV1 picture lacks its end")
    return bytes(picture)


def _av1_elements(payload: bytes, count: int) -> Iterator[bytes]:
    """Elements of a packet: `count` of them, the last without its length; 0: each has one."""
    position = 1
    index = 0
    while position < len(payload):
        index += 1
        if index == count:
            yield payload[position:]
            return
        size, position = _leb128(payload, position)
        if position + size > len(payload):
            raise ValueError("a cut AV1 payload")
        yield payload[position : position + size]
        position += size
    if index < count:
        raise ValueError("an AV1 payload of too few elements")


def _sized(unit: bytes) -> bytes:
    """The OBU with its length in it, as decoders want it; nothing for what is not for them."""
    if not unit:
        return b""
    if unit[0] >> 3 & 15 in (_TEMPORAL_DELIMITER, _TILE_LIST, _PADDING):
        return b""
    header_bytes = 2 if unit[0] & 0x04 else 1
    if unit[0] & 0x02:
        size, start = _leb128(unit, header_bytes)
        if start + size > len(unit):
            raise ValueError("a cut AV1 unit")
        return unit[: start + size]
    if len(unit) < header_bytes:
        raise ValueError("a cut AV1 unit")
    size, length = len(unit) - header_bytes, bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes((unit[0] | 0x02,)) + unit[1:header_bytes] + bytes(length) + unit[header_bytes:]


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    """Number at a position, and the position behind it."""
    value = 0
    for index in range(5):
        byte = data[position + index]
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return value, position + index + 1
    raise ValueError("an absurd length")


def _hevc(payloads: Iterator[bytes]) -> bytes:
    """RFC 7798, section 4.4: units as they are, several in one packet, or one in several."""
    picture = bytearray()
    inside = False  # a unit that is in several packets
    for payload in payloads:
        kind = payload[0] >> 1 & 0x3F
        if kind == _FRAGMENT:
            header = payload[2]
            begins = bool(header & 0x80)
            if begins == inside:
                raise ValueError("an H.265 unit lacks a part")
            if begins:
                picture += _START_CODE
                picture += bytes((payload[0] & 0x81 | (header & 0x3F) << 1, payload[1]))
            picture += payload[3:]
            inside = not header & 0x40
            continue
        if inside or kind > _FRAGMENT:
            raise ValueError("an H.265 unit lacks its end, or is none")
        if kind != _AGGREGATION:
            picture += _START_CODE + payload
            continue
        position = 2
        while position < len(payload):
            size = payload[position] << 8 | payload[position + 1]
            position += 2 + size
            if not size or position > len(payload):
                raise ValueError("a cut H.265 packet")
            picture += _START_CODE + payload[position - size : position]
    if inside or not picture:
        raise ValueError("an H.265 unit lacks its end")
    return bytes(picture)


_ASSEMBLERS: dict[str, Callable[[Iterator[bytes]], bytes]] = {
    "vp9": _vp9,
    "av1": _av1,
    "hevc": _hevc,
}
