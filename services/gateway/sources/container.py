"""A container of video, read: which formats and codecs, which stream, at what times."""

import contextlib
import errno
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Discard, Disposition

from services.gateway.sources.clock import ArrivalClock
from services.gateway.sources.decode_guard import DecodeGuard
from services.gateway.sources.formats import (
    FILE_FORMATS,
    HEAD_BYTES,
    KINDS,
    STILL_FORMATS,
    still_format,
)
from services.gateway.sources.hardware import accelerator, use_threads
from services.gateway.sources.patience import Patience, PatientFile
from services.gateway.sources.sound import EncodedSound, sound_codec
from services.gateway.sources.source import (
    MAX_PIXELS,
    BeyondLimitsError,
    EncodedPacket,
    FrameSink,
    NoVideoError,
    aspect_of,
    check_size,
)
from sightline.errors import InvalidArgumentError

SECOND_NS = 1_000_000_000
LEAP_NS = 60 * SECOND_NS  # timestamps that leap further start a new timeline, …
REWIND_NS = SECOND_NS  # … as do those that fall back further
PROBE_PACKETS = 2000  # without a picture in this many, a file is unreadable
# So many packets in a row, for so long, that give no picture: what is live has become another.
BARREN_PACKETS, BARREN_S = 10, 5.0

# Of the hundreds that libavcodec has: what cameras, recorders and editors write.
_CODECS = frozenset(
    {
        "apng",
        "av1",
        "bmp",
        "dnxhd",
        "dvvideo",
        "ffv1",
        "flv",  # of FLV: Sorenson's
        "gif",
        "h263",
        "h264",
        "hevc",
        "libdav1d",
        "mjpeg",
        "mpeg1video",
        "mpeg2video",
        "mpeg4",
        "msmpeg4v1",
        "msmpeg4v2",
        "msmpeg4v3",
        "msmpeg4",
        "png",
        "prores",
        "rawvideo",
        "theora",
        "vc1",
        "vp8",
        "vp9",
        "webp",
        "wmv1",
        "wmv2",
        "wmv3",
    }
)
# For whatever is opened: what libavformat may decode of each stream before we know what it is. Of
# pictures larger than these it learns less, which does no harm.
_PROBE_PIXELS = 4096 * 2304
PROBE_OPTIONS = {
    "max_pixels": str(_PROBE_PIXELS),
    "max_streams": "32",
    "skip_frame": "nokey",
    "threads": "1",
}


def open_file(path: Path, sink: FrameSink) -> "ContainerReader":
    """Open a file, and decode its first picture. Blocks. Raises InvalidArgumentError."""
    try:
        with path.open("rb") as opened:
            still = still_format(opened.read(HEAD_BYTES))
        options = PROBE_OPTIONS | {
            "protocol_whitelist": "file",  # a playlist must not name files of ours
            "format_whitelist": still or ",".join(FILE_FORMATS),
        }
        container = av.open(
            f"file:{path}", "r", format=still, options=options, hwaccel=device_of(sink)
        )
        return ContainerReader.of(container, False, sink, lambda: None)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InvalidArgumentError(f"cannot open the source: {_reason(error)}") from error


def no_video(error: BaseException) -> NoVideoError | None:
    """What is to be said of an error of libavformat's which is one of what it was given."""
    if isinstance(error, av.error.ArgumentError | av.error.InvalidDataError):
        return NoVideoError(f"cannot open the source: {_reason(error)}")
    return None


def open_transport_stream(
    file: Any, sink: FrameSink, on_close: Callable[[], None], patience: Patience | None = None
) -> "ContainerReader":
    """Open live MPEG-TS, read from a file-like object, and decode its first picture. Blocks. It
    ends where the video becomes another (`ProgrammeWatch`), or `patience` with it is over. Raises
    InvalidArgumentError, and libavformat's errors."""
    options = PROBE_OPTIONS | {
        "skip_frame": "default",
        "format_whitelist": "mpegts",
        "analyzeduration": "2000000",  # us
        "fpsprobesize": "0",  # the rate of the pictures is what nobody asks for
    }
    patience = patience or Patience(sink)
    patient, device = PatientFile(file, patience), device_of(sink)
    container = av.open(patient, "r", format="mpegts", options=options, hwaccel=device)
    return ContainerReader.of(container, True, sink, on_close, patience)


