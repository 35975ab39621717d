"""A microphone that tests speak into, for WebRTC."""

import asyncio
import time
from fractions import Fraction

import av
import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

HZ, PACKET = 48_000, 960


class Microphone(MediaStreamTrack):
    """Silence, but while `loud`."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.loud = False
        self._number = 0
        self._begin_s = time.monotonic()

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        due_s = self._begin_s + self._number * PACKET / HZ
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        wave = np.sin(2 * np.pi * 440 * np.arange(PACKET) / HZ) * 12_000 * self.loud
        samples = wave.astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.time_base = HZ, Fraction(1, HZ)
        frame.pts = self._number * PACKET
        self._number += 1
        return frame
