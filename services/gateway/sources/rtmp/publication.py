"""One published stream: FLV payloads into the decoder that feeds its sink."""

import contextlib
import time
from dataclasses import replace

from services.gateway.sources.bitstream import continues_picture, length_bytes_of
from services.gateway.sources.clock import ArrivalClock
from services.gateway.sources.decoder import PacketDecoder
from services.gateway.sources.rtmp import RtmpError, messages
from services.gateway.sources.rtmp.chunks import Message
from services.gateway.sources.rtmp.flv import parse_audio, parse_video
from services.gateway.sources.sound import EncodedSound
from services.gateway.sources.source import EncodedPacket, FrameSink
from services.gateway.sources.timestamps import TimestampUnwrapper
from sightline.errors import InvalidArgumentError

CLOSE_TIMEOUT_S = 5.0
MAX_PICTURE_BYTES = 16 * 1024 * 1024  # of one that comes in parts
MS_NS = 1_000_000


class Publication:
    """One publication, from the gate's yes until the publisher leaves. Times on the wire are
    milliseconds."""

    def __init__(self, key: str, sink: FrameSink, peer: str) -> None:
        self.key = key
        self._sink = sink
        self._clock = ArrivalClock()
        self._timestamps = TimestampUnwrapper()  # 32 bits of milliseconds wrap after 49.7 days
        self._length_bytes = 4
        self._last: EncodedPacket | None = None  # a picture of which more may come
        self._last_s = 0.0
        # Whether a picture comes as several messages, of a slice each; None: nobody knows yet.
        self._in_parts: bool | None = None
        self._began_s = time.monotonic()
        self._packets = self._sounds = 0
        self._sound_header: tuple[str, bytes] = ("", b"")
        self._decoder = PacketDecoder(sink, name=f"rtmp:{peer}")
        self._decoder.start()

    def media(self, message: Message, arrival_ns: int) -> None:
        """Audio, video or an aggregate of both. Raises RtmpError, InvalidArgumentError."""
        if message.type_id == messages.AGGREGATE:
            for part in messages.parse_aggregate(message):
                if part.type_id != messages.AGGREGATE:
                    self.media(part, arrival_ns)
        elif message.type_id == messages.VIDEO:
            self._video(message, arrival_ns)
        elif message.type_id == messages.AUDIO:
            self._audio(message)

    def metadata(self, message: Message) -> None:
        try:
            if messages.parse_metadata(message) is not None:
                self._sink.noted("metadata")
        except RtmpError:  # decoration: the stream goes on without it
            self._sink.noted("bad_metadata")

    def settle(self, pause_s: float) -> None:
        """Take a picture for whole of which no part came for so long."""
        if self._last is not None and time.monotonic() - self._last_s >= pause_s:
            self._finish_picture()
            self._in_parts = bool(self._in_parts)

    def overdue(self, first_s: float, next_s: float) -> str:
        """Why the publisher is waited for no longer; "" while it is. `first_s`: to its first
        picture; `next_s`: from one to the next."""
        now_s, newest_s = time.monotonic(), self._decoder.delivered_s
        if newest_s is not None:
            return f"no picture for {next_s:g} seconds" if now_s - newest_s > next_s else ""
        if now_s - self._began_s <= first_s:
            return ""
        if not self._packets:
            came = "only sound" if self._sounds else "nothing"
            return f"no video in the first {first_s:g} seconds: {came} came"
        return f"no picture could be decoded in the first {first_s:g} seconds"

    def close(self, reason: str) -> None:
        """Blocks until the decoder has ended. Not on the event loop."""
        with contextlib.suppress(InvalidArgumentError):
            self._finish_picture()
        self._decoder.close(flush=reason != "closed", timeout_s=CLOSE_TIMEOUT_S)
        self._sink.ended(reason)

    def _video(self, message: Message, arrival_ns: int) -> None:
        tag = parse_video(message.payload)
        if tag.kind == "header":
            # VP9's header is no extradata: its decoder wants none.
            extradata = b"" if tag.codec in ("vp9", "vp8") else tag.data
            self._finish_picture()
            self._length_bytes = length_bytes_of(tag.codec, extradata)
            self._decoder.configure(tag.codec, extradata)
        elif tag.kind == "frame":
            self._packets += 1
            dts_ms = self._timestamps.unwrap(message.timestamp_ms)
            pts_ns = (dts_ms + tag.composition_ms) * MS_NS
            capture_ns, clock_source = self._clock.map(pts_ns, arrival_ns)
            packet = EncodedPacket(tag.data, capture_ns, tag.keyframe, clock_source)
            self._picture(packet, continues_picture(tag.codec, tag.data, self._length_bytes))

    def _picture(self, packet: EncodedPacket, continues: bool) -> None:
        """Decode a picture when it is whole. That of a publisher who sends its slices one by one is
        whole when the next one begins, so that it comes a frame later; others wait once, with
        their first, which may be one of several parts."""
        last = self._last
        if continues and last is not None and len(last.data) < MAX_PICTURE_BYTES:
            self._last = replace(last, data=last.data + packet.data)
            self._last_s = time.monotonic()
            if not self._in_parts:
                self._in_parts = True
                self._sink.noted("picture_in_parts")
            return
        self.settle(0.0)
        if self._in_parts is False:
            self._decoder.submit(packet)
        else:
            self._last, self._last_s = packet, time.monotonic()

    def _finish_picture(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            self._decoder.submit(last)

    def _audio(self, message: Message) -> None:
        """Sound, on the clock of the pictures. What comes before the first one is not heard."""
        tag = parse_audio(message.payload)
        if tag.kind == "header":
            self._sound_header = (tag.codec, tag.data)
        elif tag.kind == "frame":
            self._sounds += 1
            codec, header = self._sound_header
            extradata = header if codec == tag.codec else b""
            stamp_ns = self._timestamps.near(message.timestamp_ms) * MS_NS
            capture_ns = self._clock.lay(stamp_ns)
            if capture_ns is not None:
                self._sink.sound(
                    EncodedSound(tag.codec, tag.data, capture_ns, extradata, tag.rate, tag.channels)
                )
        else:
            self._sink.noted("audio_ignored")
