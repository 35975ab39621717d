"""Video and sound between gateways: what viewers are sent, as messages and back."""

import contextlib
from collections.abc import AsyncGenerator, Iterator

from services.gateway.frames.sampler import Glimpse
from services.gateway.playback.broadcast import Broadcast
from services.gateway.playback.h264 import EncodedPicture
from services.gateway.playback.opus import OpusPacket
from services.gateway.playback.recording import Clip
from sightline.v1 import peer_pb2

PART_BYTES = 1024 * 1024  # of a clip


async def pictures_of(broadcast: Broadcast) -> AsyncGenerator[peer_pb2.RelayResponse, None]:
    """What one more viewer of the session gets."""
    viewer = broadcast.join()
    try:
        with contextlib.suppress(EOFError):
            while True:
                picture, stamp = await viewer.next()
                yield peer_pb2.RelayResponse(
                    units=picture.units, keyframe=picture.keyframe, stamp=stamp
                )
    finally:
        broadcast.leave(viewer)


async def sounds_of(broadcast: Broadcast) -> AsyncGenerator[peer_pb2.RelayResponse, None]:
    """What one more listener gets."""
    listener = broadcast.sound.join()
    try:
        with contextlib.suppress(EOFError):
            while True:
                data, place = await listener.next()
                yield peer_pb2.RelayResponse(units=[data], stamp=place)
    finally:
        broadcast.sound.leave(listener)


def picture_of(message: peer_pb2.RelayResponse) -> EncodedPicture:
    units = [unit for unit in message.units if unit]
    return EncodedPicture(units, [], keyframe=message.keyframe, stamp=message.stamp)


def sound_of(message: peer_pb2.RelayResponse) -> OpusPacket:
    return b"".join(message.units), message.stamp


def glimpse_message(glimpse: Glimpse) -> peer_pb2.Glimpse:
    return peer_pb2.Glimpse(capture_ns=glimpse.capture_ns, jpeg=glimpse.jpeg)


def parts_of(clip: Clip) -> Iterator[peer_pb2.GetClipResponse]:
    for start in range(0, len(clip.data), PART_BYTES):
        part = peer_pb2.GetClipResponse(data=clip.data[start : start + PART_BYTES])
        if not start:
            part.start_s, part.end_s = clip.start_s, clip.end_s
        yield part


def clip_of(parts: list[peer_pb2.GetClipResponse]) -> Clip:
    return Clip(b"".join(part.data for part in parts), parts[0].start_s, parts[0].end_s)
