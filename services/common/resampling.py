"""PCM at the rate that speech is heard at, whatever rate it comes at."""

from typing import Any

from sightline.errors import InvalidArgumentError

HEARD_RATE = 16_000  # of Whisper and of Silero
MIN_RATE, MAX_RATE = 8_000, 48_000
MAX_PIECE_BYTES = 512 * 1024


class Resampler:
    """Makes `HEARD_RATE` of one stream of PCM (signed 16-bit little endian, mono), by swresample.

    Raises InvalidArgumentError for a rate that is none.
    """

    def __init__(self, sample_rate: int) -> None:
        if not MIN_RATE <= sample_rate <= MAX_RATE:
            raise InvalidArgumentError(
                f"audio has {MIN_RATE} to {MAX_RATE} samples a second, not {sample_rate}"
            )
        self.sample_rate = sample_rate
        self._resampler = None
        if sample_rate != HEARD_RATE:
            import av

            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=HEARD_RATE)

    def feed(self, pcm: bytes) -> bytes:
        """What is complete of the stream so far. Raises InvalidArgumentError for half a sample."""
        if len(pcm) % 2 or len(pcm) > MAX_PIECE_BYTES:
            raise InvalidArgumentError(
                f"audio comes as 16-bit PCM, in pieces of at most {MAX_PIECE_BYTES} bytes"
            )
        if self._resampler is None or not pcm:
            return pcm
        import av

        frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // 2)
        frame.sample_rate = self.sample_rate
        frame.planes[0].update(pcm)
        return self._bytes(frame)

    def flush(self) -> bytes:
        """The rest, at a stream's end; feed nothing after it."""
        return b"" if self._resampler is None else self._bytes(None)

    def _bytes(self, frame: Any) -> bytes:
        assert self._resampler is not None
        made = self._resampler.resample(frame)
        return b"".join(bytes(each.planes[0])[: 2 * each.samples] for each in made)
