"""The outgoing video of one session, whoever watches it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable

from services.common.threads import on_thread
from services.gateway import metrics
from services.gateway.playback.h264 import (
    EncodedPicture,
    configuration_of,
    is_forwardable,
    units_of,
)
from services.gateway.playback.soundtrack import Soundtrack
from services.gateway.playback.subscription import Subscription
from services.gateway.playback.transcoder import RTP_HZ, SECOND_NS, Transcoder
from services.gateway.sources.source import DecodedFrame, EncodedPacket

MAX_CACHED_PICTURES = 300
MAX_CACHED_BYTES = 4 * 1024 * 1024
JOIN_S = 2.0  # that the end waits for the encoder


class Broadcast:
    """What viewers of one session get: its H.264 as it came where browsers can show that, otherwise
    one encoding for all of them, which lasts as long as there are any.

    The pictures since the last keyframe are kept, so that whoever joins sees one at once. `encoded`
    and `picture` may be called on any thread; everything else belongs to the event loop.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.sound = Soundtrack(name, loop, _dropped)
        self._name = name
        self._loop = loop
        self._thread = threading.get_ident()
        self._viewers: set[Subscription] = set()
        self._cache: list[EncodedPicture] = []
        self._cached_bytes = 0
        self._extradata: tuple[str, bytes] | None = None
        self._length_bytes = 0
        self._sets: list[bytes] = []
        self._forwards = False  # what comes can be forwarded, as far as is known
        self._newest: DecodedFrame | None = None
        self._transcoder: Transcoder | None = None
        self._ending: list[Transcoder] = []
        self._wants_keyframe = False
        self._closed = False

    # --- from the source --------------------------------------------------------------------

    def encoded(self, codec: str, extradata: bytes, packet: EncodedPacket) -> bool:
        """A packet of the source's, before it is decoded. Says whether somebody waits for a
        keyframe, which some sources can ask for."""
        self._on_loop(self._encoded, codec, extradata, packet)
        return self._wants_keyframe

    def picture(self, picture: DecodedFrame) -> None:
        """A decoded picture."""
        self._newest = picture
        transcoder = self._transcoder
        if transcoder is not None:
            transcoder.submit(picture)

    def restart(self) -> None:
        """Another source begins: nothing is known of it yet."""
        self._extradata = None
        self._forwards = False
        self.sound.restart()
        self._settle()

    # --- for viewers ------------------------------------------------------------------------

    @property
    def num_viewers(self) -> int:
        return len(self._viewers)

    @property
    def forwards(self) -> bool:
        """Whether viewers get the video as it came."""
        return self._forwards

    def join(self) -> Subscription:
        """A new viewer, who is given the pictures since the last keyframe."""
        viewer = Subscription(_dropped)
        if self._closed:
            viewer.close()
            return viewer
        self._viewers.add(viewer)
        self._settle()
        self.repeat(viewer)
        return viewer

    def repeat(self, viewer: Subscription) -> None:
        """Begin again with the last keyframe, for a viewer who lost a picture or has none."""
        viewer.begin(self._cache)
        if not self._cache:
            self._wants_keyframe = True
            if self._transcoder is not None:
                self._transcoder.request_keyframe()

    def leave(self, viewer: Subscription) -> None:
        viewer.close()
        self._viewers.discard(viewer)
        self._settle()

    async def aclose(self) -> None:
        """Send the viewers away and end the encoder."""
        self._closed = True
        await self.sound.aclose()
        for viewer in self._viewers:
            viewer.close()
        self._viewers.clear()
        self._newest = None
        self._settle()
        self._forget()
        for transcoder in self._ending:
            await on_thread(lambda one=transcoder: one.join(JOIN_S), name="close:transcoder")
        self._ending.clear()

    # --- on the event loop ------------------------------------------------------------------

    def _on_loop(self, call: Callable[..., None], *args: object) -> None:
        if threading.get_ident() == self._thread:
            call(*args)
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody watches
            self._loop.call_soon_threadsafe(call, *args)

    def _encoded(self, codec: str, extradata: bytes, packet: EncodedPacket) -> None:
        if self._closed:
            return
        if self._extradata != (codec, extradata):
            self._extradata = (codec, extradata)
            self._forwards = codec == "h264"
            if self._forwards:
                self._length_bytes, self._sets = configuration_of(extradata)
                self._forwards = is_forwardable(self._sets)
            self._settle()
        if not self._forwards:
            return
        units = list(units_of(packet.data, self._length_bytes))
        if not is_forwardable(units):
            self._forwards = False
            self._settle()
            return
        stamp = packet.capture_ns * RTP_HZ // SECOND_NS
        if units:
            self._put(
                EncodedPicture(units, self._sets, keyframe=packet.keyframe, stamp=stamp),
            )

    def _transcoded(self, transcoder: Transcoder, picture: EncodedPicture) -> None:
        if transcoder is self._transcoder:
            self._put(picture)

    def _put(self, picture: EncodedPicture) -> None:
        if picture.keyframe:
            self._cache, self._cached_bytes = [], 0
            self._wants_keyframe = False
        if picture.keyframe or self._cache:
            self._cache.append(picture)
            self._cached_bytes += picture.num_bytes
            if len(self._cache) > MAX_CACHED_PICTURES or self._cached_bytes > MAX_CACHED_BYTES:
                self._forget()
        for viewer in self._viewers:
            viewer.put(picture)
            if viewer.needs_keyframe:
                self._wants_keyframe = True

    def _forget(self) -> None:
        self._cache, self._cached_bytes = [], 0

    def _settle(self) -> None:
        """Encode while somebody watches what cannot be forwarded, and only then."""
        wanted = bool(self._viewers) and not self._forwards
        if wanted and self._transcoder is None:
            self._forget()
            transcoder = Transcoder(
                lambda picture: self._on_loop(self._transcoded, transcoder, picture),
                _dropped,
                name=f"transcode:{self._name}",
            )
            transcoder.start()
            self._transcoder = transcoder
            if self._newest is not None:
                transcoder.submit(self._newest)
            metrics.WHEP_TRANSCODES.inc()
        elif not wanted and self._transcoder is not None:
            self._transcoder.close()
            self._ending = [self._transcoder]
            self._transcoder = None
            self._forget()
            metrics.WHEP_TRANSCODES.dec()


def _dropped(reason: str, count: int) -> None:
    metrics.WHEP_DROPPED.labels(reason).inc(count)
