"""Video files and cameras on the client's side: packets as they are, or pictures. Needs PyAV.

Packets of the codecs a gateway takes travel unchanged, but for a note of how they are to be turned:
no work here, no loss. Files of other codecs, those that are turned and have no room for such a
note, files without times, and moments inside a stream with reordered frames (where the packets
before a moment already hold pictures after it), are decoded here and travel as raw pictures. So are
those of a camera, which travel as JPEG.
"""

import importlib
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

from sightline.camera import Camera
from sightline.closing import Closing
from sightline.display import Shower, Turn
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2 as pb

__all__ = ["VideoFile", "load_av"]

PACKET_CODECS = frozenset(("h264", "hevc", "vp8", "vp9", "av1", "mjpeg"))
LARGEST_SIDE = 640  # of decoded pictures; more than any model here looks at
TURNED_CODECS = frozenset(("h264", "hevc"))
PACKETS_LOOKED_AT = 300  # for the first picture
ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC
LEAP_S, REWIND_S = 60.0, 1.0  # in which times that go further begin anew: joined or damaged files
JPEG_QUANTISER = 3  # of 1 to 31; 40 kB a picture


def load_av() -> ModuleType:
    """PyAV, or an ImportError that says what to install."""
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ImportError(
            "reading video files needs PyAV: pip install 'sightline-live[media]'"
        ) from error


