"""The way from packets to pictures: a PyAV codec context, and the thread that feeds it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import av
from av.codec.context import Flags

from services.gateway.sources import hardware
from services.gateway.sources.clock import REWIND_NS
from services.gateway.sources.decode_guard import DecodeGuard
from services.gateway.sources.hardware import accelerator, use_threads
from services.gateway.sources.source import (
    MAX_PIXELS,
    MAX_SIDE,
    BeyondLimitsError,
    ClockSource,
    DecodedFrame,
    EncodedPacket,
    FrameSink,
    aspect_of,
    check_size,
)
from sightline.errors import InvalidArgumentError

log = logging.getLogger(__name__)

DECODERS = {
    "h264": "h264",
    "hevc": "hevc",
    "av1": "libdav1d",  # libavcodec's own "av1" needs hardware
    "vp9": "vp9",
    "vp8": "vp8",
    "mjpeg": "mjpeg",
}
MAX_QUEUED_PACKETS = 256
MAX_QUEUED_BYTES = 32 * 1024 * 1024
OVERRUN, NO_KEYFRAME = "decoder_overrun", "no_keyframe"  # why packets are dropped
MAX_LATE_S = 2.0  # packets that wait longer are late; after as long of nothing but late ones, drop


class FrameOutlet:
    """The last step of every decoder: refuses absurd sizes, keeps capture times from decreasing."""

    def __init__(self, sink: FrameSink) -> None:
        self.sink = sink
        self.delivered_s: float | None = None  # time.monotonic() of the newest picture
        self._last_ns = self._offset_ns = 0

    def deliver(
        self,
        frame: av.VideoFrame,
        capture_ns: int,
        clock_source: ClockSource,
        aspect: float = 1.0,
    ) -> None:
        """Hand one picture on. Raises InvalidArgumentError for an absurd size, which is counted,
        or when the sink wants no more."""
        try:
            check_size(frame.width, frame.height)
        except InvalidArgumentError:
            self.sink.dropped("absurd_size")
            raise
        capture_ns += self._offset_ns
        if capture_ns < self._last_ns:
            self.sink.noted("non_monotonic")
            if self._last_ns - capture_ns > REWIND_NS:  # a clock was set back: time goes on
                self._offset_ns += self._last_ns - capture_ns
            capture_ns = self._last_ns
        self._last_ns = capture_ns
        self.delivered_s = time.monotonic()
        self.sink.take(DecodedFrame(frame, capture_ns, clock_source, aspect))


class BitstreamDecoder:
    """One codec context. Not thread-safe: one thread calls `decode` and `flush`.

    `extradata`: avcC, hvcC or av1C where packets are length-prefixed; empty for Annex B.
    Raises InvalidArgumentError for an unknown codec or unusable extradata.
    """

    def __init__(self, outlet: FrameOutlet, codec: str, extradata: bytes = b"") -> None:
        if codec not in DECODERS:
            known = ", ".join(sorted(DECODERS))
            raise InvalidArgumentError(f"unknown codec {codec!r}; known are {known}")
        self._outlet = outlet
        self._codec = codec
        budget = outlet.sink.budget
        device = accelerator(budget.device)
        name = DECODERS[codec] if device is None else hardware.DECODERS.get(codec, DECODERS[codec])
        context = av.CodecContext.create(name, "r", hwaccel=device)
        if device is not None and not context.is_hwaccel:  # a codec that the device does not know
            context = av.CodecContext.create(DECODERS[codec], "r")
        assert isinstance(context, av.VideoCodecContext)
        self._context = context
        use_threads(context, budget.threads)
        # Refused before its buffers are allocated.
        self._context.options = {"max_pixels": str(MAX_PIXELS)}
        if codec == "av1":
            self._context.flags |= Flags.low_delay  # dav1d would hold frames back
        # Raises InvalidArgumentError for extradata that announce too much.
        self._guard = DecodeGuard(budget, codec, extradata)
        if extradata:
            self._context.extradata = extradata
        try:
            self._context.open()
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise InvalidArgumentError(f"unusable {codec} extradata") from error

    def decode(self, packet: EncodedPacket) -> int:
        """Decode one packet and deliver what comes out of it; returns how many pictures.

        A broken bitstream is counted ("corrupt") and gives none. Raises InvalidArgumentError for
        pictures of an absurd size, counted "absurd_size", and for those that are beyond the sink's
        budget, counted "over_budget".
        """
        if not packet.data or not self._within_budget(packet.data):
            self._outlet.sink.dropped("corrupt")
            return 0
        unit: av.Packet[Any] = av.Packet(packet.data)
        unit.pts = packet.capture_ns
        unit.is_keyframe = packet.keyframe
        return self._decode(unit, packet.capture_ns, packet.clock_source)

    def flush(self, clock_source: ClockSource = "stream") -> int:
        """Deliver the pictures held back for reordering. The decoder is done after it."""
        return self._decode(None, 0, clock_source)

    def _decode(self, unit: "av.Packet[Any] | None", fallback_ns: int, clock: ClockSource) -> int:
        sink = self._outlet.sink
        try:
            with self._guard.work():
                frames = self._context.decode(unit)
        except InvalidArgumentError:
            sink.dropped("over_budget")
            raise
        except EOFError:  # nothing in this packet that the decoder knows
            sink.dropped("corrupt")
            return 0
        except (av.FFmpegError, MemoryError, ValueError) as error:
            if self._is_absurd(error):
                sink.dropped("absurd_size")
                raise InvalidArgumentError(
                    f"the {self._codec} stream has pictures larger than {MAX_SIDE} pixels a side "
                    f"or {MAX_PIXELS // 1_000_000} megapixels"
                ) from error
            sink.dropped("corrupt")
            return 0
        if self._codec == "vp9":  # layers of one picture, the last of which is the finest
            frames = frames[-1:]
        for frame in frames:
            self._guard.picture(frame)
            capture_ns = frame.pts if frame.pts is not None else fallback_ns
            aspect = aspect_of(self._context.sample_aspect_ratio)
            self._outlet.deliver(frame, capture_ns, clock, aspect)
        return len(frames)

    def _within_budget(self, data: bytes) -> bool:
        try:
            return self._guard.packet(data)
        except InvalidArgumentError:
            self._outlet.sink.dropped("over_budget")
            raise

    def _is_absurd(self, error: Exception) -> bool:
        """Whether `max_pixels` made the decoder refuse, for which libavcodec has no own error."""
        width, height = self._context.width, self._context.height
        if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
            return True
        return isinstance(error, av.error.ArgumentError | MemoryError)


class PacketDecoder:
    """A thread that decodes a live source's packets, with a bounded queue in front.

    `submit` never blocks. When the queue is full, or decoding stays behind, packets are dropped
    until the next keyframe, which also takes the place of whatever still waits; every one is
    counted "decoder_overrun". A mere pause loses nothing: decoding catches up in no time. After an
    absurd size `submit` raises.
    """

    def __init__(
        self,
        sink: FrameSink,
        codec: str | None = None,
        extradata: bytes = b"",
        *,
        name: str = "decoder",
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._outlet = FrameOutlet(sink)
        self._decoder = BitstreamDecoder(self._outlet, codec, extradata) if codec else None
        self._clock_s = clock_s
        self._items: deque[tuple[float, EncodedPacket | tuple[str, bytes]]] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._late_since_s: float | None = None
        self._until_keyframe = ""  # why packets are dropped until one comes
        self._configured = (codec, extradata)
        self._closing = False
        self._flush = False
        self._refusal: InvalidArgumentError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def delivered_s(self) -> float | None:
        """Time at which the newest picture came out, of time.monotonic(); None before the first."""
        return self._outlet.delivered_s

    def configure(self, codec: str, extradata: bytes) -> None:
        """Packets submitted from now on are of this codec (a sequence header). One that is sent
        again as it was changes nothing; after another one, packets are dropped until a keyframe,
        counted "no_keyframe".

        Raises InvalidArgumentError for an unknown codec.
        """
        if codec not in DECODERS:
            raise InvalidArgumentError(f"unknown codec {codec!r}")
        with self._changed:
            if (codec, extradata) == self._configured:
                return
            if self._configured[0]:
                self._until_keyframe = self._until_keyframe or NO_KEYFRAME
            self._configured = (codec, extradata)
            self._items.append((self._clock_s(), (codec, extradata)))
            self._changed.notify()

    def submit(self, packet: EncodedPacket) -> bool:
        """Queue one packet; False when it was dropped. The sink is shown it before.

        Raises InvalidArgumentError once the stream turned out to be absurd.
        """
        codec, extradata = self._configured
        if codec and self._refusal is None:
            self._sink.encoded(codec, extradata, packet)
        with self._changed:
            if self._refusal is not None:
                raise self._refusal
            if self._closing:
                return False
            now = self._clock_s()
            if packet.keyframe:
                if self._until_keyframe == OVERRUN or self._is_full(packet, now):
                    self._discard_waiting(now)
                self._until_keyframe = ""
            elif self._until_keyframe or self._is_full(packet, now):
                self._until_keyframe = self._until_keyframe or OVERRUN
                self._sink.dropped(self._until_keyframe)
                return False
            self._items.append((now, packet))
            self._queued_bytes += len(packet.data)
            self._changed.notify()
        return True

    def require_keyframe(self) -> None:
        """Drop packets until the next keyframe, counted "no_keyframe": the caller knows that some
        are missing."""
        with self._changed:
            self._until_keyframe = self._until_keyframe or NO_KEYFRAME

    def close(self, *, flush: bool = False, timeout_s: float = 5.0) -> bool:
        """End the thread and wait for it; False when it did not end in time. Not on the event loop.

        `flush`: decode what is queued and what the decoder holds back, instead of dropping it.
        """
        with self._changed:
            self._closing = True
            self._flush = self._flush or flush
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _is_full(self, packet: EncodedPacket, now: float) -> bool:
        return bool(self._items) and (
            len(self._items) >= MAX_QUEUED_PACKETS
            or self._queued_bytes + len(packet.data) > MAX_QUEUED_BYTES
            or (self._late_since_s is not None and now - self._late_since_s > MAX_LATE_S)
        )

    def _discard_waiting(self, now: float) -> None:
        """Everything but the newest configuration, which the next keyframe needs."""
        configuration = None
        num_packets = 0
        for item in self._items:
            if isinstance(item[1], EncodedPacket):
                num_packets += 1
            else:
                configuration = item[1]
        self._items.clear()
        self._queued_bytes = 0
        self._late_since_s = None
        if configuration is not None:
            self._items.append((now, configuration))
        if num_packets:
            self._sink.dropped(OVERRUN, num_packets)

    def _next(self) -> EncodedPacket | tuple[str, bytes] | None:
        with self._changed:
            while not self._items and not self._closing:
                self._changed.wait()
            if not self._items or (self._closing and not self._flush):
                return None
            queued_s, item = self._items.popleft()
            now = self._clock_s()
            if now - queued_s <= MAX_LATE_S:
                self._late_since_s = None
            elif self._late_since_s is None:
                self._late_since_s = now
            if isinstance(item, EncodedPacket):
                self._queued_bytes -= len(item.data)
            return item

    def _run(self) -> None:
        while (item := self._next()) is not None:
            try:
                if isinstance(item, EncodedPacket):
                    if self._decoder is None:
                        self._sink.dropped("no_sequence_header")
                    else:
                        self._decoder.decode(item)
                else:
                    self._reconfigure(*item)
            except InvalidArgumentError as error:
                self._refuse(error)
                return
            except Exception:  # a defect in the sink must not end the stream
                log.exception("a picture could not be delivered")
                self._sink.dropped("internal")
        if self._flush and self._decoder is not None:
            try:
                self._decoder.flush()
            except InvalidArgumentError as error:
                self._refuse(error)

    def _reconfigure(self, codec: str, extradata: bytes) -> None:
        if self._decoder is not None:
            self._decoder.flush()
            self._decoder = None
        try:
            self._decoder = BitstreamDecoder(self._outlet, codec, extradata)
        except BeyondLimitsError:
            self._sink.dropped("over_budget")
            raise
        except InvalidArgumentError:
            self._sink.dropped("corrupt")

    def _refuse(self, error: InvalidArgumentError) -> None:
        with self._changed:
            self._refusal = error
            self._items.clear()
            self._queued_bytes = 0
