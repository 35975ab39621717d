"""A WHIP publisher's lost packets: asked for again and again, given up in time, each counted."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiortc import RTCRtpReceiver

from services.gateway.sources.whip.publication import HOLE_S, Publication, _PicturesTap
from sightline.errors import InternalError
from tests.sources import RecordingSink
from tests.unit.test_picture_buffer import Camera, Clock


class Receiver:
    """The private half of aiortc's receiver."""

    def __init__(self) -> None:
        self._RTCRtpReceiver__decoder_queue: Any = None
        self._RTCRtpReceiver__timestamp_mapper: Any = None
        self._RTCRtpReceiver__jitter_buffer: Any = None
        self._RTCRtpReceiver__nack_generator = SimpleNamespace(missing={1})
        self.asked: list[list[int]] = []

    async def _handle_rtcp_packet(self, packet: Any) -> None: ...

    async def _send_rtcp_nack(self, ssrc: int, lost: list[int]) -> None:
        self.asked.append(lost)

    def take(self, packet: Any) -> None:
        """Put a packet together with others as aiortc does."""
        _, encoded = self._RTCRtpReceiver__jitter_buffer.add(packet)
        if encoded is not None:
            encoded.timestamp = self._RTCRtpReceiver__timestamp_mapper.map(encoded.timestamp)
            self._RTCRtpReceiver__decoder_queue.put((SimpleNamespace(name="VP8"), encoded))


async def test_a_hole_is_asked_for_until_it_is_given_up() -> None:
    receiver, sink, clock, camera = Receiver(), RecordingSink(), Clock(), Camera()
    publication = Publication(cast(RTCRtpReceiver, receiver), sink, "test")
    publication._buffer._clock_s = clock
    assert isinstance(receiver._RTCRtpReceiver__decoder_queue, _PicturesTap)
    for _ in range(10):
        for packet in camera.picture(2):
            receiver.take(packet)
    _, missing = camera.picture(2)  # of which nothing comes
    for _ in range(3):
        for packet in camera.picture(2):
            receiver.take(packet)
    await publication._look_after_hole()
    assert not receiver.asked, "aiortc has just asked for it"
    for _ in range(3):
        clock.now_s += HOLE_S / 4
        await publication._look_after_hole()
    assert [asked[-1] for asked in receiver.asked] == [missing.sequence_number] * 3
    assert not sink.drops
    clock.now_s += HOLE_S
    await publication._look_after_hole()
    assert sink.drops["packet_lost"] == 2  # and the one behind, whose beginning may be missing
    assert sink.drops["no_keyframe"] == 2
    assert not receiver._RTCRtpReceiver__nack_generator.missing
    await publication.close("publisher_left")
    assert sink.reasons == ["publisher_left"]


def test_another_aiortc_is_refused() -> None:
    receiver = Receiver()
    del receiver._RTCRtpReceiver__jitter_buffer
    with pytest.raises(InternalError, match="jitter_buffer"):
        Publication(cast(RTCRtpReceiver, receiver), RecordingSink(), "test")
