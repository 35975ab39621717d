"""What tests of video sources share: a sink that remembers, a gate with one key, small clips."""

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from services.gateway.frames.sampler import Sampler
from services.gateway.sources.sound import EncodedSound
from services.gateway.sources.source import DecodeBudget, DecodedFrame, EncodedPacket
from sightline.errors import AlreadyExistsError, UnauthenticatedError

START_NS = 1_790_000_000_000_000_000
KEY = "right-key"


@dataclass(frozen=True)
class Seen:
    """A picture that came, and when."""

    capture_ns: int
    clock_source: str
    width: int
    height: int
    at_ns: int


@dataclass
class RecordingSink:
    """Remembers everything; `wait_for` blocks a plain thread or `asyncio.to_thread`."""

    pictures: list[Seen] = field(default_factory=list)
    sounds: list[EncodedSound] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    newest: DecodedFrame | None = None
    budget: DecodeBudget = field(default_factory=DecodeBudget)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, picture: DecodedFrame) -> None:
        frame = picture.frame
        seen = Seen(
            picture.capture_ns, picture.clock_source, frame.width, frame.height, time.time_ns()
        )
        with self._changed:
            self.newest = picture
            self.pictures.append(seen)
            self._changed.notify_all()

    def encoded(self, codec: str, extradata: bytes, packet: EncodedPacket) -> bool:
        return False

    def sound(self, sound: EncodedSound) -> None:
        with self._changed:
            self.sounds.append(sound)
            self._changed.notify_all()

    def ended(self, reason: str) -> None:
        with self._changed:
            self.reasons.append(reason)
            self._changed.notify_all()

    def dropped(self, reason: str, count: int = 1) -> None:
        with self._changed:
            self.drops[reason] += count
            self._changed.notify_all()

    def noted(self, what: str, count: int = 1) -> None:
        with self._changed:
            self.notes[what] += count
            self._changed.notify_all()

    def wait_for_pictures(self, count: int, timeout_s: float = 20) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.pictures) >= count, timeout_s), (
                f"{len(self.pictures)} of {count} pictures; {self.drops} {self.reasons}"
            )

    def wait_for_note(self, what: str, count: int, timeout_s: float = 20) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.notes[what] >= count, timeout_s), self.notes

    def wait_for_end(self, timeout_s: float = 20) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self.reasons), timeout_s), (
                f"no end after {len(self.pictures)} pictures; {self.drops}"
            )


class Ring(Sampler):
    """A sampler that a source feeds by itself. `over` is set when the source has ended."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.over = threading.Event()

    def encoded(self, codec: str, extradata: bytes, packet: EncodedPacket) -> bool:
        return False

    def sound(self, sound: EncodedSound) -> None:
        pass

    def ended(self, reason: str) -> None:
        self.over.set()


@dataclass
class OneKeyGate:
    """Lets one publisher with the right key in at a time; each gets a sink of its own."""

    key: str = KEY
    sinks: list[RecordingSink] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)
    released_keys: list[str] = field(default_factory=list)
    busy: bool = False
    evict: Callable[[], None] | None = None

    async def check(self, key: str) -> None:
        if key != self.key:
            raise UnauthenticatedError("no session has this key")

    async def accept(
        self, key: str, peer: str, evict: Callable[[], None] | None = None
    ) -> RecordingSink:
        await self.check(key)
        self.evict = evict
        if self.busy:
            raise AlreadyExistsError("somebody else is publishing with this key")
        self.busy = True
        self.peers.append(peer)
        self.sinks.append(RecordingSink())
        return self.sinks[-1]

    def released(self, key: str) -> None:
        self.busy = False
        self.released_keys.append(key)


@dataclass(frozen=True)
class Clip:
    """Encoded pictures: (data, presentation index, keyframe), in decoding order."""

    codec: str
    extradata: bytes
    packets: list[tuple[bytes, int, bool]]


def picture_array(index: int, width: int, height: int) -> np.ndarray:
    """A square that moves over a gradient: no two pictures are alike, all compress well."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)
    image[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    image[..., 2] = 64
    side, left = height // 4, index * 4 % max(1, width - height // 4)
    image[side : 2 * side, left : left + side] = (255, 255, 0)
    return image


def encode_clip(
    codec: str = "libx264",
    *,
    num_pictures: int = 30,
    width: int = 160,
    height: int = 120,
    fps: int = 15,
    gop: int = 15,
    b_frames: int = 0,
    global_header: bool = False,
) -> Clip:
    """A short clip straight from an encoder, Annex B unless `global_header`."""
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, fps), Fraction(fps)
    encoder.gop_size, encoder.max_b_frames = gop, b_frames
    if codec == "libx264":
        encoder.options = {"preset": "veryfast", "threads": "1", "x264-params": "log-level=none"}
    elif codec == "libx265":
        encoder.options = {
            "preset": "ultrafast",
            "x265-params": f"log-level=none:bframes={b_frames}:pools=1",
        }
    if global_header:
        encoder.flags |= av.codec.context.Flags.global_header
    packets = []
    for index in range(num_pictures):
        frame = av.VideoFrame.from_ndarray(picture_array(index, width, height), format="rgb24")
        frame = frame.reformat(format=encoder.pix_fmt, threads=1)
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    _rest_of_realtime(codec)
    units = [(bytes(packet), packet.pts, packet.is_keyframe) for packet in packets]
    return Clip(codec, encoder.extradata or b"", units)


def _rest_of_realtime(codec: str) -> None:
    """Undo what SVT-AV1 does as root: it gives the whole process, and all that it starts, real-time
    priority, above everything else on the machine."""
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


TONE_RATE, TONE_HZ = 44_100, 441


def tone(start: int, num_samples: int) -> av.AudioFrame:
    """A piece of a tone, from that sample on."""
    wave = np.sin(2 * np.pi * TONE_HZ / TONE_RATE * np.arange(start, start + num_samples))
    frame = av.AudioFrame.from_ndarray(
        (wave * 16_000).astype(np.int16)[None], format="s16", layout="mono"
    )
    frame.sample_rate, frame.pts = TONE_RATE, start
    return frame


def write_clip(
    path: Path, codec: str = "libx264", *, seconds: float = 2.0, fps: int = 15, **options: int
) -> Path:
    """The same as a playable file; `tone=1`: with the sound of a tone."""
    width, height = options.get("width", 160), options.get("height", 120)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = options.get("gop", fps)
        stream.codec_context.max_b_frames = options.get("b_frames", 0)
        stream.options = {
            "libx264": {"preset": "veryfast", "x264-params": "log-level=none"},
            "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"},
        }.get(codec, {})
        sound = container.add_stream("aac", rate=TONE_RATE) if options.get("tone") else None
        for index in range(round(seconds * fps)):
            image = picture_array(index, width, height)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            if sound is not None:
                start, end = (round(place * TONE_RATE / fps) for place in (index, index + 1))
                container.mux(sound.encode(tone(start, end - start)))
        container.mux(stream.encode())
        if sound is not None:
            container.mux(sound.encode())
    _rest_of_realtime(codec)
    return path