class VideoFile(Closing):
    """A video file or a camera, opened. Reading it blocks: do that in a thread. Raises
    InvalidArgumentError for what is no video.

    `until_s` cuts the video: nothing later than that moment is sent. `codec` and `extradata` are
    what a pusher of its packets announces, "" when pictures are sent instead. `last_s` is the
    time in the video of the newest message handed out, `end_s` the moment it stops (None: not
    known before), `frame_s` the mean time between pictures. `live`: pictures come when they are
    taken, once.
    """

    def __init__(self, path: Path | Camera, until_s: float | None = None) -> None:
        self._av = load_av()
        self._until_s = until_s
        self.live = isinstance(path, Camera)
        self.path = path.place if isinstance(path, Camera) else path
        self.last_s = 0.0
        self._begun = False
        self._jpeg: Any = None
        try:
            self._container: Any = (
                path.open(self._av) if isinstance(path, Camera) else self._av.open(str(path))
            )
        except (self._av.FFmpegError, OSError) as error:
            if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
                raise
            why = error.strerror or type(error).__name__
            raise InvalidArgumentError(f"{path} is not a video that can be read: {why}") from None
        try:
            self._stream = self._video_of(self._container)
            context = self._stream.codec_context
            codec = {"libdav1d": "av1"}.get(context.name, context.name)
            turn, has_times = (Turn(), True) if self.live else self._look()
        except BaseException:
            self._container.close()
            raise
        self._as_packets = (
            codec in PACKET_CODECS
            and has_times
            and (turn == Turn() or codec in TURNED_CODECS)
            and not (until_s is not None and context.has_b_frames)
        )
        self.codec = codec if self._as_packets else ""
        self.extradata = bytes(context.extradata or b"") if self._as_packets else b""
        noted = self._as_packets and turn != Turn()
        self._note = turn.message(codec, self.extradata) if noted else b""
        aspect = self._stream.sample_aspect_ratio or context.sample_aspect_ratio or 1
        self._shower = Shower(self._av, turn, float(aspect), LARGEST_SIDE)
        self.end_s = self._end_s()
        rate = float(self._stream.average_rate or 25)
        self.frame_s = 1.0 / rate if 0 < rate < 1000 else 0.04

    def close(self) -> None:
        self._container.close()

    def messages(self, start_ns: int) -> Iterator[tuple[float, pb.PushFramesRequest]]:
        """Messages with the moment when each is due, from the beginning, again at each call.

        Due times are seconds from the start of the video in decoding order; capture times are
        `start_ns` plus the presentation time; what is `live` begins now.
        """
        if self.live:
            start_ns = time.time_ns()
        try:
            if self._begun and not self.live:  # not by seeking, which not every format knows
                self._container.close()
                self._container = self._av.open(str(self.path))
                self._stream = self._video_of(self._container)
                self.last_s = 0.0
            self._begun = True
            yield from self._packets(start_ns) if self._as_packets else self._pictures(start_ns)
        except self._av.FFmpegError as error:
            raise InvalidArgumentError(f"{self.path} is broken: {error}") from None

    def _video_of(self, container: Any) -> Any:
        """The video of a file; a cover is none. Raises InvalidArgumentError."""
        stream = container.streams.best("video") if container.streams.video else None
        if stream is None or stream.disposition & ATTACHED_PICTURE:
            raise InvalidArgumentError(f"{self.path} has no video in it")
        if stream.codec_context is None:
            raise InvalidArgumentError(f"{self.path} has video of a codec that nobody here knows")
        return stream

    def _look(self) -> tuple[Turn, bool]:
        """How the first picture is turned, and whether packets have times. Raises
        InvalidArgumentError where there is no picture."""
        times: list[bool] = []
        try:
            with self._av.open(str(self.path)) as container:
                stream = self._video_of(container)
                for packet in container.demux(stream):
                    times.append(packet.pts is not None or packet.size == 0)
                    for frame in packet.decode():
                        return Turn.of(frame), all(times)
                    if len(times) > PACKETS_LOOKED_AT:
                        break
        except (self._av.FFmpegError, OSError) as error:
            why = error.strerror or type(error).__name__
            raise InvalidArgumentError(f"{self.path} cannot be read: {why}") from None
        raise InvalidArgumentError(f"{self.path} has no picture that can be read")

    def _packets(self, start_ns: int) -> Iterator[tuple[float, pb.PushFramesRequest]]:
        unit = float(self._stream.time_base)
        times = _Times(self.frame_s)
        first: float | None = None
        for packet in self._container.demux(self._stream):
            if packet.pts is None or packet.size == 0:
                continue
            shown_s = packet.pts * unit
            due_s = shown_s if packet.dts is None else min(shown_s, packet.dts * unit)
            first = shown_s if first is None else first
            shift_s = times.lay(due_s) - due_s - first
            shown_s, due_s = max(0.0, shown_s + shift_s), max(0.0, due_s + shift_s)
            if self._is_later(shown_s):
                return
            self.last_s = max(self.last_s, shown_s)
            yield (
                due_s,
                pb.PushFramesRequest(
                    packet=pb.PushPacket(
                        data=self._note + bytes(packet),
                        capture_ns=start_ns + round(shown_s * 1e9),
                        keyframe=packet.is_keyframe,
                    )
                ),
            )

    def _pictures(self, start_ns: int) -> Iterator[tuple[float, pb.PushFramesRequest]]:
        unit = float(self._stream.time_base)
        times = _Times(self.frame_s)
        first: float | None = None
        for frame in self._container.decode(self._stream):
            shown_s = times.lay(None if frame.pts is None else frame.pts * unit)
            first = shown_s if first is None else first
            shown_s = max(0.0, shown_s - first)
            if self._is_later(shown_s):
                return
            self.last_s = shown_s
            frame, width, height = self._shower.shown(frame)
            capture_ns = start_ns + round(shown_s * 1e9)
            if self.live:
                taken = pb.PushFrame(
                    capture_ns=capture_ns, jpeg=self._as_jpeg(frame, width, height)
                )
                yield shown_s, pb.PushFramesRequest(frame=taken)
                continue
            # One thread: with more, libswscale sometimes hands out rows it has not finished.
            picture = frame.reformat(width=width, height=height, format="rgb24", threads=1)
            plane = picture.planes[0]
            rows = memoryview(plane)
            data = b"".join(
                rows[row * plane.line_size : row * plane.line_size + width * 3]
                for row in range(height)
            )
            raw = pb.RawPicture(width=width, height=height, data=data)
            yield (
                shown_s,
                pb.PushFramesRequest(frame=pb.PushFrame(capture_ns=capture_ns, rgb=raw)),
            )

    def _as_jpeg(self, frame: Any, width: int, height: int) -> bytes:
        """The picture as JPEG: raw, a camera's would be 30 MB a second."""
        if self._jpeg is None:
            self._jpeg = self._av.CodecContext.create("mjpeg", "w")
            self._jpeg.width, self._jpeg.height, self._jpeg.pix_fmt = width, height, "yuvj420p"
            self._jpeg.time_base = Fraction(1, 90_000)
            self._jpeg.qmin = self._jpeg.qmax = JPEG_QUANTISER
            self._jpeg.thread_count = 1
        picture = frame.reformat(width=width, height=height, format="yuvj420p", threads=1)
        return b"".join(bytes(packet) for packet in self._jpeg.encode(picture))

    def _is_later(self, shown_s: float) -> bool:
        return self._until_s is not None and shown_s > self._until_s + 1e-6

    def _end_s(self) -> float | None:
        if self._stream.duration is not None:
            duration_s = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration is not None:
            duration_s = float(self._container.duration) / float(self._av.time_base)
        else:
            return self._until_s
        return duration_s if self._until_s is None else min(duration_s, self._until_s)


class _Times:
    """Times of pictures or packets in order, without the leaps that joined files have; of those
    that have none, one after the other."""

    def __init__(self, frame_s: float) -> None:
        self._frame_s = frame_s
        self._last_s: float | None = None
        self._shift_s = 0.0

    def lay(self, stamp_s: float | None) -> float:
        last_s = self._last_s
        if stamp_s is None:
            self._last_s = 0.0 if last_s is None else last_s + self._frame_s
            return self._last_s
        step_s = 0.0 if last_s is None else stamp_s + self._shift_s - last_s
        if last_s is not None and not -REWIND_S <= step_s <= LEAP_S:
            self._shift_s = last_s + self._frame_s - stamp_s
        self._last_s = stamp_s + self._shift_s
        return self._last_s
