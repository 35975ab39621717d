"""The way from a source's pictures to the frames the model sees.

Pictures arrive on the source's decode thread; frames leave on the event loop. Only pictures that
the session's rate chooses are converted, on the decode thread.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np

from services.common.tasks import QueueClosed
from services.common.threads import on_thread
from services.gateway.frames.display import Display, displayed_size
from services.gateway.frames.frame_counts import FrameCounts
from services.gateway.frames.frame_size import FrameSize
from services.gateway.sources.source import MAX_AHEAD_NS, ClockSource, DecodeBudget, DecodedFrame

SECOND_NS = 1_000_000_000
PREVIEW_WIDTH = 640  # pixels
NEAR_NS = 500_000_000  # that a picture may be newer than the moment which it is shown for
GLIMPSE_NS = SECOND_NS  # between two pictures that are kept for another model to look at
SLOW_SOURCE = 0.98  # a source whose interval is at least this much of the wanted one loses no frame
LONGEST = 4  # periods: a picture that comes later says no more about its source …
SLOWEST = 3.5  # … which is not known from here on
REWIND_NS = SECOND_NS  # capture times that fall back further start a new timeline
DEFAULT_BUDGET = DecodeBudget()
RING_FULL = "ring_full"  # the reason of frames that newer ones pushed out
RATE_LOWERED = "rate_lowered"  # the reason of frames that the load left no room for


@dataclass(frozen=True, slots=True)
class SampledFrame:
    """One frame for the model. `pixels`: height * width * 3 bytes, RGB24, rows from the top.
    `sampled_s`: when it was made, monotonic."""

    pixels: bytes
    width: int
    height: int
    capture_ns: int
    clock_source: ClockSource
    sampled_s: float  # time.monotonic() when the rate chose its picture
    period_ns: float = 0.0  # from frame to frame, where none is lost or left out; 0: unknown
    missing: int = 0  # frames before it that the worker was not sent


@dataclass(frozen=True, slots=True)
class Glimpse:
    """A picture that another model is shown, as JPEG."""

    capture_ns: int
    jpeg: bytes


class FrameRate:
    """Chooses the pictures nearest to a regular grid of `fps` by their capture times.

    Never two for one grid point, so a gap is not followed by a burst. A source at or below the
    wanted rate keeps every picture.
    """

    def __init__(self, fps: float) -> None:
        self._interval_ns = 0.0  # of the source, smoothed
        self._last_ns: int | None = None
        self._last_chosen_ns = 0
        self._grid_ns = 0
        self._point = 0
        self.set_fps(fps)

    def set_fps(self, fps: float) -> None:
        if fps <= 0:
            raise ValueError("fps must be positive")
        self._period_ns = SECOND_NS / fps
        self._grid_ns, self._point = self._last_chosen_ns, 0

    @property
    def period_ns(self) -> float:
        """Time from one picture to the next of those that it chooses; 0 while nobody knows
        its source's own, as with one that is much slower than the rate."""
        if not 0 < self._interval_ns <= SLOWEST * self._period_ns:
            return 0.0
        return max(self._period_ns, self._interval_ns)

    def chooses(self, capture_ns: int) -> bool:
        """Whether the next picture is one for the model. `capture_ns` must not decrease."""
        if self._last_ns is None:
            self._last_ns = self._last_chosen_ns = self._grid_ns = capture_ns
            return True
        interval_ns = min(capture_ns - self._last_ns, LONGEST * self._period_ns)
        self._last_ns = capture_ns
        if self._interval_ns == 0:
            self._interval_ns = interval_ns
        else:
            self._interval_ns += 0.1 * (interval_ns - self._interval_ns)
        if self._interval_ns >= SLOW_SOURCE * self._period_ns:
            chosen = capture_ns - self._last_chosen_ns >= self._period_ns / 2
            if chosen:  # the grid follows, should the source become faster
                self._grid_ns, self._point = capture_ns, 0
        else:
            early_ns = self._interval_ns / 2  # nearer to the point than the next picture will be
            point = int((capture_ns - self._grid_ns + early_ns) // self._period_ns)
            chosen = point > self._point
            if chosen:
                self._point = point
        if chosen:
            self._last_chosen_ns = capture_ns
        return chosen


class Sampler:
    """A session's way from pictures to frames: rate control, conversion, and a bounded ring.

    Live (`lossless=False`): the ring keeps the newest `capacity` frames, each one pushed out is
    counted "ring_full"; `slow` lets fewer in. Lossless: the decode thread waits for room instead.
    The ring stays open from one publisher to the next.
    """

    def __init__(
        self,
        *,
        fps: float,
        size: FrameSize,
        loop: asyncio.AbstractEventLoop,
        capacity: int = 8,
        lossless: bool = False,
        budget: DecodeBudget = DEFAULT_BUDGET,
        counts: FrameCounts | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self._rate = FrameRate(fps)
        self._slowed: FrameRate | None = None  # of those that the rate chooses, where load asks so
        self._rule = size
        self._size = None if size.factor else (size.width, size.height)
        self._loop = loop
        self.budget = budget
        self._clock_ns = clock_ns
        self._capacity = capacity
        self._lossless = lossless
        self._ring: deque[SampledFrame] = deque()
        self._room = threading.Condition()  # guards the ring
        self._converting = threading.Lock()  # PyAV touches a frame's fields while it converts
        self._display = Display()
        self._ready = asyncio.Event()
        self._wake_pending = False
        self._closed = False
        self._counts = FrameCounts() if counts is None else counts
        self._offset_ns = 0
        self._newest: DecodedFrame | None = None
        self._preview: tuple[DecodedFrame, int, bytes] | None = None
        # The last pictures, some time apart, with their capture times; the newest is not among them
        # until it is old enough. Kept as they came: they are converted only when asked for.
        self._glimpses: deque[tuple[int, DecodedFrame]] = deque(maxlen=0)
        self._newest_ns = 0

    # --- the decode thread --------------------------------------------------------------------

    def take(self, picture: DecodedFrame) -> None:
        """Take one decoded picture; blocks only when lossless and the ring is full."""
        capture_ns = self._on_timeline(picture.capture_ns)
        shape = displayed_size(picture.frame, picture.aspect)
        with self._room:
            if self._closed:
                return
            self._counts.add_received(*shape, picture.clock_source, capture_ns)
            self._newest, self._newest_ns = picture, capture_ns
            if self._glimpses.maxlen and (
                not self._glimpses or capture_ns >= self._glimpses[-1][0] + GLIMPSE_NS
            ):
                self._glimpses.append((capture_ns, picture))
            period_ns = self._rate.period_ns  # before a gap counts for it
            chosen = self._rate.chooses(capture_ns)
            if chosen and self._slowed is not None and not self._slowed.chooses(capture_ns):
                chosen = False
                self._counts.add_sampled()
                self._counts.drop(RATE_LOWERED)
            if self._size is None:  # the first picture's shape settles it
                self._size = self._rule.fit(*shape)
            width, height = self._size
        if not chosen:
            return
        sampled_s = time.monotonic()
        pixels = self._convert(picture.frame, width, height)
        frame = SampledFrame(
            pixels,
            width,
            height,
            capture_ns,
            picture.clock_source,
            sampled_s,
            period_ns,
        )
        with self._room:
            while self._lossless and len(self._ring) >= self._capacity and not self._closed:
                self._room.wait()
            if self._closed:
                return
            self._counts.add_sampled()
            if len(self._ring) >= self._capacity:
                self._ring.popleft()
                self._counts.drop(RING_FULL)
            self._ring.append(frame)
            self._wake()

    def dropped(self, reason: str, count: int = 1) -> None:
        self._counts.drop(reason, count)

    def noted(self, what: str, count: int = 1) -> None:
        self._counts.note(what, count)

    # --- the event loop -----------------------------------------------------------------------

    async def get(self) -> SampledFrame:
        """The oldest frame still in the ring. One reader. Raises QueueClosed after `close`."""
        while True:
            with self._room:
                if self._closed:
                    raise QueueClosed
                if self._ring:
                    self._room.notify()
                    return self._ring.popleft()
                self._ready.clear()
            await self._ready.wait()

    def take_waiting(self) -> list[SampledFrame]:
        """All frames in the ring, the oldest first. By the reader of `get`, while it reads none."""
        with self._room:
            waiting = list(self._ring)
            self._ring.clear()
            self._room.notify_all()
        return waiting

    def __len__(self) -> int:
        return len(self._ring)

    def set_fps(self, fps: float) -> None:
        """Frames per second from now on."""
        with self._room:
            self._rate.set_fps(fps)

    def slow(self, fps: float | None) -> None:
        """Let so many of the rate's frames pass a second, or all of them again. The newest of those
        that wait stays, since a reader that is behind would be shown the past; the others, and
        those passed over from now on, are counted "rate_lowered"."""
        with self._room:
            if fps is None:
                self._slowed = None
                return
            if self._slowed is None:
                self._slowed = FrameRate(fps)
            else:
                self._slowed.set_fps(fps)
            while len(self._ring) > 1:
                self._ring.popleft()
                self._counts.drop(RATE_LOWERED)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of frames: settled by the first picture, or the default until then."""
        return self._size or (self._rule.width, self._rule.height)

    def settle_size(self, width: int, height: int) -> None:
        """Frames have this size, as they had before; the first picture does not choose."""
        with self._room:
            self._size = (width, height)

    def counts(self) -> FrameCounts:
        """A copy."""
        return self._counts.copy()

    async def preview(self, max_width: int = PREVIEW_WIDTH) -> bytes | None:
        """The newest picture as JPEG, at most `max_width` wide; None before the first picture.

        Converted only when asked, and once per picture.
        """
        picture = self._newest
        if picture is None:
            return None
        if self._preview is not None:
            previous, previous_width, jpeg = self._preview
            if previous is picture and previous_width == max_width:
                return jpeg
        jpeg = await on_thread(self._encode_preview, picture, max_width, name="preview")
        self._preview = (picture, max_width, jpeg)
        return jpeg

    async def picture_of(self, frame: SampledFrame, max_width: int) -> bytes | None:
        """A frame's moment as JPEG: the newest picture where that is hardly newer; else, where the
        model is behind, what it was shown."""
        newest = self._newest
        if newest is None or self._newest_ns - frame.capture_ns <= NEAR_NS:
            return await self.preview(max_width)
        shape = displayed_size(newest.frame, newest.aspect)
        return await on_thread(_jpeg_of, frame, shape, max_width, name="picture")

    def glance(self, num_pictures: int) -> None:
        """Keep so many pictures for `glimpses` from now on; 0: none."""
        with self._room:
            if num_pictures != self._glimpses.maxlen:
                self._glimpses = deque(self._glimpses, maxlen=num_pictures)

    async def glimpses(self) -> list[Glimpse]:
        """The newest picture and those before it that are kept, the oldest first, as JPEG; none
        before the first picture, or where none are kept."""
        with self._room:
            kept, most = list(self._glimpses), self._glimpses.maxlen or 0
            if self._newest is not None and not (kept and kept[-1][1] is self._newest):
                kept.append((self._newest_ns, self._newest))
        wanted = kept[-most:] if most else []

        def encode() -> list[Glimpse]:
            return [
                Glimpse(capture_ns, self._encode_preview(each, PREVIEW_WIDTH))
                for capture_ns, each in wanted
            ]

        return await on_thread(encode, name="glimpses")

    def close(self) -> None:
        """No more frames: readers get QueueClosed, a waiting decode thread goes on. Nothing is
        kept."""
        with self._room:
            self._closed = True
            self._ring.clear()
            self._newest = self._preview = None
            self._glimpses.clear()
            self._room.notify_all()
        self._ready.set()

    # --- inside -------------------------------------------------------------------------------

    def _on_timeline(self, capture_ns: int) -> int:
        """Capture times of a session never decrease, also when a publisher starts anew with
        earlier ones: those go on where the last ones ended. Nor are they later than our clock by
        more than a day, whatever a source says: they travel as 64 bits, and later frames follow."""
        last_ns = self._counts.capture_ns
        latest_ns = self._clock_ns() + MAX_AHEAD_NS
        if capture_ns + self._offset_ns > max(latest_ns, last_ns + REWIND_NS):
            self._offset_ns = min(0, latest_ns - capture_ns)
            self.noted("capture_time_ahead")
        if capture_ns + self._offset_ns < last_ns:
            if last_ns - capture_ns - self._offset_ns > REWIND_NS:
                self._offset_ns = last_ns - capture_ns + 1
            self.noted("non_monotonic")
            return max(capture_ns + self._offset_ns, last_ns)
        return capture_ns + self._offset_ns

    def _convert(self, frame: av.VideoFrame, width: int, height: int) -> bytes:
        with self._converting:
            return self._display.rgb(frame, width, height)

    def _encode_preview(self, picture: DecodedFrame, max_width: int) -> bytes:
        width, height = _within(max_width, displayed_size(picture.frame, picture.aspect))
        with self._converting:
            return Display().jpeg(picture.frame, width, height)

    def _wake(self) -> None:
        """Tell the reader, with at most one callback waiting on the loop."""
        if not self._wake_pending:
            self._wake_pending = True
            self._on_loop(self._woken)

    def _woken(self) -> None:
        self._wake_pending = False
        self._ready.set()

    def _on_loop(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            self._closed = True


def _within(max_width: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture of this shape, even and at most so wide."""
    width = min(max_width, shape[0]) // 2 * 2 or 2
    return width, max(2, round(shape[1] * width / shape[0]) // 2 * 2)


def _jpeg_of(frame: SampledFrame, shape: tuple[int, int], max_width: int) -> bytes:
    """A frame in the shape that its picture had."""
    pixels = np.frombuffer(frame.pixels, np.uint8).reshape(frame.height, frame.width, 3)
    picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    return Display().jpeg(picture, *_within(max_width, shape))
