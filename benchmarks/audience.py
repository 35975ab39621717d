"""Many viewers by WHEP in one light process, who take packets and decode nothing.

`python -m benchmarks.audience URL NUM SECONDS [--sound] [--every S]` lets so many join, one after
the other, counts for so long what all of them get, and prints a `Seen` of each as JSON.
"""

import argparse
import asyncio
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import ClientSession
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from services.gateway.sources.bitstream import is_keyframe
from services.gateway.sources.whip.publication import Tap

MEASURED_S = 1.0  # that the process stays, so that what it used can be read
HEADERS = {"Content-Type": "application/sdp"}


@dataclass(slots=True)
class Seen:
    """What one viewer got. `first_ms`: from the offer to the last packet of the first picture, a
    keyframe; None: none came."""

    first_ms: float | None = None
    pictures: int = 0  # in the seconds that are counted
    sounds: int = 0


class Spectator:
    """One of them."""

    def __init__(self, sound: bool) -> None:
        self.seen = Seen()
        self.counts = False
        self._sound = sound
        self._began_s = 0.0
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))

    async def join(self, http: ClientSession, url: str) -> None:
        receivers: list[Any] = [
            self._peer.addTransceiver(kind, direction="recvonly").receiver
            for kind in (("video", "audio") if self._sound else ("video",))
        ]
        receivers[0]._RTCRtpReceiver__decoder_queue = Tap(self._picture)
        for receiver in receivers[1:]:
            receiver._RTCRtpReceiver__decoder_queue = Tap(self._heard)
        await self._peer.setLocalDescription(await self._peer.createOffer())
        self._began_s = time.monotonic()
        offer = self._peer.localDescription.sdp
        async with http.post(url, data=offer, headers=HEADERS) as response:
            response.raise_for_status()
            answer = RTCSessionDescription(await response.text(), "answer")
        await self._peer.setRemoteDescription(answer)

    def _picture(self, codec: str, data: bytes, timestamp: int) -> None:
        if self.seen.first_ms is None and is_keyframe(codec.lower(), data):
            self.seen.first_ms = 1000 * (time.monotonic() - self._began_s)
        self.seen.pictures += self.counts

    def _heard(self, codec: str, data: bytes, timestamp: int) -> None:
        self.seen.sounds += self.counts

    async def leave(self) -> None:
        await self._peer.close()


async def watch(url: str, num: int, seconds: float, every_s: float, sound: bool) -> list[Seen]:
    spectators = [Spectator(sound) for _ in range(num)]
    async with ClientSession() as http:
        for spectator in spectators:
            await spectator.join(http, url)
            await asyncio.sleep(every_s)
        print("joined", flush=True)
        for spectator in spectators:
            spectator.counts = True
        await asyncio.sleep(seconds)
        for spectator in spectators:
            spectator.counts = False
        print("counted", flush=True)
        await asyncio.sleep(MEASURED_S)
        await asyncio.gather(*(spectator.leave() for spectator in spectators))
    return [spectator.seen for spectator in spectators]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audience", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("num", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--sound", action="store_true")
    parser.add_argument("--every", type=float, default=0.05)
    given = parser.parse_args()
    seen = asyncio.run(watch(given.url, given.num, given.seconds, given.every, given.sound))
    print(json.dumps([asdict(each) for each in seen]))


if __name__ == "__main__":
    main()
