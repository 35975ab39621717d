"""How a video file says that its pictures are to be shown: turned, mirrored, of pixels that are not
square. Packets do not say it, so whoever sends a file's packets alone has to."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

__all__ = ["Shower", "Turn"]

MOST_ASPECT = 4.0  # of a pixel that an honest file has
_QUARTER = 0x4000  # of a whole turn, in a message of display orientation
_ORIENTATION = 47  # ITU-T H.264 and H.265, annexes D: display orientation
_START_CODE = b"\0\0\0\1"


@dataclass(frozen=True, slots=True)
class Turn:
    """What is done to a picture before it is shown: mirrored left to right, then turned by so many
    quarters against the clock."""

    mirrored: bool = False
    quarters: int = 0

    @classmethod
    def of(cls, frame: Any) -> "Turn":
        """Turn that a decoded picture's display matrix asks for, to the nearest quarter."""
        try:
            matrix = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # beside it is what PyAV has no name for, as the EXIF of a photograph
            return cls(False, round(frame.rotation / 90) % 4)
        if matrix is None or matrix.buffer_size < 36:
            return cls()
        # x' = ax + cy and y' = bx + dy, downwards.
        a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
        mirrored = a * d - b * c < 0
        if mirrored:
            a, b = -a, -b
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(mirrored, 1 if b < 0 else 3)
        return cls(mirrored, 2 if a < 0 else 0)

    def message(self, codec: str, extradata: bytes) -> bytes:
        """What to put before each packet of H.264 or HEVC so that its decoder knows: a unit of
        supplemental enhancement information."""
        flags = self.mirrored << 22 | self.quarters * _QUARTER << 5
        if codec == "h264":  # holds until the next (ue 1 is 010), no extension, one bit to align
            unit = bytes((0x06, _ORIENTATION, 3)) + (flags | 0b01001).to_bytes(3) + b"\x80"
        else:  # holds until the next, bits to align
            unit = bytes((0x4E, 0x01, _ORIENTATION, 3)) + (flags | 0b11000).to_bytes(3) + b"\x80"
        if extradata[:1] != b"\x01":
            return _START_CODE + unit
        place = 4 if codec == "h264" else 21  # of the size of lengths in avcC and hvcC
        return len(unit).to_bytes((extradata[place] & 3) + 1) + unit

    def filters(self) -> Iterator[tuple[str, str]]:
        """Filters of libavfilter that do it."""
        if self.mirrored:
            yield "hflip", ""
        if self.quarters == 2:
            yield "vflip", ""
            yield "hflip", ""
        elif self.quarters:
            yield "transpose", "cclock" if self.quarters == 1 else "clock"


class Shower:
    """Pictures of one file, as they are to be shown within `largest` pixels a side: turned, of one
    field where they have two, of square pixels, with even sides."""

    def __init__(self, av: ModuleType, turn: Turn, aspect: float, largest: int) -> None:
        self._av = av
        self._turn = turn
        self._aspect = aspect if 1 / MOST_ASPECT <= aspect <= MOST_ASPECT else 1.0
        self._largest = largest
        self._graph: tuple[object, Any] | None = None

    def shown(self, frame: Any) -> tuple[Any, int, int]:
        """The picture, and the size that it is to have."""
        width, height = frame.width * self._aspect, float(frame.height)
        if self._turn.quarters % 2:
            width, height = height, width
        return self._filtered(frame), *self._fit(width, height)

    def _filtered(self, frame: Any) -> Any:
        filters = [("field", "top")] if frame.interlaced_frame else []
        filters += self._turn.filters()
        if not filters:
            return frame
        kind = (frame.width, frame.height, frame.format.name, frame.interlaced_frame)
        if self._graph is None or self._graph[0] != kind:
            graph = self._av.filter.Graph()
            nodes = [
                graph.add_buffer(
                    width=frame.width,
                    height=frame.height,
                    format=frame.format,
                    time_base=frame.time_base,
                )
            ]
            nodes += [graph.add(*each) for each in filters]
            graph.link_nodes(*nodes, graph.add("buffersink")).configure()
            self._graph = (kind, graph)
        self._graph[1].push(frame)
        return self._graph[1].pull()

    def _fit(self, width: float, height: float) -> tuple[int, int]:
        scale = min(1.0, self._largest / max(width, height))
        return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
