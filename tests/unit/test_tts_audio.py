"""Chunks of PCM."""

from hypothesis import given
from hypothesis import strategies as st

from services.tts.audio import Chunker, seconds


@given(buffers=st.lists(st.binary(max_size=300).map(lambda data: data[: len(data) // 2 * 2])))
def test_chunks_are_equal_but_for_the_last_and_lose_nothing(buffers: list[bytes]) -> None:
    chunker = Chunker(sample_rate=1000, chunk_ms=40)
    chunks = [chunk for buffer in buffers for chunk in chunker.feed(buffer)]
    last = chunker.finish()
    whole = b"".join(buffers)
    assert b"".join(chunks) + last == whole
    assert all(len(chunk) == 80 for chunk in chunks)
    assert len(last) <= 80
    assert bool(last) == bool(whole)


def test_length_of_audio() -> None:
    assert seconds(44100, 22050) == 1.0
