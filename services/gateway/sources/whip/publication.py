"""One published video: an aiortc receiver's pictures into the decoder that feeds its sink.

aiortc puts pictures into queues without bounds, forgets the sender's clock, asks once for lost
packets and never again. Here its packets go by a `PictureBuffer` to a `PacketDecoder` instead,
which takes some of aiortc's private attributes: `Publication` refuses to start when they are gone.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from aiortc import RTCRtpReceiver
from aiortc.rtp import AnyRtcpPacket, RtcpSrPacket

from services.common.threads import on_thread
from services.gateway.sources.bitstream import is_keyframe
from services.gateway.sources.decoder import PacketDecoder
from services.gateway.sources.patience import Patience
from services.gateway.sources.sound import EncodedSound
from services.gateway.sources.source import DecodeBudget, DecodedFrame, EncodedPacket, FrameSink
from services.gateway.sources.whip.codecs import DECODED_AS, FRAMED
from services.gateway.sources.whip.depacketizers import picture_of
from services.gateway.sources.whip.picture_buffer import Picture, PictureBuffer, Pictures
from services.gateway.sources.whip.sender_clock import SenderClock
from sightline.errors import InternalError, SightlineError

log = logging.getLogger(__name__)

WATCH_S = 0.1
STALL_S = 0.3  # without a picture for so long, a keyframe is asked for
MAX_PLI_INTERVAL_S = 5.0
HOLE_S = 0.5  # how long a lost packet may hold up those behind it; it is asked for meanwhile


class Publication:
    """Stands between one video receiver and a sink. Create it before ICE starts.

    It is the decoder's sink, and so knows when pictures come. `watch` runs on the event loop for
    as long as the publisher stays. Raises InternalError when aiortc is not the one it was written
    for.
    """

    def __init__(self, receiver: RTCRtpReceiver, sink: FrameSink, name: str) -> None:
        self._receiver: Any = receiver
        self._sink = sink
        self._clock = SenderClock()
        self._decoder = PacketDecoder(self, name=name)
        self._codec = ""
        now_s = time.monotonic()
        self.picture_s = now_s  # when the last picture was decoded
        self._interval_s = 0.0  # between pictures, smoothed
        self._asked_s = 0.0
        self._ask_interval_s = STALL_S
        # Pictures are missing their references until the next keyframe: who joins asks for one.
        self._lost = True
        self.refusal: SightlineError | None = None
        self._take_over()
        self._decoder.start()

    def _take_over(self) -> None:
        receiver = self._receiver
        for name in ("decoder_queue", "timestamp_mapper", "jitter_buffer", "nack_generator"):
            if not hasattr(receiver, f"_RTCRtpReceiver__{name}"):
                raise InternalError(f"this version of aiortc has no {name}")
        self._buffer = PictureBuffer()
        self._tap = _PicturesTap(self._encoded)
        receiver._RTCRtpReceiver__decoder_queue = self._tap
        receiver._RTCRtpReceiver__jitter_buffer = self._buffer
        receiver._RTCRtpReceiver__timestamp_mapper = _TimestampMapper()
        self._handle_rtcp = receiver._handle_rtcp_packet
        receiver._handle_rtcp_packet = self._rtcp

    # --- from aiortc, on the event loop -------------------------------------------------------

    async def _rtcp(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpSrPacket):
            self._clock.report(packet.sender_info.ntp_timestamp, packet.sender_info.rtp_timestamp)
        await self._handle_rtcp(packet)

    def _encoded(self, codec: str, picture: Picture) -> None:
        """One encoded picture."""
        if picture.lost:
            self._decoder.require_keyframe()
            self.dropped("packet_lost", picture.lost)
        data = picture.data
        capture_ns, clock_source = self._clock.map(picture.timestamp, time.time_ns())
        framed, codec = codec in FRAMED, codec.lower()
        codec = DECODED_AS.get(codec, codec)
        if framed:
            try:
                data = picture_of(codec, data)
            except ValueError:
                self._decoder.require_keyframe()
                self.dropped("corrupt")
                return
        keyframe = is_keyframe(codec, data)
        try:
            if codec != self._codec:
                self._codec = codec
                self._decoder.configure(codec, b"")
            packet = EncodedPacket(data, capture_ns, keyframe, clock_source)
            if not self._decoder.submit(packet):
                self._lost = True
        except SightlineError as error:
            self.refusal = error

    # --- from the decoder, on its thread ------------------------------------------------------

    @property
    def budget(self) -> DecodeBudget:
        return self._sink.budget

    def take(self, picture: DecodedFrame) -> None:
        now_s = time.monotonic()
        self._interval_s += 0.1 * (min(1.0, now_s - self.picture_s) - self._interval_s)
        self.picture_s = now_s
        self._sink.take(picture)

    def encoded(self, codec: str, extradata: bytes, packet: EncodedPacket) -> bool:
        """On the event loop. Whoever watches may need a keyframe: `watch` asks for it."""
        wanted = self._sink.encoded(codec, extradata, packet)
        self._lost = self._lost or wanted
        return wanted

    def sound(self, sound: EncodedSound) -> None:
        self._sink.sound(sound)

    def dropped(self, reason: str, count: int = 1) -> None:
        self._lost = True
        self._sink.dropped(reason, count)

    def noted(self, what: str, count: int = 1) -> None:
        self._sink.noted(what, count)

    def ended(self, reason: str) -> None:
        self._sink.ended(reason)

    # --- looking after it ---------------------------------------------------------------------

    async def watch(self, idle_s: float, patience: Patience) -> str:
        """Ask for keyframes where they are needed; returns why when the video is over: "idle"
        after so long without a packet, or once `patience` with those that give no picture is over,
        or "error" for pictures of an absurd size."""
        began_s = time.monotonic()
        seen_s = self.picture_s
        while self.refusal is None:
            await asyncio.sleep(WATCH_S)
            now_s = time.monotonic()
            if now_s - max(self._buffer.heard_s, began_s) > idle_s:
                return "idle"
            if self.picture_s != seen_s:
                seen_s = self.picture_s
                patience.shown()
            elif patience.is_over:
                patience.tell()
                return "idle"
            sources = self._receiver.getSynchronizationSources()
            stalled = now_s - self.picture_s > max(STALL_S, 3 * self._interval_s)
            if not stalled and not self._lost:
                self._ask_interval_s = STALL_S
            elif sources and now_s - self._asked_s > self._ask_interval_s:
                self._asked_s = now_s
                self._ask_interval_s = min(MAX_PLI_INTERVAL_S, 1.5 * self._ask_interval_s)
                self._lost = False
                await self._ask_for_keyframe([source.source for source in sources])
            await self._look_after_hole()
        return "error"

    async def _look_after_hole(self) -> None:
        """Ask again for packets that hold up others: aiortc asks once, and both ways lose. What
        does not come in time is given up; the next keyframe makes it good."""
        if self._buffer.waited_s > HOLE_S:
            self._lost = True
            self._receiver._RTCRtpReceiver__nack_generator.missing.clear()
            self._tap.hand_on(self._buffer.give_up())
        elif self._buffer.waited_s >= WATCH_S:
            await self._receiver._send_rtcp_nack(self._buffer.ssrc, self._buffer.missing())

    async def close(self, reason: str) -> None:
        """The publisher has left: the last pictures, then the sink's `ended`."""
        flush = reason != "closed"
        await on_thread(lambda: self._decoder.close(flush=flush), name="close:whip")
        self._sink.ended(reason)
        # Nothing in a circle of references: the session could not be freed.
        self._tap.picture = None
        del self._receiver._handle_rtcp_packet, self._handle_rtcp

    async def _ask_for_keyframe(self, ssrcs: list[int]) -> None:
        """A picture loss indication to every stream of the sender: the one of retransmissions
        ignores it."""
        self._sink.noted("keyframe_requested")
        for ssrc in ssrcs:
            await self._receiver._send_rtcp_pli(ssrc)


