"""RTMP's chunk stream (RTMP 1.0, section 5.3): messages cut into interleaved chunks."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.gateway.sources.rtmp import RtmpError

DEFAULT_CHUNK_BYTES = 128
EXTENDED = 0xFFFFFF  # a 24-bit timestamp field with this value is followed by a 32-bit one
SET_CHUNK_SIZE, ABORT = 1, 2  # message types that change how chunks are read


@dataclass(frozen=True, slots=True)
class Message:
    """`timestamp_ms` is modulo 2**32, as on the wire."""

    type_id: int
    stream_id: int
    timestamp_ms: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ChunkLimits:
    """Bounds of what one connection may make us hold, and how small the pieces may be."""

    message_bytes: int = 16 * 1024 * 1024
    partial_bytes: int = 32 * 1024 * 1024  # of all unfinished messages together
    chunk_streams: int = 64
    least_chunk_bytes: int = (
        64  # publishers use 128 and more; each chunk costs as much as a big one
    )


# Before a key was right: enough for `connect` and `publish`, which have some hundred bytes.
STRANGER = ChunkLimits(message_bytes=16 * 1024, partial_bytes=16 * 1024, chunk_streams=8)


@dataclass(slots=True)
class _ChunkStream:
    """State of a chunk stream: what its later chunks leave out, and its unfinished message."""

    type_id: int = 0
    stream_id: int = 0
    length: int = 0
    timestamp_ms: int = 0
    field_ms: int = 0  # the last header's timestamp or delta, in full
    extended: bool = False
    payload: bytearray = field(default_factory=bytearray)
    unfinished: bool = False


class ChunkReader:
    """Bytes in, messages out. Set Chunk Size and Abort take effect here and are not handed out.

    Raises RtmpError for anything malformed; the reader is useless after that.
    """

    def __init__(self, limits: ChunkLimits | None = None) -> None:
        self.limits = limits or ChunkLimits()  # may be replaced at any time
        self.num_chunks = 0
        self._buffer = bytearray()
        self._streams: dict[int, _ChunkStream] = {}
        self._chunk_bytes = DEFAULT_CHUNK_BYTES
        self._partial_bytes = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes. Exhaust the iterator before feeding again."""
        self._buffer += data
        position = 0
        try:
            while True:
                taken, message = self._chunk(position)
                if not taken:
                    return
                position += taken
                if message is None:
                    continue
                if message.type_id == SET_CHUNK_SIZE:
                    self._set_chunk_size(message.payload)
                elif message.type_id == ABORT:
                    self._abort(message.payload)
                else:
                    yield message
        finally:
            del self._buffer[:position]

    def _chunk(self, start: int) -> tuple[int, Message | None]:
        """One chunk at `start`: (bytes taken, the message it completes). (0, None): too short."""
        buffer = self._buffer
        available = len(buffer)
        position = start + 1
        if position > available:
            return 0, None
        kind, chunk_stream_id = buffer[start] >> 6, buffer[start] & 0x3F
        if chunk_stream_id < 2:  # one or two more bytes of id
            size = chunk_stream_id + 1
            if position + size > available:
                return 0, None
            chunk_stream_id = 64 + int.from_bytes(buffer[position : position + size], "little")
            position += size

        header_bytes = (11, 7, 3, 0)[kind]
        if position + header_bytes > available:
            return 0, None
        header = bytes(buffer[position : position + header_bytes])
        position += header_bytes
        stream = self._streams.get(chunk_stream_id)
        if stream is None:
            # Some publishers start a stream with type 1; the message stream is then 0.
            if kind > 1:
                raise RtmpError(f"chunk stream {chunk_stream_id} starts with a type {kind} chunk")
            stream = _ChunkStream()
        resumes = kind == 3 and stream.unfinished

        # Parsed into locals first: with too few bytes nothing may have changed.
        field_ms, extended = stream.field_ms, stream.extended
        type_id, stream_id, length = stream.type_id, stream.stream_id, stream.length
        if kind < 3:
            field_ms = int.from_bytes(header[:3])
            extended = field_ms == EXTENDED
        if kind < 2:
            length = int.from_bytes(header[3:6])
            type_id = header[6]
        if kind == 0:
            stream_id = int.from_bytes(header[7:11], "little")
        if extended:
            if position + 4 > available:
                return 0, None
            value = int.from_bytes(buffer[position : position + 4])
            # Type 3 chunks repeat the extended timestamp, but old senders leave it out there.
            if not resumes or value == stream.field_ms:
                position += 4
                field_ms = value
        if length > self.limits.message_bytes:
            raise RtmpError(f"a message of {length} bytes is over the limit")
        missing = length - len(stream.payload) if resumes else length
        size = min(missing, self._chunk_bytes)
        if position + size > available:
            return 0, None

        if chunk_stream_id not in self._streams:
            if len(self._streams) >= self.limits.chunk_streams:
                raise RtmpError("too many chunk streams")
            self._streams[chunk_stream_id] = stream
        if not resumes:
            self._discard(stream)
            stream.type_id, stream.stream_id, stream.length = type_id, stream_id, length
            stream.field_ms, stream.extended = field_ms, extended
            start_ms = 0 if kind == 0 else stream.timestamp_ms
            stream.timestamp_ms = (start_ms + field_ms) & 0xFFFFFFFF
            stream.unfinished = True
        stream.payload += buffer[position : position + size]
        self._partial_bytes += size
        if self._partial_bytes > self.limits.partial_bytes:
            raise RtmpError("too many unfinished messages")
        self.num_chunks += 1
        message = None
        if len(stream.payload) == stream.length:
            payload = bytes(stream.payload)
            self._discard(stream)
            message = Message(stream.type_id, stream.stream_id, stream.timestamp_ms, payload)
        return position + size - start, message

    def _discard(self, stream: _ChunkStream) -> None:
        self._partial_bytes -= len(stream.payload)
        stream.payload = bytearray()
        stream.unfinished = False

    def _set_chunk_size(self, payload: bytes) -> None:
        size = int.from_bytes(payload[:4])
        if len(payload) < 4 or not self.limits.least_chunk_bytes <= size <= 0x7FFFFFFF:
            raise RtmpError("a chunk size that cannot be")
        self._chunk_bytes = size

    def _abort(self, payload: bytes) -> None:
        stream = self._streams.get(int.from_bytes(payload[:4]))
        if len(payload) < 4:
            raise RtmpError("an abort without a chunk stream")
        if stream is not None:
            self._discard(stream)


class ChunkWriter:
    """Messages out, each with a full header: replies are few and short."""

    def __init__(self) -> None:
        self.chunk_bytes = DEFAULT_CHUNK_BYTES

    def message(self, chunk_stream_id: int, message: Message) -> bytes:
        """The chunks of one message. `chunk_stream_id` is 2…63."""
        timestamp_ms = message.timestamp_ms & 0xFFFFFFFF
        extension = struct.pack(">I", timestamp_ms) if timestamp_ms >= EXTENDED else b""
        header = (
            bytes([chunk_stream_id])
            + min(timestamp_ms, EXTENDED).to_bytes(3)
            + len(message.payload).to_bytes(3)
            + bytes([message.type_id])
            + message.stream_id.to_bytes(4, "little")
            + extension
        )
        continuation = bytes([0xC0 | chunk_stream_id]) + extension
        parts = [header, message.payload[: self.chunk_bytes]]
        for start in range(self.chunk_bytes, len(message.payload), self.chunk_bytes):
            parts += [continuation, message.payload[start : start + self.chunk_bytes]]
        return b"".join(parts)
