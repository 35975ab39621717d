"""Mouth of a call: what is spoken to its client, as packets of Opus, at the pace at which it is
played."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np

HZ = 24_000  # of the speech that comes
RTP_HZ = 48_000  # of Opus in RTP (RFC 7587)
PACKET_S = 0.02
PACKET_BYTES = round(HZ * PACKET_S) * 2
PACKET_STAMPS = round(RTP_HZ * PACKET_S)
AHEAD_S = 0.06  # sent before it is due, so that a busy moment is not heard
MAX_WAITING_S = 600.0  # of speech; what is beyond is not spoken
# Speech needs no more, and takes a third of the time that music does.
_OPTIONS = {"application": "voip", "frame_duration": "20", "compression_level": "3"}
STARTED, STOPPED, CLEARED = "started", "stopped", "cleared"


@dataclass(slots=True)
class _Speech:
    """Speech of one item of a response. `whole`: there is no more to come."""

    response: str
    item: str
    pcm: bytearray = field(default_factory=bytearray)
    whole: bool = False
    num_sent: int = 0  # packets


@dataclass(frozen=True, slots=True)
class Heard:
    """How much was heard of what was spoken when it was cut off."""

    response: str
    item: str
    ms: int


class Mouth:
    """Speech that waits to be played. `tell` hears that a response's sound has `STARTED`,
    `STOPPED` or was `CLEARED`, with the response's id. Belongs to the event loop."""

    def __init__(
        self, tell: Callable[[str, str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._waiting: deque[_Speech] = deque()
        self._num_bytes = 0
        self._response = ""  # whose sound is playing
        self._changed = asyncio.Event()
        self._encoder: Any = None
        self._begin_s = clock()
        self._due_s = 0.0  # of the next packet, since the beginning
        self._paused = False
        self._ended_s = float("-inf")  # when something was played last
        self._closed = False

    def quiet_s(self) -> float:
        """Since when nothing is played; 0 while something is."""
        return 0.0 if self._response else self._clock() - self._ended_s

    def pause(self) -> None:
        """Be silent until it is told to `resume`, and keep what waits."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._changed.set()

    def say(self, response: str, item: str, pcm: bytes) -> None:
        """Speak more of an item: PCM of HZ."""
        if self._num_bytes > MAX_WAITING_S * HZ * 2:
            return
        if not self._waiting or self._waiting[-1].item != item:
            self._waiting.append(_Speech(response, item))
        self._waiting[-1].pcm += pcm
        self._num_bytes += len(pcm)
        self._changed.set()

    def end(self, response: str) -> None:
        """No more comes of a response."""
        for speech in self._waiting:
            if speech.response == response:
                speech.whole = True
        self._changed.set()

    def clear(self) -> Heard | None:
        """Be silent at once and forget what waits. What was cut off; None: nothing was playing."""
        self._paused = False
        if not self._response:
            self._forget()
            return None
        speech = self._waiting[0] if self._waiting else None
        heard = Heard(self._response, "", 0)
        if speech is not None:
            late_s = max(0.0, self._begin_s + self._due_s - self._clock())
            heard_s = max(0.0, speech.num_sent * PACKET_S - late_s)
            heard = Heard(self._response, speech.item, round(1000 * heard_s))
        self._forget()
        self._over(CLEARED)
        return heard

    def close(self) -> None:
        self._closed = True
        self._forget()

    async def next(self) -> tuple[bytes, int]:
        """The next packet when it is due, and its RTP time. Raises EOFError at the end."""
        while True:
            if self._closed:
                raise EOFError
            self._changed.clear()
            packet = None if self._paused else self._packet()
            if packet is None:
                await self._changed.wait()
                continue
            now_s = self._clock() - self._begin_s
            if self._due_s < now_s:  # after a silence, or late: what follows is due now
                self._due_s = now_s
            stamp = round(self._due_s * RTP_HZ)
            self._due_s += PACKET_S
            wait_s = self._due_s - AHEAD_S - now_s
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            return packet, stamp

    def _packet(self) -> bytes | None:
        """The next one that is whole; None where there is none."""
        while self._waiting:
            speech = self._waiting[0]
            if len(speech.pcm) < PACKET_BYTES and not speech.whole:
                if len(self._waiting) == 1:
                    return None
                speech.whole = True  # another item follows
            if not speech.pcm:
                self._waiting.popleft()
                if not any(each.response == speech.response for each in self._waiting):
                    self._over(STOPPED)
                continue
            pcm = bytes(speech.pcm[:PACKET_BYTES])
            del speech.pcm[:PACKET_BYTES]
            self._num_bytes -= len(pcm)
            speech.num_sent += 1
            if self._response != speech.response:
                self._over(STOPPED)
                self._response = speech.response
                self._tell(STARTED, speech.response)
            return self._encoded(pcm.ljust(PACKET_BYTES, b"\0"))
        return None

    def _encoded(self, pcm: bytes) -> bytes:
        if self._encoder is None:
            self._encoder = av.CodecContext.create("libopus", "w")
            self._encoder.format, self._encoder.layout = "s16", "mono"
            self._encoder.sample_rate, self._encoder.time_base = HZ, Fraction(1, HZ)
            self._encoder.bit_rate = 32_000
            self._encoder.options = _OPTIONS
        samples = np.frombuffer(pcm, np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = HZ
        return b"".join(bytes(packet) for packet in self._encoder.encode(frame))

    def _forget(self) -> None:
        self._waiting.clear()
        self._num_bytes = 0
        self._changed.set()

    def _over(self, how: str) -> None:
        response, self._response = self._response, ""
        if response:
            self._ended_s = self._clock()
            self._tell(how, response)
