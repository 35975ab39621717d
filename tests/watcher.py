"""A viewer by WHEP for tests: aiortc on the other side."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Self

import av
import numpy as np
from aiohttp import ClientSession
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

SDP = {"Content-Type": "application/sdp"}


class RefusedError(Exception):
    """`status` and `body` of what was answered instead."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body


@dataclass
class Watcher:
    """`async with Watcher(base) as watcher: await watcher.watch(session)`; `pictures` are (when it
    came, its width, its height), `sounds` are samples of 48 kHz, left and right."""

    base: str
    pictures: list[tuple[float, int, int]] = field(default_factory=list)
    location: str = ""
    answer: str = ""
    ended: bool = False
    began_s: float = 0.0
    newest: av.VideoFrame | None = None
    num_keyframes: int = 0
    sounds: list[np.ndarray] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self.http = ClientSession()
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._tasks: list[asyncio.Task[None]] = []
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.peer.close()
        await asyncio.gather(*self._tasks)
        await self.http.close()

    async def watch(
        self, session: str, *, connect: bool = True, sound: bool = False, headers: Any = None
    ) -> None:
        """Offer, and take the answer. Raises RefusedError."""
        self.peer.addTransceiver("video", direction="recvonly")
        if sound:
            self.peer.addTransceiver("audio", direction="recvonly")
        self.peer.on("track", self._take)
        await self.peer.setLocalDescription(await self.peer.createOffer())
        self.began_s = time.monotonic()
        offer = self.peer.localDescription.sdp
        url = f"{self.base}/whep/{session}"
        async with self.http.post(url, data=offer, headers=SDP | (headers or {})) as response:
            text = await response.text()
            if response.status != 201:
                raise RefusedError(response.status, text)
            self.location, self.answer = response.headers["Location"], text
        if connect:
            await self.peer.setRemoteDescription(RTCSessionDescription(text, "answer"))

    async def ask_for_keyframe(self) -> None:
        """As a browser does that has lost a picture."""
        receiver: Any = self.peer.getReceivers()[0]
        for source in receiver.getSynchronizationSources():
            await receiver._send_rtcp_pli(source.source)

    @property
    def first_s(self) -> float:
        """From the offer to the first picture."""
        return self.pictures[0][0] - self.began_s

    def _take(self, track: MediaStreamTrack) -> None:
        self._tasks.append(asyncio.create_task(self._drain(track), name="watcher"))

    async def _drain(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame = await track.recv()
                if isinstance(frame, av.AudioFrame):
                    self.sounds.append(frame.to_ndarray().reshape(-1, 2))
                    continue
                assert isinstance(frame, av.VideoFrame)
                self.newest = frame
                self.num_keyframes += bool(frame.key_frame)
                self.pictures.append((time.monotonic(), frame.width, frame.height))
        except MediaStreamError:
            self.ended = True