class _JitterFrame(Protocol):
    data: bytes
    timestamp: int


class Tap:
    """Takes the place of a receiver's decoder queue. aiortc's own decoder thread gets nothing but
    the sign to end, so that joining it never holds up the event loop."""

    def __init__(self, encoded: Callable[[str, bytes, int], None]) -> None:
        self.encoded: Callable[[str, bytes, int], None] | None = encoded  # None: over
        self._over = threading.Event()

    def put(self, item: tuple[Any, _JitterFrame] | None) -> None:
        if item is None:
            self._over.set()
        elif self.encoded is not None:
            codec, frame = item
            self.encoded(codec.name, frame.data, frame.timestamp)

    def get(self) -> None:
        self._over.wait()


class _PicturesTap(Tap):
    """A tap of what a `PictureBuffer` gives out."""

    def __init__(self, picture: Callable[[str, Picture], None]) -> None:
        super().__init__(_nowhere)
        self.picture: Callable[[str, Picture], None] | None = picture  # None: over
        self._codec = ""

    def put(self, item: tuple[Any, Any] | None) -> None:
        if item is None:
            super().put(None)
            return
        codec, pictures = item
        self._codec = codec.name
        self.hand_on(pictures)

    def hand_on(self, pictures: Pictures | None) -> None:
        """Hand on what was given up as well as what came whole."""
        for picture in pictures.pictures if pictures is not None else ():
            if self.picture is not None:
                self.picture(self._codec, picture)


def _nowhere(codec: str, data: bytes, timestamp: int) -> None:
    """Pictures go another way."""


class _TimestampMapper:
    """Takes the place of a receiver's timestamp mapper, which would move the sender's timestamps to
    zero."""

    def map(self, timestamp: int) -> int:
        return timestamp
