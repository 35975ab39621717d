"""The one encoder of a session's sound, for all who listen."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import av
from av.audio.resampler import AudioResampler

from services.gateway.sources.sound import MAX_SOUND_BYTES, SOUND_DECODERS, EncodedSound

log = logging.getLogger(__name__)

HZ = 48_000  # of Opus in RTP, whatever was encoded (RFC 7587)
FRAME = 960  # samples: 20 ms
BITS_PER_S = 64_000
SECOND_NS = 1_000_000_000
MAX_WAITING = 512  # packets: of files, which are read before they are due
MAX_AHEAD_NS = 5 * SECOND_NS  # that a packet may have to wait until it is due
GAP = HZ // 10  # samples between where a packet lies and where it belongs, before it is moved there
OVERRUN, BROKEN = "sound_overrun", "sound_corrupt"  # why sound is not sent

OpusPacket = tuple[bytes, int]  # data, and its place in samples of HZ, which grows


class SoundEncoder:
    """A thread that makes Opus of packets of sound, at the time they are due; what is Opus already
    is passed on. `encoded` is called on the thread."""

    def __init__(
        self,
        encoded: Callable[[OpusPacket], None],
        dropped: Callable[[str, int], None],
        name: str,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._encoded = encoded
        self._dropped = dropped
        self._clock_ns = clock_ns
        self._waiting: deque[EncodedSound] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._timeline = Timeline()
        self._of: tuple[object, ...] = ()  # what the decoder was made for
        self._decoder: av.AudioCodecContext | None = None
        self._resampler: AudioResampler | None = None
        self._opus: av.AudioCodecContext | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, sound: EncodedSound) -> None:
        """Take a packet; never blocks."""
        with self._changed:
            if self._closing:
                return
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self._dropped(OVERRUN, 1)
            self._waiting.append(sound)
            self._changed.notify()

    def close(self) -> None:
        """End the thread soon, without waiting for it."""
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._encoded = _nobody  # no circle of references: the session must be freed
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    # --- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while (sound := self._next()) is not None:
            try:
                packets = self.encode(sound)
            except (av.FFmpegError, ValueError, MemoryError):  # one of many: the next is tried
                self._dropped(BROKEN, 1)
                self._of = ()
                continue
            for packet in packets:
                self._encoded(packet)

    def _next(self) -> EncodedSound | None:
        """The oldest packet, once it is due; None at the end."""
        with self._changed:
            while not self._closing:
                if not self._waiting:
                    self._changed.wait()
                    continue
                ahead_ns = self._waiting[0].capture_ns - self._clock_ns()
                if 0 < ahead_ns <= MAX_AHEAD_NS:
                    self._changed.wait(ahead_ns / SECOND_NS)
                    continue
                return self._waiting.popleft()
            return None

    def encode(self, sound: EncodedSound) -> list[OpusPacket]:
        """What listeners get of a packet. Raises av.FFmpegError and ValueError for a broken one."""
        if len(sound.data) > MAX_SOUND_BYTES:
            raise ValueError("a packet of sound that is too long")
        if is_forwardable(sound):
            place = self._timeline.place(sound.capture_ns, samples_of(sound.data))
            return [(sound.data, place)]
        packets = []
        capture_ns = sound.capture_ns
        for frame in self._decode(sound):
            for piece in self._resampled(frame):
                if self._opus is None:
                    self._opus = _encoder()
                piece.pts = None
                for packet in self._opus.encode(piece):
                    place = self._timeline.place(capture_ns, FRAME)
                    packets.append((bytes(packet), place))
                    capture_ns += FRAME * SECOND_NS // HZ
        return packets

    def _decode(self, sound: EncodedSound) -> list[av.AudioFrame]:
        of = (sound.codec, sound.extradata, sound.rate, sound.channels)
        if self._decoder is None or self._of != of:
            if sound.codec not in SOUND_DECODERS:
                raise ValueError(f"sound of an unknown codec {sound.codec}")
            decoder = av.CodecContext.create(SOUND_DECODERS[sound.codec], "r")
            assert isinstance(decoder, av.AudioCodecContext)
            decoder.thread_count = 1
            if sound.extradata:
                decoder.extradata = sound.extradata
            if sound.rate:
                decoder.sample_rate = sound.rate
            if sound.channels:
                decoder.layout = "mono" if sound.channels == 1 else "stereo"
            self._decoder, self._of, self._resampler = decoder, of, None
        unit: av.Packet[Any] = av.Packet(sound.data)
        return self._decoder.decode(unit)

    def _resampled(self, frame: av.AudioFrame) -> list[av.AudioFrame]:
        frame.pts = None
        for _ in range(2):
            if self._resampler is None:
                self._resampler = AudioResampler("s16", "stereo", HZ, FRAME)
            try:
                return self._resampler.resample(frame)
            except ValueError:  # its rate or its channels have changed
                self._resampler = None
        return []


class Timeline:
    """Places of packets that follow each other without a gap, unless their times leave one."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._shift = 0

    def place(self, capture_ns: int, num_samples: int) -> int:
        wanted = capture_ns * HZ // SECOND_NS + self._shift
        if self._next is None:
            self._next = wanted
        if wanted - self._next > GAP:  # a pause
            self._next = wanted
        elif self._next - wanted > GAP:  # another clock: what follows is laid behind
            self._shift += self._next - wanted
        place = self._next
        self._next += num_samples
        return place


def is_forwardable(sound: EncodedSound) -> bool:
    """Whether it is Opus of one or two channels, as browsers take it."""
    several = len(sound.extradata) > 18 and sound.extradata[18] != 0  # the mapping (RFC 7845)
    return sound.codec == "opus" and bool(sound.data) and not several


def samples_of(data: bytes) -> int:
    """Duration of a packet of Opus, in samples of HZ (RFC 6716, section 3.1)."""
    configuration = data[0] >> 3
    if configuration < 12:
        frame = (480, 960, 1920, 2880)[configuration & 3]
    elif configuration < 16:
        frame = (480, 960)[configuration & 1]
    else:
        frame = (120, 240, 480, 960)[configuration & 3]
    code = data[0] & 3
    if code == 3:
        return frame * (data[1] & 0x3F if len(data) > 1 else 0)
    return frame * (2 if code else 1)


def _nobody(packet: OpusPacket) -> None:
    pass


def _encoder() -> av.AudioCodecContext:
    context = av.CodecContext.create("libopus", "w")
    assert isinstance(context, av.AudioCodecContext)
    context.format, context.layout, context.sample_rate = "s16", "stereo", HZ
    context.bit_rate = BITS_PER_S
    context.thread_count = 1
    return context
