"""A WebRTC publisher's sound: what is late is left out, a sender who begins anew is heard."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from aiortc import RTCRtpReceiver
from aiortc.rtp import RtpPacket

from services.gateway.sources.whip.sound import SoundPublication
from tests.sources import RecordingSink

OPUS = 111
STEP = 960  # ticks of 20 ms


class Receiver:
    """As much of aiortc's as sound asks of it."""

    def __init__(self) -> None:
        opus = SimpleNamespace(name="opus", clockRate=48_000)
        self._RTCRtpReceiver__codecs = {OPUS: opus}
        self._RTCRtpReceiver__decoder_queue: Any = None

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None: ...
    async def _handle_rtcp_packet(self, packet: Any) -> None: ...


def heard(*timestamps: int) -> list[int]:
    """Which packets of these timestamps are handed on, by their place."""
    receiver, sink = Receiver(), RecordingSink()
    sound = SoundPublication(cast(RTCRtpReceiver, receiver), sink)

    async def send() -> None:
        for place, stamp in enumerate(timestamps):
            packet = RtpPacket(payload_type=OPUS, timestamp=stamp & 0xFFFFFFFF)
            packet.payload = bytes((place,))
            await receiver._handle_rtp_packet(packet, arrival_time_ms=0)

    asyncio.run(send())
    sound.close()
    return [each.data[0] for each in sink.sounds]


def test_late_and_repeated_packets_are_left_out() -> None:
    first = 2**32 - 2 * STEP  # the timestamps wrap
    stamps = [first + STEP * number for number in (0, 1, 3, 2, 3, 4, 4, 5)]
    assert heard(*stamps) == [0, 1, 2, 5, 7]


def test_a_sender_whose_times_fall_back_is_heard() -> None:
    stamps = [900_000, 900_000 + STEP, 5, 5 + STEP, 5 + 2 * STEP]
    assert heard(*stamps) == [0, 1, 2, 3, 4]
