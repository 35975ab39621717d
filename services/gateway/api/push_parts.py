"""Pushed messages that are too long for one: put together from their parts.

The public port takes small messages, because anybody may send them. Only who knows a session's key
gets as far as sending parts.
"""

from collections.abc import AsyncIterator

from google.protobuf.message import DecodeError

from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2

MAX_JOINED_BYTES = 64 * 1024 * 1024  # an uncompressed 4K picture has 24 MB; 8K is refused later


async def joined(
    incoming: AsyncIterator[gateway_pb2.PushFramesRequest],
) -> AsyncIterator[gateway_pb2.PushFramesRequest]:
    """The messages as they were meant. Raises InvalidArgumentError for parts that are none."""
    parts = bytearray()
    async for message in incoming:
        kind = message.WhichOneof("message")
        if kind != "part":
            if parts:
                raise InvalidArgumentError("a message begins before the parts of another are all")
            yield message
            continue
        parts += message.part.data
        if len(parts) > MAX_JOINED_BYTES:
            raise InvalidArgumentError(
                f"a picture is too large: its message has more than {MAX_JOINED_BYTES} bytes"
            )
        if not message.part.last:
            continue
        try:
            whole = gateway_pb2.PushFramesRequest.FromString(bytes(parts))
        except DecodeError:
            raise InvalidArgumentError("the parts are no message together") from None
        parts = bytearray()
        if whole.WhichOneof("message") not in ("frame", "packet"):
            raise InvalidArgumentError("only a frame or a packet comes in parts")
        yield whole
    if parts:
        raise InvalidArgumentError("the parts of a message are not all there")
