"""The chunk stream: bytes written by hand, and by an encoder that uses every header there is."""

import contextlib
import struct
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.sources.rtmp import RtmpError
from services.gateway.sources.rtmp.chunks import ChunkLimits, ChunkReader, ChunkWriter, Message


def read(data: bytes, **limits: int) -> list[Message]:
    return list(ChunkReader(ChunkLimits(**limits)).feed(data))


def header0(chunk_stream: int, timestamp: int, size: int, kind: int = 9, stream: int = 1) -> bytes:
    return (
        bytes([chunk_stream])
        + timestamp.to_bytes(3)
        + size.to_bytes(3)
        + bytes([kind])
        + stream.to_bytes(4, "little")
    )


# --- by hand --------------------------------------------------------------------------------------


def test_a_message_in_one_chunk() -> None:
    assert read(header0(3, 1000, 4) + b"abcd") == [Message(9, 1, 1000, b"abcd")]


def test_a_message_cut_into_chunks_with_another_between() -> None:
    """The example of the specification, section 5.3.2.2, with an audio message in the middle."""
    video = header0(6, 1000, 307) + b"v" * 128 + b"\xc6" + b"w" * 128
    audio = header0(4, 1010, 3, kind=8) + b"aaa"
    rest = b"\xc6" + b"x" * 51
    assert read(video + audio + rest) == [
        Message(8, 1, 1010, b"aaa"),
        Message(9, 1, 1000, b"v" * 128 + b"w" * 128 + b"x" * 51),
    ]


def test_deltas_belong_to_their_chunk_stream() -> None:
    data = (
        header0(4, 1000, 2, kind=8)
        + b"a0"
        + header0(6, 5000, 2)
        + b"v0"
        + b"\x84\x00\x00\x14"  # type 2 on stream 4: 20 ms later
        + b"a1"
        + b"\x46\x00\x00\x21\x00\x00\x03\x09"  # type 1 on stream 6: 33 ms later, 3 bytes
        + b"v01"
        + b"\xc4"  # type 3 on stream 4: 20 ms later again
        + b"a2"
    )
    assert [(message.type_id, message.timestamp_ms) for message in read(data)] == [
        (8, 1000),
        (9, 5000),
        (8, 1020),
        (9, 5033),
        (8, 1040),
    ]


def test_type_3_after_type_0_repeats_the_timestamp_as_its_delta() -> None:
    """Specification, section 5.3.1.2.4."""
    data = header0(3, 40, 1) + b"a" + b"\xc3" + b"b"
    assert [message.timestamp_ms for message in read(data)] == [40, 80]


@pytest.mark.parametrize("repeated", [True, False], ids=["repeated", "left out"])
def test_extended_timestamps_on_type_3_chunks(repeated: bool) -> None:
    """4 h 39 min into a stream they do not fit into 24 bits any more."""
    extended = struct.pack(">I", 0x01000000)
    again = extended if repeated else b""
    data = header0(6, 0xFFFFFF, 300) + extended + b"v" * 128
    data += b"\xc6" + again + b"w" * 128 + b"\xc6" + again + b"x" * 44
    data += b"\x86\x00\x00\x21" + b"y" * 128 + b"\xc6" + b"y" * 128 + b"\xc6" + b"y" * 44
    first, second = read(data)
    assert first == Message(9, 1, 0x01000000, b"v" * 128 + b"w" * 128 + b"x" * 44)
    assert second == Message(9, 1, 0x01000021, b"y" * 300)


def test_timestamps_wrap_at_32_bits() -> None:
    data = header0(3, 0xFFFFFF, 1) + struct.pack(">I", 0xFFFFFFF0) + b"a"
    data += b"\x83\x00\x00\x20" + b"b"
    assert [message.timestamp_ms for message in read(data)] == [0xFFFFFFF0, 0x10]


