"""One published sound: an aiortc receiver's packets to the sink that its video goes to."""

import time
from typing import Any, Protocol

from aiortc import RTCRtpReceiver
from aiortc.rtp import AnyRtcpPacket, RtcpSrPacket, RtpPacket

from services.gateway.sources.sound import EncodedSound
from services.gateway.sources.timestamps import TimestampUnwrapper
from services.gateway.sources.whip.publication import Tap
from services.gateway.sources.whip.sender_clock import SenderClock
from sightline.errors import InternalError

# aiortc's names to libavcodec's, and what the bitstream does not say of rate and channels.
_CODECS = {
    "opus": ("opus", 0, 0),
    "pcmu": ("pcm_mulaw", 8000, 1),
    "pcma": ("pcm_alaw", 8000, 1),
    "g722": ("adpcm_g722", 16_000, 1),
}


LATE_S = 1  # what is older by more is not late: the sender has begun anew


class SoundSink(Protocol):
    """Takes the packets, as a `FrameSink` does."""

    def sound(self, sound: EncodedSound) -> None: ...
    def noted(self, what: str, count: int = 1) -> None: ...


class SoundPublication:
    """Stands between one audio receiver and a sink. Packets are handed on as they come: aiortc
    would hold four of them back, and decode them all for nobody. Late ones are dropped.

    Create it before ICE starts. Raises InternalError when aiortc is not the one it was written for.
    """

    def __init__(self, receiver: RTCRtpReceiver, sink: SoundSink) -> None:
        self._receiver: Any = receiver
        self._sink = sink
        self._clocks: dict[int, SenderClock] = {}  # by ticks a second
        self._timestamps = TimestampUnwrapper()
        self._newest: int | None = None
        self._take_over()

    def _take_over(self) -> None:
        receiver = self._receiver
        for name in ("codecs", "decoder_queue"):
            if not hasattr(receiver, f"_RTCRtpReceiver__{name}"):
                raise InternalError(f"this version of aiortc has no {name}")
        receiver._RTCRtpReceiver__decoder_queue = Tap(_nowhere)
        self._handle_rtp = receiver._handle_rtp_packet
        self._handle_rtcp = receiver._handle_rtcp_packet
        receiver._handle_rtp_packet = self._rtp
        receiver._handle_rtcp_packet = self._rtcp

    def close(self) -> None:
        """Nothing in a circle of references: the session could not be freed."""
        del self._receiver._handle_rtp_packet, self._receiver._handle_rtcp_packet
        del self._handle_rtp, self._handle_rtcp

    async def _rtcp(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpSrPacket):
            for clock in self._clocks.values():
                clock.report(packet.sender_info.ntp_timestamp, packet.sender_info.rtp_timestamp)
        await self._handle_rtcp(packet)

    async def _rtp(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        codec = self._receiver._RTCRtpReceiver__codecs.get(packet.payload_type)
        known = _CODECS.get(codec.name.lower()) if codec is not None else None
        if known is None:
            self._sink.noted("audio_ignored")
        elif packet.payload:
            timestamp = self._timestamps.unwrap(packet.timestamp)
            before = self._newest
            if before is None or not before - LATE_S * codec.clockRate < timestamp <= before:
                self._newest = timestamp
                clock = self._clocks.setdefault(codec.clockRate, SenderClock(codec.clockRate))
                capture_ns, _ = clock.map(timestamp, time.time_ns())
                name, rate, channels = known
                self._sink.sound(
                    EncodedSound(name, packet.payload, capture_ns, b"", rate, channels)
                )
        await self._handle_rtp(packet, arrival_time_ms=arrival_time_ms)


def _nowhere(codec: str, data: bytes, timestamp: int) -> None:
    """aiortc has put a frame together, whose packets have been handed on."""
