"""A viewer by WHEP for tests: aiortc on the other side."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Self

import av
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
    came, its width, its height)."""

    base: str
    pictures: list[tuple[float, int, int]] = field(default_factory=list)
    location: str = ""
    answer: str = ""
    ended: bool = False
    began_s: float = 0.0
    newest: av.VideoFrame | None = None

    async def __aenter__(self) -> Self:
        self.http = ClientSession()
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._task: asyncio.Task[None] | None = None
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.peer.close()
        if self._task is not None:
            await self._task
        await self.http.close()

    async def watch(self, session: str, *, connect: bool = True) -> None:
        """Offer, and take the answer. Raises RefusedError."""
        self.peer.addTransceiver("video", direction="recvonly")
        self.peer.on("track", self._take)
        await self.peer.setLocalDescription(await self.peer.createOffer())
        self.began_s = time.monotonic()
        offer = self.peer.localDescription.sdp
        url = f"{self.base}/whep/{session}"
        async with self.http.post(url, data=offer, headers=SDP) as response:
            text = await response.text()
            if response.status != 201:
                raise RefusedError(response.status, text)
            self.location, self.answer = response.headers["Location"], text
        if connect:
            await self.peer.setRemoteDescription(RTCSessionDescription(text, "answer"))

    @property
    def first_s(self) -> float:
        """From the offer to the first picture."""
        return self.pictures[0][0] - self.began_s

    def _take(self, track: MediaStreamTrack) -> None:
        self._task = asyncio.create_task(self._drain(track), name="watcher")

    async def _drain(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame = await track.recv()
                assert isinstance(frame, av.VideoFrame)
                self.newest = frame
                self.pictures.append((time.monotonic(), frame.width, frame.height))
        except MediaStreamError:
            self.ended = True
