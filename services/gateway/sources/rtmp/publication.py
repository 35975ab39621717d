"""One published stream: FLV payloads into the decoder that feeds its sink."""

from services.gateway.sources.clock import ArrivalClock
from services.gateway.sources.decoder import EncodedPacket, PacketDecoder
from services.gateway.sources.rtmp import RtmpError, messages
from services.gateway.sources.rtmp.chunks import Message
from services.gateway.sources.rtmp.flv import parse_audio, parse_video
from services.gateway.sources.source import FrameSink
from services.gateway.sources.timestamps import TimestampUnwrapper

CLOSE_TIMEOUT_S = 5.0
MS_NS = 1_000_000


class Publication:
    """One publication, from the gate's yes until the publisher leaves. Times on the wire are
    milliseconds."""

    def __init__(self, key: str, sink: FrameSink, peer: str) -> None:
        self.key = key
        self._sink = sink
        self._clock = ArrivalClock()
        self._timestamps = TimestampUnwrapper()  # 32 bits of milliseconds wrap after 49.7 days
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

    def close(self, reason: str) -> None:
        """Blocks until the decoder has ended. Not on the event loop."""
        self._decoder.close(flush=reason != "closed", timeout_s=CLOSE_TIMEOUT_S)
        self._sink.ended(reason)

    def _video(self, message: Message, arrival_ns: int) -> None:
        tag = parse_video(message.payload)
        if tag.kind == "header":
            # VP9's header is no extradata: its decoder wants none.
            extradata = b"" if tag.codec in ("vp9", "vp8") else tag.data
            self._decoder.configure(tag.codec, extradata)
        elif tag.kind == "frame":
            dts_ms = self._timestamps.unwrap(message.timestamp_ms)
            pts_ns = (dts_ms + tag.composition_ms) * MS_NS
            capture_ns, clock_source = self._clock.map(pts_ns, arrival_ns)
            packet = EncodedPacket(tag.data, capture_ns, tag.keyframe, clock_source)
            self._decoder.submit(packet)

    def _audio(self, message: Message) -> None:
        """The place where a listener would take AAC frames from; nobody listens yet."""
        if parse_audio(message.payload).kind == "frame":
            self._sink.noted("audio_ignored")
