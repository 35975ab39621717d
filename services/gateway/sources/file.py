"""Files and URLs, read with PyAV and paced by their own timestamps."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import av

from services.common.backoff import Backoff
from services.common.threads import on_thread
from services.gateway.sources.clock import ArrivalClock
from services.gateway.sources.container import SECOND_NS, ContainerReader
from services.gateway.sources.decoder import FrameOutlet
from services.gateway.sources.patience import NEXT_S
from services.gateway.sources.remote.answers import NotOpenedError
from services.gateway.sources.remote.egress_policy import EgressPolicy
from services.gateway.sources.sound import EncodedSound
from services.gateway.sources.source import BeyondLimitsError, ClockSource, FrameSink
from services.gateway.sources.source_opener import SourceOpener, locate
from sightline.errors import InvalidArgumentError, SightlineError

log = logging.getLogger(__name__)

LATE_NS = SECOND_NS // 2  # further behind than this, the timeline moves instead of racing after
CLOSE_TIMEOUT_S = 5.0
STILL_S = 1.0  # between two tries of what is one picture
FEW_PICTURES = 2  # after so few, a live URL that then says nothing may be a slow one


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Bounds of how long a URL may keep us waiting, and how long a live one that broke off is tried
    again: for ever where `away_s` is 0. Pauses between tries grow until it has shown pictures for
    `steady_s`: one that opens and dies at once is not asked as often as it can be."""

    open_timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    away_s: float = 0.0  # in a row, without a picture
    backoff_s: float = 0.5  # doubles, with jitter …
    max_backoff_s: float = 15.0  # … up to this
    steady_s: float = 10.0


