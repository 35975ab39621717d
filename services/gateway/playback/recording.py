"""The last minutes of one session, kept to be looked at again."""

import asyncio
import contextlib
import heapq
import io
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av

from services.common.tasks import cancel_and_wait, spawn
from services.common.threads import Lane
from services.gateway import metrics
from services.gateway.playback.broadcast import Broadcast
from services.gateway.playback.h264 import EncodedPicture
from services.gateway.playback.hls import PLAYLIST, Segment, part_of, playlist, split
from services.gateway.playback.opus import HZ, OpusPacket
from services.gateway.playback.soundtrack import Listener
from services.gateway.playback.subscription import Subscription
from services.gateway.playback.transcoder import RTP_HZ
from sightline.errors import NotFoundError, ResourceExhaustedError

MAX_GOP_BYTES = 16 * 1024 * 1024  # of a piece; a longer one is cut off
FRAGMENTED = {"movflags": "frag_keyframe+delay_moov+default_base_moof"}
# Of a longer video: times stay as they are, instead of beginning at zero.
SEGMENT = {
    "movflags": FRAGMENTED["movflags"] + "+frag_discont",
    "use_editlist": "0",
    "avoid_negative_ts": "disabled",
}


@dataclass(slots=True)
class Piece:
    """What came from one keyframe to the next. Times are seconds since 1970."""

    number: int
    pictures: list[EncodedPicture] = field(default_factory=list)
    sounds: list[OpusPacket] = field(default_factory=list)
    num_bytes: int = 0

    @property
    def start_s(self) -> float:
        return self.pictures[0].stamp / RTP_HZ

    @property
    def end_s(self) -> float:
        return self.pictures[-1].stamp / RTP_HZ

    def is_alike(self, other: "Piece") -> bool:
        """Whether both play with the same head."""
        sets = self.pictures[0].sets == other.pictures[0].sets
        return sets and bool(self.sounds) == bool(other.sounds)


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
        self._num_pieces = 0  # that there have been
        self._zero = 0  # stamp of the first picture ever
        self._video: Subscription | None = None
        self._audio: Listener | None = None
        self._tasks: list[asyncio.Task[None]] = []
        # Files are made one after the other: each takes its own size in memory once more.
        self._making = Lane(f"{name}:recording")

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
        self._making.close()
        self._pieces.clear()
        self._grown(-self._num_bytes)

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def newest_s(self) -> float:
        """When the newest picture was taken; 0 before the first."""
        return self._pieces[-1].end_s if self._pieces else 0.0

    async def clip(self, from_s: float, until_s: float, most_bytes: int | None = None) -> Clip:
        """What was seen and heard in that time, from the keyframe before it. Raises NotFoundError
        where nothing of it is kept, ResourceExhaustedError where it is more than `most_bytes`."""
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
        if most_bytes is not None and sum(one.num_bytes for one in pictures) > most_bytes:
            raise ResourceExhaustedError(f"that time has more than {most_bytes} bytes")
        start_s, end_s = pictures[0].stamp / RTP_HZ, pictures[-1].stamp / RTP_HZ
        sounds = [one for piece in self._pieces for one in piece.sounds]
        sounds = [one for one in sounds if start_s <= one[1] / HZ <= end_s]
        data = await self._making.run(mux, pictures, sounds)
        return Clip(data, start_s, end_s)

    async def hls(self, name: str) -> bytes:
        """The playlist, or one of the files that it names. Raises NotFoundError."""
        if name == PLAYLIST:
            return playlist(self._segments()).encode()
        part = part_of(name)
        # The newest piece is still growing.
        found = [one for one in list(self._pieces)[:-1] if part and one.number == part[0]]
        if part is None or not found:
            raise NotFoundError("no such part of the recording")
        piece = found[0]
        data = await self._making.run(mux, piece.pictures, piece.sounds, self._zero)
        head, fragments = split(data)
        return head if part[1] else fragments

    def _segments(self) -> list[Segment]:
        segments: list[Segment] = []
        before: Piece | None = None
        for piece, following in itertools.pairwise(self._pieces):
            head = segments[-1].head if segments else piece.number
            if before is not None and not before.is_alike(piece):
                head = piece.number
            length_s = max(0.001, following.start_s - piece.start_s)
            segments.append(Segment(piece.number, head, piece.start_s, length_s))
            before = piece
        return segments

    async def _see(self, video: Subscription) -> None:
        with contextlib.suppress(EOFError):
            while True:
                picture, _ = await video.next()
                self._add(picture.alone())

    async def _listen(self, audio: Listener) -> None:
        with contextlib.suppress(EOFError):
            while True:
                packet = await audio.next()
                if self._pieces:
                    self._pieces[-1].sounds.append(packet)
                    self._grown(len(packet[0]), self._pieces[-1])

    def _add(self, picture: EncodedPicture) -> None:
        if picture.keyframe:
            self._zero = self._zero or picture.stamp
            self._pieces.append(Piece(self._num_pieces))
            self._num_pieces += 1
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


def mux(
    pictures: Sequence[EncodedPicture], sounds: Sequence[OpusPacket], zero: int | None = None
) -> bytes:
    """A fragmented MP4 of them, beginning with a keyframe. `zero`: the stamp that its times count
    from; None: that of the first picture. Blocks."""
    output = io.BytesIO()
    options = FRAGMENTED if zero is None else SEGMENT
    with (
        av.open(io.BytesIO(pictures[0].annex_b), "r", format="h264") as head,
        av.open(output, "w", format="mp4", options=options) as container,
    ):
        video = container.add_stream_from_template(head.streams.video[0])
        video.time_base = Fraction(1, RTP_HZ)
        audio = container.add_stream("libopus", rate=HZ, layout="stereo") if sounds else None
        timed = [_timed_pictures(pictures, video, zero)]
        if audio is not None:
            timed.append(_timed_sounds(sounds, audio, pictures[0].stamp if zero is None else zero))
        for _, packet in heapq.merge(*timed, key=lambda item: item[0]):
            container.mux(packet)
    return output.getvalue()


Timed = Iterator[tuple[float, "av.Packet[Any]"]]  # made one by one: together they are a copy


def _timed_pictures(pictures: Sequence[EncodedPicture], video: Any, zero: int | None) -> Timed:
    first, last = pictures[0].stamp if zero is None else zero, -1
    for picture in pictures:
        last = max(last + 1, picture.stamp - first)
        packet: av.Packet[Any] = av.Packet(picture.annex_b)
        packet.stream, packet.time_base = video, Fraction(1, RTP_HZ)
        packet.pts = packet.dts = last
        packet.is_keyframe = picture.keyframe
        yield last / RTP_HZ, packet


def _timed_sounds(sounds: Sequence[OpusPacket], audio: Any, zero: int) -> Timed:
    first, last = zero * HZ // RTP_HZ, -1
    for data, place in sounds:
        last = max(last + 1, place - first)
        packet: av.Packet[Any] = av.Packet(data)
        packet.stream, packet.time_base = audio, Fraction(1, HZ)
        packet.pts = packet.dts = last
        packet.is_keyframe = True
        yield last / HZ, packet