@pytest.mark.parametrize(
    ("basic", "chunk_stream"), [(b"\x00\x00", 64), (b"\x00\xff", 319), (b"\x01\x00\x01", 320)]
)
def test_long_chunk_stream_ids(basic: bytes, chunk_stream: int) -> None:
    other = header0(3, 7, 200, stream=5) + b"o" * 128
    data = basic + header0(0, 9, 3)[1:] + b"abc"
    assert read(other + data) == [Message(9, 1, 9, b"abc")]
    with pytest.raises(RtmpError, match=f"chunk stream {chunk_stream} starts with a type 3"):
        read(bytes([0xC0 | basic[0]]) + basic[1:])


def test_chunk_size_changes_between_the_chunks_of_a_message() -> None:
    data = header0(6, 0, 300) + b"v" * 128
    data += header0(2, 0, 4, kind=1, stream=0) + struct.pack(">I", 4096)
    data += b"\xc6" + b"w" * 172
    assert read(data) == [Message(9, 1, 0, b"v" * 128 + b"w" * 172)]


def test_abort_forgets_what_is_unfinished() -> None:
    data = header0(6, 0, 300) + b"v" * 128
    data += header0(2, 0, 4, kind=2, stream=0) + struct.pack(">I", 6)
    data += header0(6, 40, 2) + b"ok"
    assert read(data) == [Message(9, 1, 40, b"ok")]


def test_empty_messages() -> None:
    assert read(header0(3, 5, 0) + header0(3, 6, 0)) == [
        Message(9, 1, 5, b""),
        Message(9, 1, 6, b""),
    ]


# --- limits ---------------------------------------------------------------------------------------


def test_a_message_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(RtmpError, match="over the limit"):
        read(header0(3, 0, 1001) + b"x", message_bytes=1000)


def test_many_unfinished_messages_together_are_refused() -> None:
    unfinished = b"".join(header0(stream, 0, 900) + b"x" * 128 for stream in range(3, 12))
    assert read(unfinished, message_bytes=1000, partial_bytes=9 * 128) == []
    with pytest.raises(RtmpError, match="unfinished"):
        read(unfinished, message_bytes=1000, partial_bytes=9 * 128 - 1)


def test_too_many_chunk_streams_are_refused() -> None:
    data = b"".join(header0(stream, 0, 1) + b"x" for stream in range(3, 8))
    assert len(read(data, chunk_streams=5)) == 5
    with pytest.raises(RtmpError, match="too many chunk streams"):
        read(data, chunk_streams=4)


@pytest.mark.parametrize("size", [0, 0x80000000])
def test_impossible_chunk_sizes_are_refused(size: int) -> None:
    with pytest.raises(RtmpError, match="chunk size"):
        read(header0(2, 0, 4, kind=1, stream=0) + struct.pack(">I", size))


# --- by a machine ---------------------------------------------------------------------------------


@dataclass
class Sent:
    """The sender's memory of one chunk stream."""

    message: Message
    field: int


class TestEncoder:
    """Writes messages with the shortest header the choices allow."""

    __test__ = False

    def __init__(self) -> None:
        self.chunk_bytes = 128
        self._sent: dict[int, Sent] = {}

    def chunks(self, chunk_stream: int, message: Message, shortest: int) -> list[bytes]:
        """A message's chunks; its header is of type `shortest` or the next longer possible."""
        kind, field = 0, message.timestamp_ms
        before = self._sent.get(chunk_stream)
        if before is not None and before.message.stream_id == message.stream_id:
            last = before.message
            delta = (message.timestamp_ms - last.timestamp_ms) & 0xFFFFFFFF
            possible = 1
            if (last.type_id, len(last.payload)) == (message.type_id, len(message.payload)):
                possible = 3 if before.field == delta else 2
            if kind := min(shortest, possible):
                field = delta
        self._sent[chunk_stream] = Sent(message, field)
        extended = struct.pack(">I", field) if field >= 0xFFFFFF else b""
        header = min(field, 0xFFFFFF).to_bytes(3) if kind < 3 else b""
        if kind < 2:
            header += len(message.payload).to_bytes(3) + bytes([message.type_id])
        if kind == 0:
            header += message.stream_id.to_bytes(4, "little")
        chunks = [_basic(kind, chunk_stream) + header + extended + message.payload[:128]]
        for start in range(128, len(message.payload), 128):
            part = message.payload[start : start + 128]
            chunks.append(_basic(3, chunk_stream) + extended + part)
        return chunks