class FileSource:
    """One file or URL into a sink, on a thread of its own.

    `source` is an http(s), rtsp, rtmp or udp URL within `egress` (None: what is public), or a path
    below `root` (None: no local files).
    `paced`: pictures come at the speed of their timestamps; otherwise as fast as the sink takes
    them. Capture time of a file is the wall clock at its start plus presentation time, and goes on
    growing when it loops; live URLs are laid onto the time of arrival.
    """

    kind = "file"

    def __init__(
        self,
        source: str,
        sink: FrameSink,
        *,
        loop: bool = False,
        paced: bool = True,
        root: Path | None = None,
        egress: EgressPolicy | None = None,
        limits: FileLimits | None = None,
        name: str = "file",
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._place = locate(source, root)
        self._egress = egress or EgressPolicy()
        self._sink = sink
        self._outlet = FrameOutlet(sink)
        self._loop = loop
        self._paced = paced
        self._limits = limits or FileLimits()
        self._read_timeout_s = self._limits.read_timeout_s  # longer where a camera is slow
        self._backoff = Backoff(self._limits.backoff_s, self._limits.max_backoff_s)
        self._clock_ns = clock_ns
        self._stop = threading.Event()
        self._name = name
        self._thread: threading.Thread | None = None
        self._opening: SourceOpener | None = None
        self._reading: ContainerReader | None = None
        self._start_ns = 0  # wall clock at timestamp zero of the running pass
        self._last_ns = 0  # capture time of the newest picture
        self._shown_s = 0.0  # when it was delivered

    async def start(self) -> None:
        """Open and read the first picture, then go on in the background.

        Raises InvalidArgumentError when there is no readable video, or an absurd one.
        """
        if self._stop.is_set():
            return
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        # Not on the loop's shared threads: a few servers that do not answer would take them all.
        self._thread = threading.Thread(
            target=self._run, args=(loop, opened), name=self._name, daemon=True
        )
        self._thread.start()
        await opened

    async def aclose(self) -> None:
        """Stop reading; the sink gets `ended("closed")` unless the source was over before."""
        self._stop.set()
        if self._opening is not None:
            self._opening.abort()
        if self._thread is not None:
            await on_thread(self._thread.join, CLOSE_TIMEOUT_S, name=f"close:{self._name}")

    # --- the thread ---------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[None]) -> None:
        try:
            self._reading = self._open()
        except Exception as error:
            _settle(loop, opened, error)
            return
        _settle(loop, opened, None)
        reason = "error"
        try:
            reason = self._play()
        except SightlineError as error:
            log.warning("source refused", extra={"reason": error.message})
        except Exception:
            log.exception("source failed")
        finally:
            if self._reading is not None:
                self._reading.close()
            self._sink.ended(reason)

    def _play(self) -> str:
        """Passes over the source until it is over; returns why."""
        while self._reading is not None:
            began_s = self._shown_s = time.monotonic()
            num_pictures, broken = self._parts(self._reading)
            reading = self._reading
            self._learn_pace(num_pictures)
            if reading.still or self._shown_s - began_s >= self._limits.steady_s:
                self._backoff.reset()
            if self._stop.is_set() or reading is None:
                return "closed"
            if not reading.live and not (self._loop and num_pictures):
                return "error" if broken else "end"
            reading.close()
            self._reading = self._reopen(reading)
            if reading.live and self._reading is not None and not self._reading.live:
                return "end"  # what was live is over, and could now be seen again
        return "closed" if self._stop.is_set() else "error"

    def _parts(self, reading: ContainerReader) -> tuple[int, bool]:
        """Deliver one run over all parts of the source: (pictures, whether one broke off)."""
        num_pictures, broken = self._pass(reading)
        for part in range(1, reading.num_parts):
            if self._stop.is_set():
                break
            reading.close()
            try:
                self._reading = reading = self._open(part)
            except BeyondLimitsError:
                raise
            except InvalidArgumentError as error:
                self._sink.noted("segment_missing")
                log.info("a part is passed over", extra={"reason": error.message})
                continue
            num, broke = self._pass(reading)
            num_pictures, broken = num_pictures + num, broken or broke
        return num_pictures, broken

    def _learn_pace(self, num_pictures: int) -> None:
        """Give a camera twice the time the next time, which was left in its silence after very few
        pictures: else one of a picture in 15 s would be opened anew for each."""
        silent_s = time.monotonic() - self._shown_s
        if num_pictures <= FEW_PICTURES and silent_s >= 0.9 * self._read_timeout_s:
            self._read_timeout_s = min(NEXT_S, 2 * self._read_timeout_s)

    def _reopen(self, over: ContainerReader) -> ContainerReader | None:
        """Open again, for a URL until it is there; None when it stays away too long. Another
        picture of a camera that shows one to whoever asks is no other connection."""
        lost_s, least_s = time.monotonic(), STILL_S if over.still else 0.0
        wait, known = over.live, over.still
        while not self._stop.is_set():
            if wait:
                if not known:
                    self._sink.noted("reconnect")
                if self._stop.wait(max(least_s, self._backoff.next_s())):
                    return None
            try:
                return self._open()
            except InvalidArgumentError as error:
                least_s = error.wait_s if isinstance(error, NotOpenedError) else 0.0
                log.info("source stays away", extra={"reason": error.message})
            if not self._is_url or 0 < self._limits.away_s <= time.monotonic() - lost_s:
                return None
            wait, known = True, False
        return None

    def _pass(self, reading: ContainerReader) -> tuple[int, bool]:
        """Deliver one run over the source: (pictures, whether it broke off)."""
        self._start_ns = self._next_start_ns(reading.frame_ns)
        clock = ArrivalClock()
        num_pictures = 0
        if self._paced:
            reading.on_sound = self._sound
        try:
            for frame, time_ns in reading.pictures:
                clock_source: ClockSource = "stream"
                if reading.live and not reading.segmented:
                    capture_ns, clock_source = clock.map(time_ns, self._clock_ns())
                else:
                    capture_ns = self._start_ns + time_ns
                    if self._paced or reading.live:
                        capture_ns = self._wait_until(capture_ns)
                if self._stop.is_set():
                    break
                self._last_ns = max(self._last_ns, capture_ns)
                self._outlet.deliver(frame, capture_ns, clock_source, reading.aspect)
                num_pictures += 1
                self._shown_s = time.monotonic()
        except BeyondLimitsError as error:
            if not reading.live:
                raise
            # Perhaps another codec's bytes, read as what they are not: to be looked at anew.
            log.info("source broke off", extra={"reason": error.message})
            return num_pictures, True
        except (av.FFmpegError, OSError) as error:
            log.info("source broke off", extra={"reason": type(error).__name__})
            return num_pictures, True
        return num_pictures, False

    def _sound(self, sound: EncodedSound) -> None:
        self._sink.sound(replace(sound, capture_ns=sound.capture_ns + self._start_ns))

    def _open(self, part: int = 0) -> ContainerReader:
        timeout_s = (self._limits.open_timeout_s, self._read_timeout_s)
        self._opening = SourceOpener(self._place, self._egress, timeout_s)
        if self._stop.is_set():
            self._opening.abort()
        return self._opening.open(self._sink, part)

    def _next_start_ns(self, frame_ns: int) -> int:
        """Wall clock of a pass's first picture; a pass follows the one before without a gap."""
        now_ns = self._clock_ns()
        if not self._last_ns:
            return now_ns
        follows_ns = self._last_ns + frame_ns
        return follows_ns if not self._paced or now_ns - follows_ns < LATE_NS else now_ns

    @property
    def _is_url(self) -> bool:
        return not isinstance(self._place, Path)

    def _wait_until(self, capture_ns: int) -> int:
        """Sleep until a picture is due. When reading fell far behind, the timeline moves on."""
        ahead_ns = capture_ns - self._clock_ns()
        if ahead_ns > 0:
            self._stop.wait(ahead_ns / SECOND_NS)
        elif ahead_ns < -LATE_NS:
            self._start_ns -= ahead_ns
            capture_ns -= ahead_ns
            self._sink.noted("late")
        return capture_ns


def _settle(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[None], error: Exception | None
) -> None:
    """Give a future its result from another thread; whoever waited may have gone."""

    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(settle)
