"""Speech as a file of a common format, written while it is spoken."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler

from sightline.v1 import gateway_pb2

HZ = 24_000  # as with OpenAI
CONTENT_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
# libavformat's name, the codec, its samples, bits a second, and what keeps the muxer from
# waiting: speech is played as it comes.
_WRITERS: dict[str, tuple[str, str, str, int, dict[str, str]]] = {
    "mp3": ("mp3", "libmp3lame", "s16p", 64_000, {"write_xing": "0", "id3v2_version": "0"}),
    "opus": ("ogg", "libopus", "s16", 32_000, {"page_duration": "100000"}),
    "aac": ("adts", "aac", "fltp", 64_000, {}),
    "flac": ("flac", "flac", "s16", 0, {}),
    "wav": ("wav", "pcm_s16le", "s16", 0, {}),
}


class SpeechFile:
    """One file. `write` gives the bytes that are ready, `finish` the last ones."""

    def __init__(self, form: str) -> None:
        """form: one of CONTENT_TYPES."""
        self._rate = 0
        self._resampler: AudioResampler | None = None
        self._written = _Written()
        self._container: Any = None
        self._stream: Any = None
        self._samples = "s16"
        self._at = 0
        if form != "pcm":
            kind, codec, self._samples, bits, options = _WRITERS[form]
            self._container = av.open(
                self._written, "w", format=kind, options={"flush_packets": "1", **options}
            )
            self._stream = self._container.add_stream(codec, rate=HZ)
            self._stream.layout, self._stream.format = "mono", self._samples
            if bits:
                self._stream.bit_rate = bits

    def write(self, chunk: gateway_pb2.AudioChunk) -> bytes:
        """Add speech, of any rate."""
        if not chunk.pcm or not chunk.sample_rate:
            return self._written.take()
        if chunk.sample_rate != self._rate:
            self._flush()
            self._rate = chunk.sample_rate
            self._resampler = AudioResampler(self._samples, "mono", HZ)
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(chunk.pcm, np.int16).reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = self._rate
        self._encode(frame)
        return self._written.take()

    def finish(self) -> bytes:
        """Write no more after it."""
        self._flush()
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        return self._written.take()

    def _flush(self) -> None:
        if self._resampler is not None:
            self._encode(None)
            self._resampler = None

    def _encode(self, frame: av.AudioFrame | None) -> None:
        assert self._resampler is not None
        for made in self._resampler.resample(frame):
            if self._container is None:
                self._written.write(bytes(made.planes[0])[: 2 * made.samples])
                continue
            made.pts, made.time_base = self._at, Fraction(1, HZ)
            self._at += made.samples
            self._container.mux(self._stream.encode(made))


class _Written:
    """What a container has written and nobody has taken. It cannot seek, as a connection cannot."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()

    def write(self, data: bytes) -> int:
        return self._buffer.write(data)

    def take(self) -> bytes:
        taken = self._buffer.getvalue()
        self._buffer = io.BytesIO()
        return taken
