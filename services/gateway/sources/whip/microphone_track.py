"""Microphone in a WebRTC connection: its packets of sound, as PCM for an ear."""

import asyncio
import contextlib
from collections.abc import Callable

from aiortc import RTCRtpReceiver

from services.common.resampling import HEARD_RATE
from services.common.tasks import NewestQueue, QueueClosed
from services.gateway.sources.heard_sound import SAMPLE_BYTES, HeardSound
from services.gateway.sources.sound import EncodedSound
from services.gateway.sources.whip.sound import SoundPublication

MAX_WAITING = 50  # packets
QUIET_S = 0.2  # without a packet, after which there is silence
SILENCE_S = 4.0  # that is heard of it: any turn is over then


Hear = Callable[[bytes, int], None]  # PCM, and its samples a second


class MicrophoneTrack:
    """What one receiver hears, until `close`; `run` feeds it to `hear`. Made before ICE starts. One
    event loop.

    receiver: None for packets that are handed over by whoever has them, with `sound`.
    """

    def __init__(self, receiver: RTCRtpReceiver | None, hear: Hear) -> None:
        self._hear = hear
        self._packets: NewestQueue[EncodedSound] = NewestQueue(MAX_WAITING)
        self._decoder = HeardSound()
        self._publication: SoundPublication | None = None
        if receiver is not None:
            self._publication = SoundPublication(receiver, self)

    async def run(self) -> None:
        """Hear until `close`. Raises what `hear` does."""
        silent_s = SILENCE_S
        with contextlib.suppress(QueueClosed):
            while True:
                try:
                    async with asyncio.timeout(QUIET_S):
                        sound = await self._packets.get()
                except TimeoutError:
                    if silent_s < SILENCE_S:  # a microphone that stops says nothing of it
                        silent_s += QUIET_S
                        self._hear(bytes(round(QUIET_S * HEARD_RATE) * SAMPLE_BYTES), HEARD_RATE)
                    continue
                silent_s = 0.0
                if pcm := self._decoder.pcm(sound):
                    self._hear(pcm, HEARD_RATE)

    def close(self) -> None:
        if self._publication is not None:
            self._publication.close()
            self._publication = None
        self._packets.close()

    # --- in the place of a session's sink ---------------------------------------------------

    def sound(self, sound: EncodedSound) -> None:
        self._packets.put_nowait(sound)

    def noted(self, what: str, count: int = 1) -> None:
        """Sound of a codec that nobody asked for."""
