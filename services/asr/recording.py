"""A recording that grows while it is heard."""

import asyncio

import numpy as np
import numpy.typing as npt

from services.common.resampling import HEARD_RATE, Resampler
from sightline.errors import InvalidArgumentError

Samples = npt.NDArray[np.float32]  # [samples], −1 to 1, at HEARD_RATE


class Recording:
    """PCM of one call, at the rate that models hear. One event loop; `changed` is set by whatever
    is new: audio, a pause, the end or an error. `pressing` by all of these but audio.
    """

    def __init__(self, max_audio_s: float) -> None:
        self.changed = asyncio.Event()
        self.pressing = asyncio.Event()
        self.pauses = 0.0  # audio, in seconds, up to which words are wanted now
        self.ended = False
        self.failed: Exception | None = None
        self._max_audio_s = max_audio_s
        self._pcm = bytearray()
        self._resampler: Resampler | None = None

    @property
    def audio_s(self) -> float:
        return len(self._pcm) / 2 / HEARD_RATE

    def samples(self) -> Samples:
        """All of it until now."""
        heard = np.frombuffer(bytes(self._pcm), np.int16).astype(np.float32)
        return np.divide(heard, 32768, dtype=np.float32)

    def add(self, pcm: bytes, sample_rate: int) -> None:
        """Add a piece. Raises InvalidArgumentError for what is no PCM, for another rate than
        before, and for too much of it."""
        if self._resampler is None:
            self._resampler = Resampler(sample_rate)
        if sample_rate != self._resampler.sample_rate:
            raise InvalidArgumentError("all audio of a recording has the rate of the first piece")
        self._pcm += self._resampler.feed(pcm)
        if self.audio_s > self._max_audio_s:
            raise InvalidArgumentError(
                f"the recording is longer than {self._max_audio_s:g} seconds"
            )
        self.changed.set()

    def pause(self) -> None:
        self._flush()
        self.pauses = self.audio_s
        self._press()

    def end(self) -> None:
        self._flush()
        self.ended = True
        self._press()

    def fail(self, error: Exception) -> None:
        self.failed = error
        self._press()

    def _press(self) -> None:
        self.pressing.set()
        self.changed.set()

    def _flush(self) -> None:
        """Take what the resampler holds back, a few samples that would be missed at an end."""
        if self._resampler is not None:
            self._pcm += self._resampler.flush()
            self._resampler = Resampler(self._resampler.sample_rate)
