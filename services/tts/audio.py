"""PCM in chunks of one length, however the engine hands it over."""

from collections.abc import Iterator

SAMPLE_BYTES = 2  # signed 16-bit little endian, mono


class Chunker:
    """Gathers PCM into chunks of `chunk_ms`; the last may be shorter, and is only known at the end.

    One chunk is held back, because a chunk must know whether it is its sentence's last.
    """

    def __init__(self, sample_rate: int, chunk_ms: int) -> None:
        self._chunk_bytes = max(1, sample_rate * chunk_ms // 1000) * SAMPLE_BYTES
        self._held = bytearray()

    def feed(self, pcm: bytes) -> Iterator[bytes]:
        """Chunks that are complete and not the last."""
        self._held += pcm
        while len(self._held) > self._chunk_bytes:
            chunk = bytes(self._held[: self._chunk_bytes])
            del self._held[: self._chunk_bytes]
            yield chunk

    def finish(self) -> bytes:
        """The last chunk; empty only if there was no audio at all."""
        last = bytes(self._held)
        self._held.clear()
        return last


def seconds(size_bytes: int, sample_rate: int) -> float:
    """Length of so much PCM."""
    return size_bytes / (SAMPLE_BYTES * sample_rate)
