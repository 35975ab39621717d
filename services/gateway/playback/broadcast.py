"""The outgoing video of one session, whoever watches it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable

from services.common.threads import on_thread
from services.gateway import metrics
from services.gateway.playback.gop import Gop
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

JOIN_S = 2.0  # that the end waits for the encoder


class Broadcast:
    """What viewers of one session get: its H.264 as it came where browsers can show that, otherwise
    one encoding for all of them, which lasts as long as there are any.

    What came since the last keyframe is kept, so that whoever joins sees a picture at once; without
    viewers it is not even looked into. Where that is too much to be kept, whoever joins gets the
    encoding until the next keyframe. `encoded` and `picture` may be called on any thread;
    everything else belongs to the event loop.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.sound = Soundtrack(name, loop, dropped)
        self._name = name
        self._loop = loop
        self._thread = threading.get_ident()
        self._viewers: set[Subscription] = set()
        self._bridged: set[Subscription] = set()  # those who wait for a keyframe to be forwarded
        self._lock = threading.Lock()  # guards the next two
        self._watched = False  # packets go to the event loop
        self._came: Gop[tuple[str, bytes, EncodedPacket]] = Gop()
        self._sent: Gop[EncodedPicture] = Gop()  # while there are viewers
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
        with self._lock:
            item = (codec, extradata, packet)
            self._came.add(item, keyframe=packet.keyframe, num_bytes=len(packet.data))
            watched = self._watched
        if watched:
            self._on_loop(self._encoded, *item)
        return self._wants_keyframe

    def picture(self, picture: DecodedFrame) -> None:
        """A decoded picture."""
        self._newest = picture
        transcoder = self._transcoder
        if transcoder is not None:
            transcoder.submit(picture)

    def restart(self) -> None:
        """Another source begins: nothing is known of it yet."""
        with self._lock:
            self._came.clear()
        self._extradata = None
        self._forward(False)
        self.sound.restart()

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
        viewer = Subscription(dropped)
        if self._closed:
            viewer.close()
            return viewer
        if not self._viewers:
            self._look()
        self._viewers.add(viewer)
        self._settle()
        self.repeat(viewer)
        return viewer

    def repeat(self, viewer: Subscription) -> None:
        """Begin again with the last keyframe, for a viewer who lost a picture or has none."""
        viewer.begin(self._sent.items)
        if self._sent.items:
            return
        self._wants_keyframe = True
        if self._forwards:
            self._bridged.add(viewer)
            self._settle()
        if self._transcoder is not None:
            self._transcoder.request_keyframe()

    def leave(self, viewer: Subscription) -> None:
        viewer.close()
        self._viewers.discard(viewer)
        self._bridged.discard(viewer)
        if not self._viewers:
            self._look_away()
        self._settle()

    async def aclose(self) -> None:
        """Send the viewers away and end the encoder."""
        self._closed = True
        await self.sound.aclose()
        for viewer in self._viewers:
            viewer.close()
        self._viewers.clear()
        self._bridged.clear()
        self._newest = None
        self._look_away()
        with self._lock:
            self._came.clear()
        self._settle()
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

    def _look(self) -> None:
        """The first viewer has come: see what there is since the last keyframe. What comes from
        now on comes by the event loop, behind it."""
        with self._lock:
            self._watched = True
            came = list(self._came.items)
        self._extradata = None
        self._forward(False)
        for codec, extradata, packet in came:
            self._encoded(codec, extradata, packet)

    def _look_away(self) -> None:
        """The last viewer has left."""
        with self._lock:
            self._watched = False
        self._wants_keyframe = False
        self._sent.clear()

    def _encoded(self, codec: str, extradata: bytes, packet: EncodedPacket) -> None:
        if not self._watched:  # it was on its way when the last viewer left
            return
        if self._extradata != (codec, extradata):
            self._extradata = (codec, extradata)
            if codec == "h264":
                self._length_bytes, self._sets = configuration_of(extradata)
            self._forward(codec == "h264" and is_forwardable(self._sets))
        if not self._forwards:
            return
        units = list(units_of(packet.data, self._length_bytes))
        if not is_forwardable(units):
            self._forward(False)
            return
        stamp = packet.capture_ns * RTP_HZ // SECOND_NS
        if units:
            self._put(
                EncodedPicture(units, self._sets, keyframe=packet.keyframe, stamp=stamp),
            )

    def _transcoded(self, transcoder: Transcoder, picture: EncodedPicture) -> None:
        if transcoder is not self._transcoder:
            return
        if not self._forwards:
            self._put(picture)
        for viewer in self._bridged:
            viewer.put(picture)

    def _put(self, picture: EncodedPicture) -> None:
        if picture.keyframe:
            self._wants_keyframe = False
            self._bridged.clear()
            self._settle()
        self._sent.add(picture, keyframe=picture.keyframe, num_bytes=picture.num_bytes)
        for viewer in self._viewers - self._bridged:
            viewer.put(picture)
            if viewer.needs_keyframe:
                self._wants_keyframe = True

    def _forward(self, forwards: bool) -> None:
        """From now on viewers get what comes, or the encoding."""
        if forwards != self._forwards:
            self._forwards = forwards
            self._sent.clear()
            self._bridged.clear()
        self._settle()

    def _settle(self) -> None:
        """Encode while somebody watches what cannot be forwarded, and only then."""
        wanted = bool(self._bridged) if self._forwards else bool(self._viewers)
        if wanted and self._transcoder is None:
            transcoder = Transcoder(
                lambda picture: self._on_loop(self._transcoded, transcoder, picture),
                dropped,
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
            metrics.WHEP_TRANSCODES.dec()


def dropped(reason: str, count: int) -> None:
    """So many pictures or packets are not sent to a viewer."""
    metrics.WHEP_DROPPED.labels(reason).inc(count)