def _basic(kind: int, chunk_stream: int) -> bytes:
    if chunk_stream < 64:
        return bytes([kind << 6 | chunk_stream])
    if chunk_stream < 320:
        return bytes([kind << 6, chunk_stream - 64])
    return bytes([kind << 6 | 1]) + (chunk_stream - 64).to_bytes(2, "little")


TIMES = st.one_of(
    st.integers(0, 100),
    st.integers(0xFFFFF0, 0x1000010),
    st.integers(0xFFFFFF00, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
)
MESSAGES = st.builds(
    Message,
    st.sampled_from([8, 9, 18, 20]),
    st.integers(0, 2),
    TIMES,
    st.one_of(st.sampled_from([b"", b"same", b"x" * 300]), st.binary(max_size=700)),
)
STREAMS = st.sampled_from([3, 4, 6, 63, 64, 319, 320, 65599])
SENT = st.lists(st.tuples(STREAMS, MESSAGES, st.integers(0, 3)), max_size=12)


def interleave(data: st.DataObject, sent: list[tuple[int, Message, int]]) -> tuple[bytes, list]:
    """The chunks of all messages in a random order that keeps each chunk stream's own; and the
    messages in the order in which they are complete."""
    encoder = TestEncoder()
    waiting: dict[int, list[tuple[Message, bytes, bool]]] = {}
    for chunk_stream, message, shortest in sent:
        chunks = encoder.chunks(chunk_stream, message, shortest)
        last = len(chunks) - 1
        waiting.setdefault(chunk_stream, []).extend(
            (message, chunk, index == last) for index, chunk in enumerate(chunks)
        )
    wire, complete = b"", []
    while waiting:
        chunk_stream = data.draw(st.sampled_from(sorted(waiting)))
        message, chunk, is_last = waiting[chunk_stream].pop(0)
        if not waiting[chunk_stream]:
            del waiting[chunk_stream]
        wire += chunk
        if is_last:
            complete.append(message)
    return wire, complete


def split(data: st.DataObject, wire: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    return [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


@settings(deadline=None, max_examples=60)
@given(st.data(), SENT)
def test_any_interleaving_and_any_split_gives_the_messages(
    data: st.DataObject, sent: list[tuple[int, Message, int]]
) -> None:
    wire, complete = interleave(data, sent)
    reader = ChunkReader()
    received = [message for part in split(data, wire) for message in reader.feed(part)]
    assert received == complete


@settings(deadline=None, max_examples=60)
@given(
    st.data(), SENT, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1)
)
def test_corrupted_bytes_raise_nothing_but_the_protocol_error(
    data: st.DataObject,
    sent: list[tuple[int, Message, int]],
    damage: list[tuple[int, int]],
) -> None:
    wire, _ = interleave(data, sent)
    broken = bytearray(wire or b"\x03")
    for position, value in damage:
        broken[position % len(broken)] = value
    limits = ChunkLimits(message_bytes=4096, partial_bytes=8192, chunk_streams=4)
    reader = ChunkReader(limits)
    try:
        for part in split(data, bytes(broken)):
            for message in reader.feed(part):
                assert len(message.payload) <= limits.message_bytes
    except RtmpError:
        pass


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=3000))
def test_noise_raises_nothing_but_the_protocol_error(noise: bytes) -> None:
    with contextlib.suppress(RtmpError):
        read(noise)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 63), MESSAGES, st.sampled_from([128, 4096]))
def test_what_we_write_we_read(chunk_stream: int, message: Message, chunk_bytes: int) -> None:
    writer, reader = ChunkWriter(), ChunkReader()
    if chunk_bytes != 128:
        change = Message(1, 0, 0, struct.pack(">I", chunk_bytes))
        assert list(reader.feed(writer.message(2, change))) == []
        writer.chunk_bytes = chunk_bytes
    assert list(reader.feed(writer.message(chunk_stream, message))) == [message]
