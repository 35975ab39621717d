"""The packets of one video stream, put in order and together to pictures."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services.gateway.sources.timestamps import TimestampUnwrapper

CAPACITY = 2048  # packets from the oldest that is missing to the newest: 0.4 s of 60 Mbit/s
PROVEN = 3  # pictures in a row that end with their only marker, before markers are believed
MAX_NACKS = 128  # missing packets that are asked for at once
MAX_GAP = 90_000 * 10  # ticks; a longer one says nothing of how many pictures were lost


@dataclass(slots=True)
class Picture:
    """One encoded picture. `timestamp`: the sender's, unwrapped; `lost`: how many before it were
    given up."""

    data: bytes
    timestamp: int
    lost: int = 0


@dataclass(slots=True)
class Pictures:
    """What a packet completes: what waited behind it comes with it."""

    timestamp: int  # aiortc maps it
    pictures: list[Picture] = field(default_factory=list)


class PictureBuffer:
    """Takes the place of a receiver's jitter buffer: aiortc's holds every picture back until the
    next one begins, gives out one for each packet that comes, however many wait, and throws away
    what does not fit without a word.

    A picture ends with its marker (RFC 3550, section 5.1), where the sender has shown that it sets
    it there, or else where another timestamp begins. Packets behind a missing one wait until it
    comes or `give_up` is called. Belongs to the event loop.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self.heard_s = -math.inf  # when the last packet came
        self._packets: dict[int, Any] = {}  # that wait, by unwrapped sequence number
        self._next: int | None = None  # the first that has not come
        self._newest = 0
        self._ssrc = 0
        self._hole_s: float | None = None  # since when packets wait for `_next`
        self._timestamps = TimestampUnwrapper()
        # The picture that is being put together.
        self._parts: list[bytes] = []
        self._stamp: int | None = None
        self._marks = 0
        self._marked = False  # by its last packet
        # Those before it.
        self._last: int | None = None  # timestamp of the one that was given out last
        self._interval = 0.0  # between them, smoothed
        self._broken: int | None = None  # timestamp of one whose beginning is missing
        self._num_lost = 0  # of which something came, since one was given out …
        self._newest_lost: int | None = None  # … and the timestamp of the last of them
        self._proven: int | None = 0  # None: markers are set elsewhere too

    @property
    def ssrc(self) -> int:
        return self._ssrc

    @property
    def waited_s(self) -> float:
        """How long a missing packet has been holding up others; 0 where none does."""
        return 0.0 if self._hole_s is None else self._clock_s() - self._hole_s

    def missing(self) -> list[int]:
        """Sequence numbers of missing packets, the oldest first."""
        if self._next is None or not self._packets:
            return []
        numbers: list[int] = []
        for number in range(self._next, self._newest):
            if number not in self._packets:
                numbers.append(number & 0xFFFF)
                if len(numbers) == MAX_NACKS:
                    break
        return numbers

    def add(self, packet: Any) -> tuple[bool, Pictures | None]:
        """Take a packet, as aiortc's jitter buffer would; never asks for a keyframe by itself."""
        self.heard_s = self._clock_s()
        number = self._unwrapped(packet)
        if self._next is None or number < self._next:
            return False, None  # too late: its picture is over
        self._newest = max(self._newest, number)
        self._packets.setdefault(number, packet)
        pictures = self._whole()
        while self._packets and self._newest - self._next >= CAPACITY:
            pictures += self._skip()
        return False, _handed_on(pictures)

    def give_up(self) -> Pictures | None:
        """Wait no longer for the oldest missing packets. What came of their pictures is lost, and
        of the next one, which may have begun among them."""
        return _handed_on(self._skip()) if self._packets else None

    def _unwrapped(self, packet: Any) -> int:
        """Its sequence number, nearest to the newest; a sender that begins anew is followed."""
        if self._next is None:
            self._ssrc = packet.ssrc
            self._next = self._newest = packet.sequence_number
        step = (packet.sequence_number - self._newest + 0x8000 & 0xFFFF) - 0x8000
        number: int = self._newest + step
        if packet.ssrc != self._ssrc or step <= -CAPACITY:
            self._ssrc = packet.ssrc
            self._leave_off()
            for each in self._packets.values():
                self._lose(self._timestamps.near(each.timestamp))
            self._packets.clear()
            self._next = self._newest = number
        return number

    def _skip(self) -> list[Picture]:
        first = min(self._packets)
        self._leave_off()
        self._broken = self._timestamps.near(self._packets[first].timestamp)
        self._lose(self._broken)
        self._next = first
        return self._whole()

    def _leave_off(self) -> None:
        """Lose the picture that is being put together."""
        if self._stamp is not None:
            self._lose(self._stamp)
        self._parts, self._stamp, self._broken = [], None, None
        self._hole_s = None

    def _lose(self, stamp: int) -> None:
        self._num_lost += stamp != self._newest_lost
        self._newest_lost = stamp

    def _whole(self) -> list[Picture]:
        """Pictures that are complete now, taken out."""
        assert self._next is not None
        pictures: list[Picture] = []
        came = False
        while (packet := self._packets.pop(self._next, None)) is not None:
            came = True
            self._next += 1
            self._put(packet, pictures)
        if not self._packets:
            self._hole_s = None
        elif came or self._hole_s is None:
            self._hole_s = self._clock_s()
        return pictures

    def _put(self, packet: Any, pictures: list[Picture]) -> None:
        """The next packet in order."""
        stamp = self._timestamps.unwrap(packet.timestamp)
        if self._stamp is not None and stamp != self._stamp:
            self._learn()
            self._end(pictures)
        if not packet._data and self._stamp is None:
            return  # probes the line, or fills it
        if stamp == self._broken:
            return
        if self._stamp is None:
            self._broken = None
            if stamp == self._last:  # its marker was not at its end
                self._proven = None
                self._lose(stamp)
                self._broken = stamp
                return
            self._stamp, self._marks = stamp, 0
        self._parts.append(packet._data)
        self._marked = bool(packet.marker)
        self._marks += self._marked
        if self._marked and self._proven is not None and self._proven >= PROVEN:
            self._end(pictures)

    def _learn(self) -> None:
        """What the end of a picture, known by the next one's timestamp, tells of markers."""
        if self._marks > 1 or (self._marks and not self._marked):
            self._proven = None
        elif self._proven is not None:
            self._proven = self._proven + 1 if self._marked else 0

    def _end(self, pictures: list[Picture]) -> None:
        """The picture is complete."""
        assert self._stamp is not None
        data, stamp, lost = b"".join(self._parts), self._stamp, self._num_lost
        self._parts, self._stamp = [], None
        gap = 0 if self._last is None else stamp - self._last
        if lost and self._interval and 0 < gap < MAX_GAP:  # of some nothing came at all
            lost = max(lost, round(gap / self._interval) - 1)
        elif not lost and 0 < gap < MAX_GAP:
            self._interval += (0.1 if self._interval else 1.0) * (gap - self._interval)
        self._last, self._num_lost = stamp, 0
        pictures.append(Picture(data, stamp, lost))


def _handed_on(pictures: list[Picture]) -> Pictures | None:
    return Pictures(pictures[0].timestamp, pictures) if pictures else None
