"""One viewer's share of a broadcast: pictures that wait to be sent to it."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from services.gateway.playback.h264 import EncodedPicture

MAX_PICTURES = 120
MAX_BYTES = 4 * 1024 * 1024
SECOND = 90_000
SLOW, NO_KEYFRAME = "slow_viewer", "no_keyframe"  # why pictures are not sent


class Subscription:
    """The queue of one viewer. Its bound is the viewer's alone: what does not fit is dropped, and
    everything up to the next keyframe with it. Belongs to the event loop."""

    def __init__(self, dropped: Callable[[str, int], None]) -> None:
        self._dropped = dropped
        self._waiting: deque[tuple[EncodedPicture, int]] = deque()
        self._num_bytes = 0
        self._ready = asyncio.Event()
        self._needs_keyframe = True
        self._shift = 0
        self._last: int | None = None  # the newest timestamp that was given out
        self.closed = False

    @property
    def needs_keyframe(self) -> bool:
        return self._needs_keyframe

    @property
    def is_waiting(self) -> bool:
        """Whether more pictures wait to be sent."""
        return bool(self._waiting)

    def begin(self, pictures: Iterable[EncodedPicture]) -> None:
        """Start (again) with a keyframe and all that followed it. They are shown at once: their
        timestamps lie next to each other, just before the newest one's."""
        self._waiting.clear()
        self._num_bytes = 0
        self._needs_keyframe = True
        cached = list(pictures)
        for place, picture in enumerate(cached):
            self._needs_keyframe = False
            self._append(picture, cached[-1].stamp - (len(cached) - 1 - place))

    def put(self, picture: EncodedPicture) -> None:
        if self._needs_keyframe and not picture.keyframe:
            self._dropped(NO_KEYFRAME, 1)
            return
        full = len(self._waiting) >= MAX_PICTURES or self._num_bytes + picture.num_bytes > MAX_BYTES
        if full and self._waiting:
            self._dropped(SLOW, len(self._waiting) + (not picture.keyframe))
            self._waiting.clear()
            self._num_bytes = 0
            self._needs_keyframe = True
            if not picture.keyframe:
                return
        self._needs_keyframe = False
        self._append(picture, picture.stamp)

    async def next(self) -> tuple[EncodedPicture, int]:
        """The next picture and its timestamp. Raises EOFError once the broadcast is over."""
        while not self._waiting:
            if self.closed:
                raise EOFError
            self._ready.clear()
            await self._ready.wait()
        picture, stamp = self._waiting.popleft()
        self._num_bytes -= picture.num_bytes
        return picture, stamp

    def close(self) -> None:
        self.closed = True
        self._waiting.clear()
        self._ready.set()

    def _append(self, picture: EncodedPicture, stamp: int) -> None:
        stamp += self._shift
        if self._last is not None and stamp <= self._last:
            if stamp < self._last - SECOND:  # another clock: what follows is laid behind
                self._shift += self._last + 1 - stamp
            stamp = self._last + 1
        self._last = stamp
        self._waiting.append((picture, stamp))
        self._num_bytes += picture.num_bytes
        self._ready.set()
