"""A publisher: whoever brings a session's pictures, from its admission until it leaves."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from services.gateway.frames.picture_health import HealthLimits, PictureHealth
from services.gateway.frames.sampler import Sampler
from services.gateway.playback.broadcast import Broadcast
from services.gateway.sources.sound import EncodedSound
from services.gateway.sources.source import DecodeBudget, DecodedFrame, EncodedPacket, FrameSink
from sightline.errors import InvalidArgumentError


class Publisher:
    """Whoever publishes to a session now, made by `Session.admit`. It takes the pictures, and tells
    its session once that the publisher left, whichever of the source's end, `leave` and the end of
    a `with` comes first.

    `leave` belongs to the event loop; the sink's methods may be called on decode threads.
    """

    def __init__(
        self,
        kind: str,
        sampler: Sampler,
        broadcast: Broadcast,
        left: Callable[[str], None],
        limits: HealthLimits,
        evict: Callable[[], None] | None = None,
    ) -> None:
        """`left` hears the reason: "end", "publisher_left", "idle", "error", "closed"; `limits`
        are of healthy pictures. `evict` ends the publisher's connection soon."""
        self.kind = kind
        self.evict = evict
        self.admitted_s = time.monotonic()
        self.gone = asyncio.Event()  # set once it has left
        self.budget: DecodeBudget = sampler.budget
        self.health = PictureHealth(limits)
        self._sampler = sampler
        self._broadcast = broadcast
        self._left: Callable[[str], None] | None = left
        self._refused = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @property
    def sink(self) -> FrameSink:
        """Sink of the pictures. It refuses them once the session is deleted, which makes the
        publisher's connection end."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave("publisher_left")

    def leave(self, reason: str) -> None:
        """The publisher has left: the session may be published to again. Idempotent."""
        left, self._left = self._left, None
        self.gone.set()
        if left is not None:
            left(reason)

    def refuse(self) -> None:
        """The session is deleted: take no more pictures, tell it nothing."""
        self._refused = True
        self._left = None

    # --- the sink ---------------------------------------------------------------------------

    def take(self, picture: DecodedFrame) -> None:
        if self._refused:
            raise InvalidArgumentError("the session was deleted")
        self.health.look(picture.frame, picture.capture_ns)
        self._broadcast.picture(picture)
        self._sampler.take(picture)

    def encoded(self, codec: str, extradata: bytes, packet: EncodedPacket) -> bool:
        return not self._refused and self._broadcast.encoded(codec, extradata, packet)

    def sound(self, sound: EncodedSound) -> None:
        if not self._refused:
            self._broadcast.sound.take(sound)

    def ended(self, reason: str) -> None:
        if threading.get_ident() == self._thread:
            self.leave(reason)
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self.leave, reason)

    def dropped(self, reason: str, count: int = 1) -> None:
        self._sampler.dropped(reason, count)

    def noted(self, what: str, count: int = 1) -> None:
        self._sampler.noted(what, count)
