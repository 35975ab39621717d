"""What live MPEG-TS says of its video (ISO 13818-1, section 2.4.4), where that becomes another.

libavformat reads a stream's programme once: a codec that changes under it is decoded as the old
one, and a video that moves to another PID is never seen.
"""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from services.gateway.sources.patience import FIRST_S
from services.gateway.sources.source import NoVideoError

_PACKET_BYTES, _SYNC = 188, 0x47
_PROGRAMMES, _MAP = 0x00, 0x02  # table ids
# MPEG-1, MPEG-2, MPEG-4, H.264, HEVC, VVC, AVS.
_VIDEO_TYPES = frozenset((0x01, 0x02, 0x10, 0x1B, 0x24, 0x33, 0x42, 0xD1, 0xEA))

# Sound and data, which may come long before the video does. Of others nobody knows what they are.
_OTHER_TYPES = frozenset((0x03, 0x04, 0x05, 0x0F, 0x11, 0x15, 0x1C, 0x81, 0x86, 0x87))

Videos = frozenset[tuple[int, int]]  # (type, PID) of each


class Readable(Protocol):
    def read(self, size: int) -> bytes: ...


class ProgrammeWatch:
    """A file of live MPEG-TS, which begins where it says that it has video, and ends where that
    becomes another; `go_on` lets it be read from there, by whoever opens it anew. Tables of more
    than a packet are not looked into."""

    def __init__(self, file: Readable, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock_s = clock_s
        self._waits_from_s: float | None = None
        self._kept = b""  # that is read next
        self._until_packet = 0  # bytes
        self._pids: dict[int, int] = {}  # of programmes' maps, by programme
        self._videos: dict[int, Videos] = {}  # by programme
        self._seen: dict[int, bytes] = {}  # the section that a PID carried last
        self._programmes = b""  # the packet that lists them
        self._without_video: set[int] = set()  # programmes
        self._begins = False  # what is kept
        self.changed = False

    def go_on(self) -> None:
        self.changed = False

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes; b"" at the end, and once the video has `changed`. Raises
        NoVideoError for what has had none for too long, or to its end."""
        if self.changed:
            return b""
        while True:
            data = self._looked_at(size)
            if self._begins:
                self._begins = False
                continue
            if not self._is_waiting:
                return data
            self._waits_from_s = self._waits_from_s or self._clock_s()
            if not data or self._clock_s() - self._waits_from_s > FIRST_S:
                raise NoVideoError("the source has no video")

    @property
    def _is_waiting(self) -> bool:
        return bool(self._without_video) and not self._videos

    def _looked_at(self, size: int) -> bytes:
        data = self._kept or self._file.read(size)
        data, self._kept = data[:size], data[size:]
        place = self._change_in(data)
        if place is None:
            return data
        self.changed = not self._begins
        self._kept = self._programmes + data[place:] + self._kept
        self._until_packet = 0
        return data[:place]

    def _change_in(self, data: bytes) -> int | None:
        """Where the packet begins that tells of another video."""
        place = self._until_packet
        while place + _PACKET_BYTES <= len(data):
            if data[place] != _SYNC:
                found = data.find(_SYNC, place + 1)
                place = found if found >= 0 else len(data)
                continue
            if data[place + 1] & 0x40 and self._tells(data[place : place + _PACKET_BYTES]):
                return place
            place += _PACKET_BYTES
        # A packet that is cut here is not looked into: its table comes again.
        self._until_packet = place - len(data) + (_PACKET_BYTES if place < len(data) else 0)
        return None

    def _tells(self, packet: bytes) -> bool:
        """Whether a packet that begins something says that the video is another."""
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if pid and pid not in self._pids.values():
            return False
        section = _section_of(packet)
        if not section or section == self._seen.get(pid) or _checksum(section):
            return False
        self._seen[pid] = section
        if pid == 0 and section[0] == _PROGRAMMES:
            self._programmes = packet
            self._pids = {
                section[at] << 8 | section[at + 1]: (section[at + 2] & 0x1F) << 8 | section[at + 3]
                for at in range(8, len(section) - 7, 4)
                if section[at] or section[at + 1]  # else it is of the network
            }
            return False
        if pid == 0 or section[0] != _MAP or not section[5] & 1 or len(section) < 16:
            return False
        programme, videos = section[3] << 8 | section[4], _videos_of(section)
        if not videos and _types_of(section) <= _OTHER_TYPES:
            self._without_video.add(programme)
        known = {number: had for number, had in self._videos.items() if number in self._pids}
        had = known.get(programme)
        other = bool(videos) and (had != videos if had else bool(self._videos) and not known)
        if videos:
            self._begins = self._is_waiting
            self._videos = known | {programme: videos}
        return other or self._begins


def _section_of(packet: bytes) -> bytes:
    """The whole section that a packet begins with; nothing where it goes on in another packet."""
    start = 4
    if packet[3] & 0x20:  # an adaptation field
        start += 1 + packet[4]
    if not packet[3] & 0x10 or start >= _PACKET_BYTES:
        return b""
    start += 1 + packet[start]
    if start + 3 > _PACKET_BYTES:
        return b""
    end = start + 3 + ((packet[start + 1] & 0x0F) << 8 | packet[start + 2])
    return packet[start:end] if start + 12 <= end <= _PACKET_BYTES else b""


def _streams_of(section: bytes) -> Iterator[tuple[int, int]]:
    """(type, PID) of each."""
    place = 12 + ((section[10] & 0x0F) << 8 | section[11])
    while place + 5 <= len(section) - 4:
        yield section[place], (section[place + 1] & 0x1F) << 8 | section[place + 2]
        place += 5 + ((section[place + 3] & 0x0F) << 8 | section[place + 4])


def _videos_of(section: bytes) -> Videos:
    return frozenset(one for one in _streams_of(section) if one[0] in _VIDEO_TYPES)


def _types_of(section: bytes) -> set[int]:
    return {kind for kind, _ in _streams_of(section)}


def _checksum(section: bytes) -> int:
    """CRC of a section with its own; 0 for one that came as it was sent (annex A)."""
    value = 0xFFFFFFFF
    for byte in section:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value
