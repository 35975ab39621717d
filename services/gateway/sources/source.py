"""Parts that every source of live video shares: the picture it delivers and whom it delivers to.

A source decodes on a thread of its own and hands each picture to a sink. Sources that wait for
publishers (RTMP, WHIP) ask a gate, given by their consumer, which sink a key opens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

import av

from services.gateway.sources.sound import EncodedSound
from sightline.errors import InvalidArgumentError

ClockSource = Literal["stream", "sender_report", "arrival"]

MAX_SIDE = 8192  # pixels
MAX_PIXELS = 40_000_000
MAX_ASPECT = 4  # of a pixel that an honest source has: anamorphic film has 2
MAX_AHEAD_NS = 86_400_000_000_000  # a capture time may be later than our clock by a day


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeBudget:
    """Bounds of what the decoder of one session may take. `decoder_bytes`: of the pictures that it
    keeps for others to refer to; `picture_s`: time of a processor for one packet. With more than
    one of `threads` each further one holds back a picture; `device` decodes where there is one."""

    decoder_bytes: int = 256 * 1024 * 1024
    picture_s: float = 2.0
    threads: int = 1
    device: str | None = None


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """One decoded picture before conversion, in whatever pixel format the source has.

    `capture_ns`: Unix ns; never decreases within one source. `clock_source` says where it comes
    from: "stream" (the media's own timestamps, laid onto wall clock), "sender_report" (the
    sender's wall clock, RTP), "arrival" (when it came, for lack of anything better). `aspect` of
    a pixel is its width to its height.
    """

    frame: av.VideoFrame
    capture_ns: int
    clock_source: ClockSource
    aspect: float = 1.0


@dataclass(frozen=True, slots=True)
class EncodedPacket:
    """One access unit. `capture_ns`: presentation time, Unix ns; need not grow from packet to
    packet (B-frames)."""

    data: bytes
    capture_ns: int
    keyframe: bool
    clock_source: ClockSource = "stream"


class FrameSink(Protocol):
    """Takes what a source delivers. Every method may be called on the source's decode thread."""

    @property
    def budget(self) -> DecodeBudget:
        """Budget of the decoder that feeds this sink."""
        ...

    def take(self, picture: DecodedFrame) -> None:
        """Take one picture. Must not block, except to push back on a lossless source.

        Raising InvalidArgumentError refuses the source: its publisher is cut off.
        """
        ...

    def encoded(self, codec: str, extradata: bytes, packet: EncodedPacket) -> bool:
        """Look at a live source's packet, before it is decoded: for viewers, who may get it as it
        came. May be called on the event loop. Says whether a keyframe is wanted soon."""
        ...

    def sound(self, sound: EncodedSound) -> None:
        """A packet of the sound that comes with a live or paced source, for whoever listens. Never
        blocks; may be called on the event loop."""
        ...

    def ended(self, reason: str) -> None:
        """The source is over: "end", "publisher_left", "idle", "error", "closed". Called once."""
        ...

    def dropped(self, reason: str, count: int = 1) -> None:
        """Pictures (or packets, which were pictures) were lost: "corrupt", "decoder_overrun", …"""
        ...

    def noted(self, what: str, count: int = 1) -> None:
        """Something worth counting that lost no picture: "non_monotonic", "audio_ignored", …"""
        ...


class PublisherGate(Protocol):
    """Decides who may publish. The consumer of the RTMP and the WHIP server gives one
    to each, so it knows by which road a publisher came.
    """

    async def check(self, key: str) -> None:
        """Raises UnauthenticatedError for a wrong key."""
        ...

    async def accept(
        self, key: str, peer: str, evict: Callable[[], None] | None = None
    ) -> FrameSink:
        """The sink that `key` opens; the key is taken until `released`.

        `peer` is "host:port"; `evict` ends its connection soon, should it fall silent and another
        come with its key. Raises UnauthenticatedError for a wrong key, AlreadyExistsError when
        somebody else is publishing with it.
        """
        ...

    def released(self, key: str) -> None:
        """The publisher accepted with `key` has left, its sink got `ended`. On the event loop."""
        ...


class Source(Protocol):
    """The verbs of every source. `aclose` may be called twice, and before `start`."""

    kind: str  # "file", "rtmp", "whip", "push"

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...


def aspect_of(*given: Fraction | None) -> float:
    """Aspect of pixels, of the first that says one which is no nonsense; else they are square."""
    for aspect in given:
        if aspect and 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
            return float(aspect)
    return 1.0


class BeyondLimitsError(InvalidArgumentError):
    """Video that is more than a session may take."""


class NoVideoError(InvalidArgumentError):
    """What came is no video, or none that is read here. The text says what, and not from where."""


def check_size(width: int, height: int) -> None:
    """Raise BeyondLimitsError for a picture that no honest source sends."""
    if width < 1 or height < 1:
        raise BeyondLimitsError(f"a picture of {width}x{height} pixels is empty")
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise BeyondLimitsError(
            f"a picture of {width}x{height} pixels is too large: at most {MAX_SIDE} a side "
            f"and {MAX_PIXELS // 1_000_000} megapixels"
        )
