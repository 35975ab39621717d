"""The outgoing sound of one session, whoever listens."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable

from services.common.threads import on_thread
from services.gateway import metrics
from services.gateway.playback.opus import OpusPacket, SoundEncoder
from services.gateway.sources.sound import EncodedSound

MAX_WAITING = 50  # packets that wait for one listener: a second
HEARD_S = 3.0  # without a packet, after which a source has no sound
JOIN_S = 2.0  # that the end waits for the encoder
SLOW = "slow_listener"


class Listener:
    """One listener's share: packets that wait to be sent. Belongs to the event loop."""

    def __init__(self, dropped: Callable[[str, int], None]) -> None:
        self._dropped = dropped
        self._waiting: deque[OpusPacket] = deque()
        self._ready = asyncio.Event()
        self.closed = False

    def put(self, packet: OpusPacket) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self._dropped(SLOW, 1)
        self._waiting.append(packet)
        self._ready.set()

    async def next(self) -> OpusPacket:
        """The next packet. Raises EOFError once the session is over."""
        while not self._waiting:
            if self.closed:
                raise EOFError
            self._ready.clear()
            await self._ready.wait()
        return self._waiting.popleft()

    def close(self) -> None:
        self.closed = True
        self._waiting.clear()
        self._ready.set()


class Soundtrack:
    """A session's sound as Opus, encoded once for all listeners and only while there are any.

    `take` may be called on any thread; everything else belongs to the event loop.
    """

    def __init__(
        self, name: str, loop: asyncio.AbstractEventLoop, dropped: Callable[[str, int], None]
    ) -> None:
        self._name = name
        self._loop = loop
        self._dropped = dropped
        self._listeners: set[Listener] = set()
        self._encoder: SoundEncoder | None = None
        self._ending: list[SoundEncoder] = []
        self._heard_s = float("-inf")
        self._closed = False

    @property
    def is_heard(self) -> bool:
        """Whether the source has had sound in the last seconds."""
        return time.monotonic() - self._heard_s < HEARD_S

    def take(self, sound: EncodedSound) -> None:
        """A packet of the source's."""
        self._heard_s = time.monotonic()
        encoder = self._encoder
        if encoder is not None:
            encoder.submit(sound)

    def restart(self) -> None:
        """Another source begins: nothing is known of it yet."""
        self._heard_s = float("-inf")

    def join(self) -> Listener:
        listener = Listener(self._dropped)
        if self._closed:
            listener.close()
            return listener
        self._listeners.add(listener)
        self._settle()
        return listener

    def leave(self, listener: Listener) -> None:
        listener.close()
        self._listeners.discard(listener)
        self._settle()

    async def aclose(self) -> None:
        """Send the listeners away and end the encoder."""
        self._closed = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._settle()
        for encoder in self._ending:
            await on_thread(lambda one=encoder: one.join(JOIN_S), name="close:sound")
        self._ending.clear()

    def _settle(self) -> None:
        if self._listeners and self._encoder is None:
            encoder = SoundEncoder(
                lambda packet: self._on_loop(encoder, packet),
                self._dropped,
                name=f"sound:{self._name}",
            )
            encoder.start()
            self._encoder = encoder
            metrics.WHEP_SOUNDTRACKS.inc()
        elif not self._listeners and self._encoder is not None:
            self._encoder.close()
            self._ending = [self._encoder]
            self._encoder = None
            metrics.WHEP_SOUNDTRACKS.dec()

    def _on_loop(self, encoder: SoundEncoder, packet: OpusPacket) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._put, encoder, packet)

    def _put(self, encoder: SoundEncoder, packet: OpusPacket) -> None:
        if encoder is self._encoder:
            for listener in self._listeners:
                listener.put(packet)
