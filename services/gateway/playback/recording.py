"""The last minutes of one session, kept to be looked at again."""

import asyncio
import contextlib
import io
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av

from services.common.tasks import cancel_and_wait, spawn
from services.common.threads import on_thread
from services.gateway import metrics
from services.gateway.playback.broadcast import Broadcast
from services.gateway.playback.h264 import EncodedPicture
from services.gateway.playback.opus import HZ, OpusPacket
from services.gateway.playback.soundtrack import Listener
from services.gateway.playback.subscription import Subscription
from services.gateway.playback.transcoder import RTP_HZ
from sightline.errors import NotFoundError

MAX_GOP_BYTES = 16 * 1024 * 1024  # of a piece; a longer one is cut off
FRAGMENTED = {"movflags": "frag_keyframe+delay_moov+default_base_moof"}


@dataclass(slots=True)
class Piece:
    """What came from one keyframe to the next. Times are seconds since 1970."""

    pictures: list[EncodedPicture] = field(default_factory=list)
    sounds: list[OpusPacket] = field(default_factory=list)
    num_bytes: int = 0

    @property
    def start_s(self) -> float:
        return self.pictures[0].stamp / RTP_HZ

    @property
    def end_s(self) -> float:
        return self.pictures[-1].stamp / RTP_HZ


@dataclass(frozen=True, slots=True)
class Clip:
    """A fragmented MP4, and when its first and last picture were taken, in seconds since 1970."""

    data: bytes
    start_s: float
    end_s: float


class Recording:
    """A ring of the last pieces, bounded by seconds and bytes; it watches the session as a viewer
    does, from `start` to `aclose`, which forgets everything. Belongs to the event loop."""

    def __init__(self, name: str, broadcast: Broadcast, *, seconds: float, max_bytes: int) -> None:
        self._name = name
        self._broadcast = broadcast
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._pieces: deque[Piece] = deque()
        self._num_bytes = 0
        self._video: Subscription | None = None
        self._audio: Listener | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._video = self._broadcast.join()
        self._audio = self._broadcast.sound.join()
        self._tasks = [
            spawn(self._see(self._video), name=f"{self._name}:record"),
            spawn(self._listen(self._audio), name=f"{self._name}:record:sound"),
        ]

    async def aclose(self) -> None:
        if self._video is not None:
            self._broadcast.leave(self._video)
        if self._audio is not None:
            self._broadcast.sound.leave(self._audio)
        await cancel_and_wait(*self._tasks)
        self._tasks.clear()
        self._pieces.clear()
        self._grown(-self._num_bytes)

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def newest_s(self) -> float:
        """When the newest picture was taken; 0 before the first."""
        return self._pieces[-1].end_s if self._pieces else 0.0

    async def clip(self, from_s: float, until_s: float) -> Clip:
        """What was seen and heard in that time, from the keyframe before it. Raises NotFoundError
        where nothing of it is kept."""
        found = [
            piece for piece in self._pieces if piece.end_s >= from_s and piece.start_s <= until_s
        ]
        # One file has one set of parameters: of several, the newest.
        alike = list(
            itertools.takewhile(
                lambda piece: piece.pictures[0].sets == found[-1].pictures[0].sets, reversed(found)
            )
        )
        pictures = [one for piece in reversed(alike) for one in piece.pictures]
        pictures = [one for one in pictures if one.stamp <= until_s * RTP_HZ]
        if not pictures:
            raise NotFoundError("nothing of that time is recorded")
        start_s, end_s = pictures[0].stamp / RTP_HZ, pictures[-1].stamp / RTP_HZ
        sounds = [one for piece in self._pieces for one in piece.sounds]
        sounds = [one for one in sounds if start_s <= one[1] / HZ <= end_s]
        data = await on_thread(mux, pictures, sounds, name="recording")
        return Clip(data, start_s, end_s)

    async def _see(self, video: Subscription) -> None:
        with contextlib.suppress(EOFError):
            while True:
                picture, _ = await video.next()
                self._add(picture)

    async def _listen(self, audio: Listener) -> None:
        with contextlib.suppress(EOFError):
            while True:
                packet = await audio.next()
                if self._pieces:
                    self._pieces[-1].sounds.append(packet)
                    self._grown(len(packet[0]), self._pieces[-1])

    def _add(self, picture: EncodedPicture) -> None:
        if picture.keyframe:
            self._pieces.append(Piece())
        elif not self._pieces or self._pieces[-1].num_bytes > MAX_GOP_BYTES:
            return
        self._pieces[-1].pictures.append(picture)
        self._grown(picture.num_bytes, self._pieces[-1])
        newest_s = self._pieces[-1].end_s
        while len(self._pieces) > 1 and (
            self._num_bytes > self._max_bytes
            or self._pieces[1].start_s < newest_s - self._seconds
            or self._pieces[0].end_s > newest_s  # by another clock
        ):
            self._grown(-self._pieces.popleft().num_bytes)

    def _grown(self, num_bytes: int, piece: Piece | None = None) -> None:
        self._num_bytes += num_bytes
        metrics.RECORDED_BYTES.inc(num_bytes)
        if piece is not None:
            piece.num_bytes += num_bytes


def mux(pictures: Sequence[EncodedPicture], sounds: Sequence[OpusPacket]) -> bytes:
    """A fragmented MP4 of them, beginning with a keyframe. Blocks."""
    output = io.BytesIO()
    with (
        av.open(io.BytesIO(pictures[0].annex_b), "r", format="h264") as head,
        av.open(output, "w", format="mp4", options=FRAGMENTED) as container,
    ):
        video = container.add_stream_from_template(head.streams.video[0])
        audio = container.add_stream("libopus", rate=HZ, layout="stereo") if sounds else None
        timed: list[tuple[float, av.Packet[Any]]] = []
        first, last = pictures[0].stamp, -1
        for picture in pictures:
            last = max(last + 1, picture.stamp - first)
            packet: av.Packet[Any] = av.Packet(picture.annex_b)
            packet.stream, packet.time_base = video, Fraction(1, RTP_HZ)
            packet.pts = packet.dts = last
            packet.is_keyframe = picture.keyframe
            timed.append((last / RTP_HZ, packet))
        first, last = first * HZ // RTP_HZ, -1
        for data, place in sounds:
            last = max(last + 1, place - first)
            packet = av.Packet(data)
            assert audio is not None
            packet.stream, packet.time_base = audio, Fraction(1, HZ)
            packet.pts = packet.dts = last
            packet.is_keyframe = True
            timed.append((last / HZ, packet))
        for _, packet in sorted(timed, key=lambda item: item[0]):
            container.mux(packet)
    return output.getvalue()