def device_of(sink: FrameSink) -> HWAccel | None:
    """Settings of the device that decodes for a sink; None: the processor does."""
    return accelerator(sink.budget.device)


class ContainerReader:
    """An open container whose first picture is decoded. `live`: it has no end that is known.
    `segmented`: its pictures come many at once, a segment of a playlist each time, so that only
    their timestamps tell when to show them. `still`: it is one picture, such as a camera shows to
    whoever asks. It is `part` of `num_parts` that are opened one by one.

    `pictures` are (frame, presentation time in ns since the first one), of pixels of that `aspect`.
    Iterating raises InvalidArgumentError for what is beyond the sink's budget. Meanwhile
    `on_sound`, where somebody has set it, gets the sound of what is not live, on the same times;
    what is live goes to the sink.
    """

    def __init__(
        self,
        container: InputContainer,
        live: bool,
        sink: FrameSink,
        on_close: Callable[[], None],
        patience: Patience | None = None,
    ) -> None:
        self._container = container
        self._patience = patience or Patience(sink)
        self._on_close = on_close
        self.live = live
        self.segmented = container.format.name == "hls"
        self.still = container.format.name in STILL_FORMATS
        self.part, self.num_parts = 0, 1
        self._sink = sink
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream) or stream.disposition & Disposition.attached_pic:
            raise NoVideoError("the source has no video")
        self._stream = stream
        self._sound = _sound_of(container, stream)
        self.on_sound: Callable[[EncodedSound], None] | None = None
        read = {one.index for one in (stream, self._sound) if one is not None}
        for other in container.streams:  # a master playlist's other variants are not even fetched
            if other.index not in read:
                other.discard = Discard.all
        context = self._stream.codec_context
        if context is None or context.name not in _CODECS:
            codec = "of an unknown codec" if context is None else f"in {context.name}"
            raise NoVideoError(
                f"the source's video is {codec}, which is not read here: H.264, HEVC, AV1, VP9, "
                "VP8, MPEG-4, MPEG-2, ProRes, MJPEG and others of cameras and editors are"
            )
        check_size(context.width or 1, context.height or 1)
        use_threads(context, sink.budget.threads)
        context.options = {"max_pixels": str(MAX_PIXELS)}
        self._codec, self._extradata = context.name, bytes(context.extradata or b"")
        self._clock = ArrivalClock()  # of what viewers get
        self._shift_ns: int | None = None  # from timestamps to presentation times
        self._num_barren = 0  # packets since the last picture …
        self._yield_s = 0.0  # … which came then
        self._guard = DecodeGuard(sink.budget, self._codec, self._extradata)
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.frame_ns = round(SECOND_NS / rate) if rate and rate < 1000 else SECOND_NS // 25
        frames = self._decode()
        try:
            first = next(frames, None)
        except (av.FFmpegError, OSError) as error:
            raise no_video(error) or InvalidArgumentError(
                f"cannot read the source: {_reason(error)}"
            ) from error
        if first is None:
            raise NoVideoError("the source has no readable picture")
        check_size(first.width, first.height)
        # The container's word goes before the bitstream's, as in players.
        self.aspect = aspect_of(stream.sample_aspect_ratio, context.sample_aspect_ratio)
        self.pictures = self._timed(itertools.chain([first], frames))

    @classmethod
    def of(
        cls,
        container: InputContainer,
        live: bool,
        sink: FrameSink,
        on_close: Callable[[], None],
        patience: Patience | None = None,
    ) -> Self:
        """Reader of a container, which is closed when it cannot be read. `on_close` ends what is
        behind it. `patience` with what is live began before where its file was opened with it."""
        try:
            return cls(container, live, sink, on_close, patience)
        except BaseException:
            container.close()
            raise

    def close(self) -> None:
        self._on_close()
        self._container.close()

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Pictures in presentation order; broken packets are counted and skipped. Many in a row of
        what is live end it: it may have become another, and is to be opened anew."""
        num_pictures = num_packets = 0
        for packet in self._packets():
            self._patience.parsed()
            if packet.stream.index != self._stream.index:
                self._hear(packet)
                self._be_patient()
                continue
            num_packets += 1
            if not num_pictures and num_packets > PROBE_PACKETS:
                return
            data = bytes(packet)
            if data and self.live:
                self._show(packet, data)
            if packet.is_corrupt:  # parts of it were lost on the way: it is shown as far as it goes
                self._sink.noted("damaged")
            try:
                frames = self._pictures_of(packet, data)
            except BeyondLimitsError:
                self._sink.dropped("over_budget")
                raise
            except av.FFmpegError:
                if packet.size:
                    self._sink.dropped("corrupt")
                frames = []
            num_pictures += len(frames)
            yield from frames
            if frames:
                self._patience.shown()
            else:
                self._be_patient()
            self._check_yield(len(frames), begun=num_pictures > 0)

    def _packets(self) -> Iterator[Any]:
        """Packets of video and sound."""
        streams = [one for one in (self._stream, self._sound) if one is not None]
        # PyAV fails at the end of what has got another stream meanwhile, as FLV has of each codec.
        with contextlib.suppress(IndexError):
            yield from self._container.demux(*streams)

    def _pictures_of(self, packet: Any, data: bytes) -> list[av.VideoFrame]:
        """Pictures that a packet completes. Raises BeyondLimitsError, and libavcodec's errors."""
        if data and not self._guard.packet(data):
            self._sink.dropped("corrupt")
            return []
        with self._guard.work():
            frames: list[av.VideoFrame] = packet.decode()
        for frame in frames:
            self._guard.picture(frame)
        return frames

    def _check_yield(self, num_pictures: int, *, begun: bool) -> None:
        """Another packet of video, with so many pictures. Raises OSError where what has `begun`
        has given none for too long."""
        now_s = time.monotonic()
        if num_pictures or not begun:
            self._num_barren, self._yield_s = 0, now_s
            return
        self._num_barren += 1
        if self.live and self._num_barren > BARREN_PACKETS and now_s - self._yield_s > BARREN_S:
            raise OSError(errno.EILSEQ, "nothing that comes can be decoded any longer")

    def _be_patient(self) -> None:
        """Another packet without a picture. Raises TimeoutError where there were too many."""
        if self.live and self._patience.is_over:
            self._patience.tell()
            raise TimeoutError(errno.ETIMEDOUT, "no picture for too long")

    def _show(self, packet: "av.Packet[av.VideoStream]", data: bytes) -> None:
        """Let viewers have a live stream's packet, at the time of its arrival."""
        stamp, tick = packet.pts, self._stream.time_base
        if stamp is not None and tick:
            stamp_ns = round(stamp * tick * SECOND_NS)
            capture_ns, clock_source = self._clock.map(stamp_ns, time.time_ns())
            seen = EncodedPacket(data, capture_ns, bool(packet.is_keyframe), clock_source)
            self._sink.encoded(self._codec, self._extradata, seen)

    def _hear(self, packet: "av.Packet[Any]") -> None:
        """Let listeners have a packet of sound, at its time on the clock of the pictures."""
        stamp, tick = packet.pts, packet.time_base
        hear = self._sink.sound if self.live else self.on_sound
        if hear is None or self._sound is None or stamp is None or not tick or not packet.size:
            return
        stamp_ns = round(stamp * tick * SECOND_NS)
        if self.live:
            time_ns = self._clock.lay(stamp_ns)
        else:
            time_ns = None if self._shift_ns is None else stamp_ns + self._shift_ns
        if time_ns is not None:
            context = self._sound.codec_context
            hear(
                EncodedSound(
                    sound_codec(self._sound),
                    bytes(packet),
                    time_ns,
                    bytes(context.extradata or b""),
                    context.sample_rate or 0,
                    context.channels,
                )
            )

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
                self._shift_ns = shift_ns
            yield frame, time_ns


def _sound_of(container: InputContainer, video: av.VideoStream) -> av.AudioStream | None:
    """The sound that belongs to the video, where it can be heard."""
    found = container.streams.best("audio", related=video)
    return found if isinstance(found, av.AudioStream) and sound_codec(found) else None


def _reason(error: BaseException) -> str:
    """Short, and without the location: it may hold credentials."""
    if isinstance(error, av.error.ExitError):
        return "no answer in time"
    if isinstance(error, av.error.ArgumentError):  # it is not in `format_whitelist`
        return f"it is none of what is read here: {KINDS}"
    if isinstance(error, av.error.InvalidDataError):
        return "it is damaged, cut short, or no video"
    return getattr(error, "strerror", None) or type(error).__name__
