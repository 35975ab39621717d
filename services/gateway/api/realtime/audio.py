"""Speech for the wire: from the rate of whoever spoke to the format that a client wants."""

from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler

from services.gateway.api.realtime.settings import AudioFormat
from sightline.v1 import gateway_pb2

_CODECS = {"audio/pcmu": "pcm_mulaw", "audio/pcma": "pcm_alaw"}


class SpeechEncoder:
    """One answer's speech. `heard_ms` counts what was given out."""

    def __init__(self, wanted: AudioFormat) -> None:
        self._format = wanted
        self._resampler: AudioResampler | None = None
        self._rate = 0
        self._codec: Any = None
        if wanted.type in _CODECS:
            self._codec = av.CodecContext.create(_CODECS[wanted.type], "w")
            self._codec.format, self._codec.layout = "s16", "mono"
            self._codec.rate = wanted.rate
        self._num_samples = 0

    @property
    def heard_ms(self) -> int:
        return 1000 * self._num_samples // self._format.rate

    def encode(self, chunk: gateway_pb2.AudioChunk) -> bytes:
        """The chunk's speech; some of it comes with the next one, or with `flush`."""
        if not chunk.pcm or not chunk.sample_rate:
            return b""
        before = b""
        if chunk.sample_rate != self._rate:
            before = self.flush()
            self._rate = chunk.sample_rate
        if self._rate == self._format.rate and self._codec is None:
            return before + self._count(chunk.pcm)
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(chunk.pcm, np.int16).reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = self._rate
        return before + self._resampled(frame)

    def flush(self) -> bytes:
        """What is left of it."""
        return b"" if self._resampler is None else self._resampled(None)

    def _resampled(self, frame: av.AudioFrame | None) -> bytes:
        if self._resampler is None:
            self._resampler = AudioResampler("s16", "mono", self._format.rate)
        frames = self._resampler.resample(frame)
        if frame is None:
            self._resampler = None  # one that was flushed takes no more
        pcm = b"".join(each.to_ndarray().tobytes() for each in frames)
        return self._count(pcm)

    def _count(self, pcm: bytes) -> bytes:
        """What goes out of samples of the right rate."""
        self._num_samples += len(pcm) // 2
        if self._codec is None or not pcm:
            return pcm
        samples = np.frombuffer(pcm, np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = self._format.rate
        return b"".join(bytes(packet) for packet in self._codec.encode(frame))
