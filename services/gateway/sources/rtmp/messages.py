"""RTMP messages: their types, the commands in them, and the replies a server sends."""

from dataclasses import dataclass
from typing import Any

from services.gateway.sources.rtmp import RtmpError, amf0
from services.gateway.sources.rtmp.chunks import SET_CHUNK_SIZE, Message

ACKNOWLEDGEMENT, USER_CONTROL, WINDOW_SIZE, PEER_BANDWIDTH = 3, 4, 5, 6
AUDIO, VIDEO = 8, 9
DATA_AMF3, COMMAND_AMF3, DATA_AMF0, COMMAND_AMF0, AGGREGATE = 15, 17, 18, 20, 22

STREAM_BEGIN, PING_REQUEST, PING_RESPONSE = 0, 6, 7  # user control events

CONTROL_STREAM, COMMAND_STREAM, STATUS_STREAM = 2, 3, 5  # chunk streams we write on
MAX_PARTS = 1024  # of an aggregate message
MAX_COMMAND_BYTES = 64 * 1024  # of a command or metadata
PUBLISH_STREAM_ID = 1  # the one message stream `createStream` hands out


@dataclass(frozen=True, slots=True)
class Command:
    """A remote call. `arguments` are what follows the command object."""

    name: str
    transaction: float
    object: Any
    arguments: list[Any]

    def argument(self, index: int) -> Any:
        return self.arguments[index] if index < len(self.arguments) else None


def parse_command(message: Message) -> Command:
    """Raises RtmpError when the payload is no command."""
    payload = message.payload
    if len(payload) > MAX_COMMAND_BYTES:
        raise RtmpError("a command that is too long")
    if message.type_id == COMMAND_AMF3:  # AMF0 behind a format byte, as every publisher sends it
        payload = payload[1:]
    values = amf0.decode(payload)
    if len(values) < 2 or not isinstance(values[0], str) or not isinstance(values[1], float):
        raise RtmpError("a malformed command")
    return Command(values[0], values[1], values[2] if len(values) > 2 else None, values[3:])


def parse_metadata(message: Message) -> dict[str, Any] | None:
    """Fields of `onMetaData`, None for other data messages. Raises RtmpError."""
    if len(message.payload) > MAX_COMMAND_BYTES:
        raise RtmpError("metadata that is too long")
    payload = message.payload[1:] if message.type_id == DATA_AMF3 else message.payload
    values = amf0.decode(payload)
    if values[:1] == ["@setDataFrame"]:
        values = values[1:]
    if len(values) >= 2 and values[0] == "onMetaData" and isinstance(values[1], dict):
        return values[1]
    return None


def parse_aggregate(message: Message) -> list[Message]:
    """The FLV tags in an aggregate message, at their own times. Raises RtmpError."""
    payload = message.payload
    parts: list[Message] = []
    position, first_ms = 0, None
    while position < len(payload):
        if len(parts) == MAX_PARTS:
            raise RtmpError("an aggregate message of too many parts")
        if position + 11 > len(payload):
            raise RtmpError("an aggregate message ends too early")
        size = int.from_bytes(payload[position + 1 : position + 4])
        tag_ms = int.from_bytes(payload[position + 4 : position + 7])
        tag_ms |= payload[position + 7] << 24
        first_ms = tag_ms if first_ms is None else first_ms
        body = payload[position + 11 : position + 11 + size]
        if len(body) < size:
            raise RtmpError("an aggregate message ends too early")
        timestamp_ms = (message.timestamp_ms + tag_ms - first_ms) & 0xFFFFFFFF
        parts.append(Message(payload[position], message.stream_id, timestamp_ms, body))
        position += 11 + size + 4  # and the back pointer
    return parts


def set_chunk_size(size_bytes: int) -> Message:
    return Message(SET_CHUNK_SIZE, 0, 0, size_bytes.to_bytes(4))


def acknowledgement(total_bytes: int) -> Message:
    return Message(ACKNOWLEDGEMENT, 0, 0, (total_bytes & 0xFFFFFFFF).to_bytes(4))


def window_size(size_bytes: int) -> Message:
    return Message(WINDOW_SIZE, 0, 0, size_bytes.to_bytes(4))


def peer_bandwidth(size_bytes: int) -> Message:
    return Message(PEER_BANDWIDTH, 0, 0, size_bytes.to_bytes(4) + b"\x02")  # dynamic


def user_control(event: int, data: bytes) -> Message:
    return Message(USER_CONTROL, 0, 0, event.to_bytes(2) + data)


def result(transaction: float, *values: Any) -> Message:
    return Message(COMMAND_AMF0, 0, 0, amf0.encode("_result", transaction, *values))


def error(transaction: float, code: str, description: str) -> Message:
    info = {"level": "error", "code": code, "description": description}
    return Message(COMMAND_AMF0, 0, 0, amf0.encode("_error", transaction, None, info))


def status(
    stream_id: int, level: str, code: str, description: str, name: str = "onStatus"
) -> Message:
    """`level`: "status" or "error". `name`: the call at the client, onStatus or onFCPublish."""
    info = {"level": level, "code": code, "description": description}
    return Message(COMMAND_AMF0, stream_id, 0, amf0.encode(name, 0, None, info))
