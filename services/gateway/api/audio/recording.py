"""A recording that somebody hands over, in any common format, as passages of speech."""

import io
from collections.abc import Iterator

import av
from av.container import InputContainer

from services.common.resampling import HEARD_RATE
from services.gateway.voice.activity import Activity
from services.gateway.voice.passages import Passage, PassageCutter
from sightline.errors import InvalidArgumentError

MAX_RECORDING_BYTES = 25 * 1024 * 1024  # as with OpenAI
MAX_RECORDING_S = 2 * 3600.0
READ_S = 30.0  # audio that is decoded in one go
# What recorders, browsers and phones write. Playlists are not among them: they name other files.
_FORMATS = (
    *("wav", "w64", "mp3", "aac", "flac", "ogg", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"),
    *("aiff", "amr", "asf", "au", "caf", "avi", "flv", "mpegts", "mpeg"),
)
_OPTIONS = {
    "protocol_whitelist": "",  # nothing but the bytes at hand
    "format_whitelist": ",".join(_FORMATS),
    "max_streams": "32",
    "threads": "1",
}


class Recording:
    """Speech of a file in memory. Made and read on one thread: decoding blocks."""

    def __init__(self, data: bytes, activity: Activity) -> None:
        """Raises InvalidArgumentError for what holds no sound."""
        try:
            self._container = av.open(io.BytesIO(data), "r", options=_OPTIONS)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise _unreadable(error) from None
        if not self._container.streams.audio:
            self._container.close()
            raise InvalidArgumentError("the file holds no sound")
        self._cutter = PassageCutter(activity)
        self._pcm = _pcm(self._container)
        self._over = False

    @property
    def read_s(self) -> float:
        """Seconds that were read: at the end, the recording's length."""
        return self._cutter.fed_s

    @property
    def over(self) -> bool:
        return self._over

    def read(self) -> list[Passage]:
        """The passages that end in the next READ_S. Raises InvalidArgumentError for what cannot be
        decoded, or is too long."""
        passages: list[Passage] = []
        begin_s = self.read_s
        while self.read_s < begin_s + READ_S:
            try:
                piece = next(self._pcm, None)
            except (av.FFmpegError, ValueError) as error:
                raise _unreadable(error) from None
            if piece is None:
                passages += self._cutter.finish()
                self._over = True
                break
            passages += self._cutter.feed(piece)
        if self.read_s > MAX_RECORDING_S:
            raise InvalidArgumentError(
                f"the recording is longer than {MAX_RECORDING_S / 3600:g} hours"
            )
        return passages


def _pcm(container: InputContainer) -> Iterator[bytes]:
    """PCM of the first sound track, at HEARD_RATE. A packet that is broken is left out, as players
    do, unless nothing of the track can be decoded."""
    stream = container.streams.audio[0]
    resampler = av.AudioResampler(format="s16", layout="mono", rate=HEARD_RATE)
    decoded, broken = False, None
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError as error:
            broken = error
            continue
        for frame in frames:
            decoded = True
            frame.pts = None
            for made in resampler.resample(frame):
                yield bytes(made.planes[0])[: 2 * made.samples]
    if not decoded:
        raise broken or ValueError("there is no sound in it")
    for made in resampler.resample(None):
        yield bytes(made.planes[0])[: 2 * made.samples]


def _unreadable(error: Exception) -> InvalidArgumentError:
    reason = getattr(error, "strerror", None) or str(error)
    return InvalidArgumentError(f"the recording cannot be read: {str(reason)[:200]}")
