"""Frames that a program pushes, as the messages that carry them."""

import time
from collections.abc import Iterator
from typing import Any

from sightline.errors import InvalidArgumentError
from sightline.types import Packet, PushReport
from sightline.v1 import gateway_pb2 as pb

__all__ = ["frame_message", "push_messages", "push_report", "split_frames"]

PART_BYTES = 1024 * 1024  # of a pushed message that is longer; servers take twice that


def push_report(message: pb.PushFramesResponse) -> PushReport:
    return PushReport(
        received=message.received,
        understood=message.understood,
        dropped=message.dropped,
        understood_capture_ns=message.understood_capture_ns,
    )


def split_frames(frames: Any) -> Any:
    """Frames that `push` was given, to iterate over: a single frame becomes a list of one."""
    if isinstance(frames, bytes | bytearray | Packet):
        return [frames]
    if isinstance(frames, tuple) and len(frames) == 2 and isinstance(frames[1], int):
        return [frames]
    if getattr(frames, "ndim", None) == 3:
        return [frames]
    return frames


def frame_message(frame: Any, capture_ns: int | None = None) -> pb.PushFramesRequest:
    """The message of one pushed frame, which is JPEG bytes, an H×W×3 uint8 RGB array, a Packet, or
    (frame, capture_ns).

    Any object with the buffer protocol or `__array__` serves as an array. `capture_ns` fills in
    for frames that bring no time of their own. Raises InvalidArgumentError for anything else.
    """
    if isinstance(frame, Packet):
        packet = pb.PushPacket(
            data=frame.data, capture_ns=frame.capture_ns, keyframe=frame.keyframe
        )
        return pb.PushFramesRequest(packet=packet)
    if isinstance(frame, tuple) and len(frame) == 2:
        frame, capture_ns = frame
    when = time.time_ns() if capture_ns is None else int(capture_ns)
    if isinstance(frame, bytes | bytearray):
        if not frame.startswith(b"\xff\xd8"):
            raise InvalidArgumentError("pushed bytes must be a JPEG picture; raw frames are arrays")
        return pb.PushFramesRequest(frame=pb.PushFrame(capture_ns=when, jpeg=bytes(frame)))
    height, width, data = _pixels(frame)
    picture = pb.RawPicture(width=width, height=height, data=data)
    return pb.PushFramesRequest(frame=pb.PushFrame(capture_ns=when, rgb=picture))


def push_messages(message: pb.PushFramesRequest) -> Iterator[pb.PushFramesRequest]:
    """A pushed message as the server takes it: as it is, or in parts where it is long."""
    if message.ByteSize() <= PART_BYTES:
        yield message
        return
    whole = memoryview(message.SerializeToString())
    for start in range(0, len(whole), PART_BYTES):
        end = start + PART_BYTES
        part = pb.PushPart(data=bytes(whole[start:end]), last=end >= len(whole))
        yield pb.PushFramesRequest(part=part)


def _pixels(frame: Any) -> tuple[int, int, bytes]:
    try:
        view = memoryview(frame)
    except TypeError:
        if not hasattr(frame, "__array__"):
            raise InvalidArgumentError(
                f"cannot push a {type(frame).__name__}: frames are JPEG bytes, height x width x 3 "
                "uint8 RGB arrays, sightline.Packet, or (frame, capture_ns)"
            ) from None
        view = memoryview(frame.__array__())
    shape = view.shape or ()
    if view.ndim != 3 or shape[2] != 3 or view.itemsize != 1 or view.format != "B":
        raise InvalidArgumentError(
            f"a frame must be height x width x 3 uint8, not {shape} of format {view.format!r}"
        )
    return shape[0], shape[1], view.tobytes()
