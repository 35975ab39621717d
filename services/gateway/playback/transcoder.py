"""The one encoder of a session whose video cannot be forwarded, for all its viewers."""

import logging
import math
import threading
from collections.abc import Callable
from fractions import Fraction

import av

from services.gateway.frames.display import Display, displayed_size
from services.gateway.playback.h264 import EncodedPicture, units_of
from services.gateway.sources.source import DecodedFrame

log = logging.getLogger(__name__)

MAX_SHOWN_PIXELS = 1280 * 720
MAX_FPS = 30
KEYFRAME_EVERY = 60  # pictures
OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "crf": "25"}
SECOND_NS = 1_000_000_000
RTP_HZ = 90_000
OVERRUN = "transcode_overrun"


class Transcoder:
    """A thread that encodes the newest picture. One that comes while it is busy takes the place of
    the one that waits, which is counted. `encoded` is called on the thread."""

    def __init__(
        self,
        encoded: Callable[[EncodedPicture], None],
        dropped: Callable[[str, int], None],
        name: str,
    ) -> None:
        self._encoded = encoded
        self._dropped = dropped
        self._changed = threading.Condition()
        self._newest: DecodedFrame | None = None
        self._taken_ns = 0  # capture time of the last picture that was taken
        self._closing = False
        self._wants_keyframe = False
        self._display = Display()
        self._context: av.VideoCodecContext | None = None
        self._num = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, picture: DecodedFrame) -> None:
        """Take a picture, unless the one before was taken a moment ago. Never blocks."""
        with self._changed:
            if 0 <= picture.capture_ns - self._taken_ns < SECOND_NS * 0.9 / MAX_FPS:
                return
            self._taken_ns = picture.capture_ns
            if self._newest is not None:
                self._dropped(OVERRUN, 1)
            self._newest = picture
            self._changed.notify()

    def request_keyframe(self) -> None:
        self._wants_keyframe = True

    def close(self) -> None:
        """End the thread soon, without waiting for it."""
        with self._changed:
            self._closing = True
            self._newest = None
            self._encoded = _nobody  # no circle of references: the session must be freed
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._newest is None and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                picture, self._newest = self._newest, None
            try:
                if picture is not None:
                    self._encode(picture)
            except (av.FFmpegError, ValueError, MemoryError):
                log.exception("a picture could not be encoded for viewers")
                self._dropped("transcode_failed", 1)
                self._context = None

    def _encode(self, picture: DecodedFrame) -> None:
        width, height = shown_size(*displayed_size(picture.frame, picture.aspect))
        frame = self._display.yuv(picture.frame, width, height)
        context = self._context
        if context is None or (context.width, context.height) != (width, height):
            context = self._context = _encoder(width, height)
        frame.pts, self._num = self._num, self._num + 1
        frame.time_base = context.time_base
        frame.pict_type = av.video.frame.PictureType.NONE
        if self._wants_keyframe:
            self._wants_keyframe = False
            frame.pict_type = av.video.frame.PictureType.I
        stamp = picture.capture_ns * RTP_HZ // SECOND_NS
        for packet in context.encode(frame):
            units = list(units_of(bytes(packet), 0))
            self._encoded(EncodedPicture(units, [], keyframe=packet.is_keyframe, stamp=stamp))


def _nobody(picture: EncodedPicture) -> None:
    pass


def shown_size(width: int, height: int) -> tuple[int, int]:
    """The size that a picture is shown in: even sides, no larger than it is, and of at most
    MAX_SHOWN_PIXELS."""
    factor = min(1.0, math.sqrt(MAX_SHOWN_PIXELS / (width * height)))
    return max(2, int(width * factor) // 2 * 2), max(2, int(height * factor) // 2 * 2)


def _encoder(width: int, height: int) -> av.VideoCodecContext:
    context = av.CodecContext.create("libx264", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height = width, height
    context.pix_fmt = "yuv420p"
    context.framerate = Fraction(MAX_FPS)
    context.time_base = Fraction(1, MAX_FPS)
    context.gop_size = KEYFRAME_EVERY
    context.thread_count = 1
    context.options = OPTIONS
    context.profile = "Baseline"
    return context
