"""AMF0, the encoding of RTMP's commands and metadata."""

import math
import struct
from typing import Any

from services.gateway.sources.rtmp import RtmpError

MAX_DEPTH = 8
MAX_VALUES = 2048  # in one message
MAX_STRING_BYTES = 65_536

NUMBER, BOOLEAN, STRING, OBJECT = 0x00, 0x01, 0x02, 0x03
NULL, UNDEFINED, ECMA_ARRAY, OBJECT_END = 0x05, 0x06, 0x08, 0x09
STRICT_ARRAY, DATE, LONG_STRING, UNSUPPORTED, XML, TYPED_OBJECT = 0x0A, 0x0B, 0x0C, 0x0D, 0x0F, 0x10


def encode(*values: Any) -> bytes:
    """AMF0 of None, bool, numbers, str, dict (as objects) and list (as strict arrays)."""
    return b"".join(_encode(value) for value in values)


def _encode(value: Any) -> bytes:
    if value is None:
        return bytes([NULL])
    if isinstance(value, bool):
        return bytes([BOOLEAN, value])
    if isinstance(value, int | float):
        return struct.pack(">Bd", NUMBER, value)
    if isinstance(value, str):
        data = value.encode()
        if len(data) > 0xFFFF:
            return struct.pack(">BI", LONG_STRING, len(data)) + data
        return struct.pack(">BH", STRING, len(data)) + data
    if isinstance(value, dict):
        return bytes([OBJECT]) + _encode_properties(value)
    if isinstance(value, list):
        return struct.pack(">BI", STRICT_ARRAY, len(value)) + encode(*value)
    raise TypeError(f"AMF0 has no {type(value).__name__}")


def _encode_properties(properties: dict[str, Any]) -> bytes:
    parts = []
    for name, value in properties.items():
        data = name.encode()
        parts += [struct.pack(">H", len(data)), data, _encode(value)]
    return b"".join(parts) + bytes([0, 0, OBJECT_END])


def decode(data: bytes) -> list[Any]:
    """All values of a message. Raises RtmpError when it is malformed or beyond the limits.

    Objects and ECMA arrays become dicts, dates numbers (ms), undefined and unsupported None.
    """
    reader = _Reader(data)
    values = []
    while reader.position < len(data):
        values.append(reader.value(0))
    return values


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.num_values = 0

    def value(self, depth: int) -> Any:
        self.num_values += 1
        if depth > MAX_DEPTH or self.num_values > MAX_VALUES:
            raise RtmpError("AMF0 data nested too deep or too long")
        kind = self._take(1)[0]
        if kind == NUMBER:
            return self._number()
        if kind == BOOLEAN:
            return self._take(1)[0] != 0
        if kind == STRING:
            return self._text(self._integer(2))
        if kind in (LONG_STRING, XML):
            return self._text(self._integer(4))
        if kind == OBJECT:
            return self._properties(depth)
        if kind == ECMA_ARRAY:
            self._take(4)  # a count that senders get wrong
            return self._properties(depth)
        if kind == TYPED_OBJECT:
            self._text(self._integer(2))
            return self._properties(depth)
        if kind == STRICT_ARRAY:
            count = self._integer(4)
            if count > MAX_VALUES:
                raise RtmpError("AMF0 array too long")
            return [self.value(depth + 1) for _ in range(count)]
        if kind == DATE:
            milliseconds = self._number()
            self._take(2)  # a time zone that is always zero
            return milliseconds
        if kind in (NULL, UNDEFINED, UNSUPPORTED):
            return None
        raise RtmpError(f"AMF0 type {kind:#04x} is not known")

    def _properties(self, depth: int) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        while True:
            name = self._text(self._integer(2))
            if not name and self.data[self.position : self.position + 1] == bytes([OBJECT_END]):
                self.position += 1
                return properties
            properties[name] = self.value(depth + 1)

    def _take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise RtmpError("AMF0 data ends too early")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def _integer(self, size: int) -> int:
        return int.from_bytes(self._take(size))

    def _number(self) -> float:
        number: float = struct.unpack(">d", self._take(8))[0]
        return number if math.isfinite(number) else 0.0

    def _text(self, size: int) -> str:
        if size > MAX_STRING_BYTES:
            raise RtmpError("AMF0 string too long")
        return self._take(size).decode(errors="replace")
