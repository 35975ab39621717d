"""Opening files and URLs, safely: where they may lead, what they may be, how long they may take."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import av
from av.container import InputContainer

from services.gateway.sources.base import MAX_PIXELS, PictureSink, check_size
from sightline.errors import InvalidArgumentError, PermissionDeniedError

SECOND_NS = 1_000_000_000
LEAP_NS = 60 * SECOND_NS  # timestamps that leap further start a new timeline, …
REWIND_NS = SECOND_NS  # … as do those that fall back further
PROBE_PACKETS = 2000  # without a picture in this many, a file is unreadable

# What a URL may lead to: a playlist must not name files of ours, nor a file other files.
_PROTOCOLS = {
    "file": "file",
    "http": "http,https,httpproxy,tcp,tls,crypto,data",
    "https": "http,https,httpproxy,tcp,tls,crypto,data",
    "rtsp": "rtsp,rtp,srtp,udp,tcp,tls",
    "rtsps": "rtsp,rtsps,rtp,srtp,udp,tcp,tls",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,rtmp,tcp,tls",
}
_LIVE = ("rtsp", "rtsps", "rtmp", "rtmps")
_FILE_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi",
    "flv",
    "mpegts",
    "mpeg",
    "mpegvideo",
    "h264",
    "hevc",
    "obu",
    "ivf",
    "mjpeg",
    "gif",
    "ogg",
    "asf",
    "mxf",
    "nut",
)


def locate(source: str, root: Path | None) -> tuple[str, str]:
    """(what to open, its scheme) of a source a caller named.

    Raises InvalidArgumentError for an unknown scheme or a missing file, PermissionDeniedError for
    a path outside `root`, also through a symbolic link.
    """
    if "\0" in source or not source:
        raise InvalidArgumentError("the source is empty or malformed")
    scheme = urlsplit(source).scheme.lower() if "://" in source else "file"
    if scheme not in _PROTOCOLS:
        known = ", ".join(name for name in _PROTOCOLS if name != "file")
        raise InvalidArgumentError(f"cannot read {scheme}:// sources; known are {known} and paths")
    if scheme != "file":
        return source, scheme
    if root is None:
        raise PermissionDeniedError("local files are not allowed: no media folder is configured")
    path = source.removeprefix("file://")
    try:
        folder = root.resolve(strict=True)
        resolved = (folder / path).resolve()
    except (OSError, RuntimeError) as error:
        raise InvalidArgumentError("the source's path cannot be resolved") from error
    if not resolved.is_relative_to(folder):
        raise PermissionDeniedError("the path is outside the media folder")
    if not resolved.is_file():
        raise InvalidArgumentError("no such file in the media folder")
    return f"file:{resolved}", scheme


def open_reading(
    location: str, scheme: str, sink: PictureSink, timeout_s: tuple[float, float]
) -> "Reading":
    """Open what `locate` found, and decode its first picture. Blocks.

    `timeout_s`: to open a URL, and for each read from it. Raises InvalidArgumentError.
    """
    options = {"protocol_whitelist": _PROTOCOLS[scheme]}
    if scheme == "file":
        options["format_whitelist"] = ",".join(_FILE_FORMATS)
    elif scheme.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    elif scheme.startswith("http"):
        options |= {"reconnect": "1", "reconnect_delay_max": "4"}
    is_url = scheme != "file"
    try:
        container = av.open(location, "r", options=options, timeout=timeout_s if is_url else None)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InvalidArgumentError(f"cannot open the source: {_reason(error)}") from error
    try:
        live = scheme in _LIVE or (is_url and container.duration is None)
        return Reading(container, live, sink)
    except BaseException:
        container.close()
        raise


class Reading:
    """An open container whose first picture is decoded. `live`: it has no timeline of its own.

    `pictures` are (frame, presentation time in ns since the first one).
    """

    def __init__(self, container: InputContainer, live: bool, sink: PictureSink) -> None:
        self.container = container
        self.live = live
        self._sink = sink
        if not container.streams.video:
            raise InvalidArgumentError("the source has no video")
        self._stream = container.streams.video[0]
        context = self._stream.codec_context
        if context is None:
            raise InvalidArgumentError("the source has video of an unknown codec")
        check_size(context.width or 1, context.height or 1)
        context.thread_count = 1
        context.options = {"max_pixels": str(MAX_PIXELS)}
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.frame_ns = round(SECOND_NS / rate) if rate and rate < 1000 else SECOND_NS // 25
        frames = self._decode()
        try:
            first = next(frames, None)
        except (av.FFmpegError, OSError) as error:
            raise InvalidArgumentError(f"cannot read the source: {_reason(error)}") from error
        if first is None:
            raise InvalidArgumentError("the source has no readable picture")
        check_size(first.width, first.height)
        self.pictures = self._timed(itertools.chain([first], frames))

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Pictures in presentation order; broken packets are counted and skipped."""
        num_pictures = num_packets = 0
        for packet in self.container.demux(self._stream):
            num_packets += 1
            if not num_pictures and num_packets > PROBE_PACKETS:
                return
            try:
                frames = packet.decode()
            except (av.error.InvalidDataError, av.error.ArgumentError, EOFError):
                if packet.size:
                    self._sink.dropped("corrupt")
                continue
            num_pictures += len(frames)
            yield from frames

    def _timed(self, frames: Iterable[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, int]]:
        """Presentation times, without the leaps that joined or damaged files have."""
        tick_ns = SECOND_NS * (self._stream.time_base or 0)
        time_ns: int | None = None
        shift_ns = 0
        for frame in frames:
            if frame.pts is None or not tick_ns:
                time_ns = 0 if time_ns is None else time_ns + self.frame_ns
            else:
                stamp_ns = round(frame.pts * tick_ns)
                if time_ns is None:
                    shift_ns = -stamp_ns
                elif not -REWIND_NS <= stamp_ns + shift_ns - time_ns <= LEAP_NS:
                    self._sink.noted("timeline_leap")
                    shift_ns = time_ns + self.frame_ns - stamp_ns
                time_ns = stamp_ns + shift_ns
            yield frame, time_ns


def _reason(error: BaseException) -> str:
    """Short, and without the location: it may hold credentials."""
    if isinstance(error, av.error.ExitError):
        return "no answer in time"
    return getattr(error, "strerror", None) or type(error).__name__
