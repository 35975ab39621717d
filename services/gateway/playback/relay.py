"""The video of a session that comes in at another gateway, for viewers of this one."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Generic, TypeVar

from services.common.backoff import Backoff
from services.common.tasks import spawn
from services.gateway import metrics
from services.gateway.playback.broadcast import dropped
from services.gateway.playback.gop import Gop
from services.gateway.playback.h264 import EncodedPicture
from services.gateway.playback.opus import OpusPacket
from services.gateway.playback.soundtrack import Listener
from services.gateway.playback.subscription import Subscription
from sightline.errors import SightlineError

log = logging.getLogger(__name__)

T = TypeVar("T")
Receive = Callable[[], AsyncGenerator[T, None]]

AGAIN_S = 0.2  # before a stream that broke off is asked for again; doubles …
MOST_S = 3.0  # … up to this
REPEAT_S = 1.0  # between two streams that are begun anew for a keyframe


class Relay:
    """Pictures and sound, each by one stream from the gateway that has them, shared by all viewers
    here, from the first to the last. A stream that breaks off is asked for again, at whichever
    gateway then has the session. A `Programme`."""

    def __init__(
        self, name: str, pictures: Receive[EncodedPicture], sounds: Receive[OpusPacket]
    ) -> None:
        """Both open a stream; they may raise SightlineError."""
        self.sound = RelayedSound(name, sounds)
        self._viewers: set[Subscription] = set()
        self._came: Gop[EncodedPicture] = Gop()
        self._stream = _Stream(f"{name}:relay", pictures, self._put)

    def join(self) -> Subscription:
        viewer = Subscription(dropped)
        if self._viewers:
            self.repeat(viewer)
        else:
            metrics.WHEP_RELAYS.inc()
        self._viewers.add(viewer)
        self._stream.settle(wanted=True)
        return viewer

    def repeat(self, viewer: Subscription) -> None:
        viewer.begin(self._came.items)
        if not self._came.items:  # too much came since the keyframe, or nothing yet
            self._stream.begin_anew()

    def leave(self, viewer: Subscription) -> None:
        viewer.close()
        if viewer not in self._viewers:
            return
        self._viewers.discard(viewer)
        if not self._viewers:
            metrics.WHEP_RELAYS.dec()
            self._stream.settle(wanted=False)
            self._came.clear()

    def _put(self, picture: EncodedPicture) -> None:
        self._came.add(picture, keyframe=picture.keyframe, num_bytes=picture.num_bytes)
        for viewer in self._viewers:
            viewer.put(picture)


class RelayedSound:
    """The sound of a `Relay`."""

    def __init__(self, name: str, sounds: Receive[OpusPacket]) -> None:
        self._listeners: set[Listener] = set()
        self._stream = _Stream(f"{name}:relay:sound", sounds, self._put)

    def join(self) -> Listener:
        listener = Listener(dropped)
        self._listeners.add(listener)
        self._stream.settle(wanted=True)
        return listener

    def leave(self, listener: Listener) -> None:
        listener.close()
        self._listeners.discard(listener)
        self._stream.settle(wanted=bool(self._listeners))

    def _put(self, packet: OpusPacket) -> None:
        for listener in self._listeners:
            listener.put(packet)


class _Stream(Generic[T]):
    """What comes from the other gateway, while it is wanted."""

    def __init__(self, name: str, receive: Receive[T], put: Callable[[T], None]) -> None:
        self._name = name
        self._receive = receive
        self._put = put
        self._task: asyncio.Task[None] | None = None
        self._began_s = 0.0

    def settle(self, *, wanted: bool) -> None:
        if wanted and self._task is None:
            self._began_s = time.monotonic()
            self._task = spawn(self._run(), name=self._name)
        elif not wanted and self._task is not None:
            self._task.cancel()
            self._task = None

    def begin_anew(self) -> None:
        """Whoever joins there gets a keyframe first."""
        if self._task is not None and time.monotonic() - self._began_s > REPEAT_S:
            self.settle(wanted=False)
            self.settle(wanted=True)

    async def _run(self) -> None:
        backoff = Backoff(AGAIN_S, MOST_S)
        while True:
            try:
                async with contextlib.aclosing(self._receive()) as items:
                    async for item in items:
                        backoff.reset()
                        self._put(item)
            except SightlineError as error:
                log.info("no video from another gateway", extra={"reason": error.message})
            await asyncio.sleep(backoff.next_s())
