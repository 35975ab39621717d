"""Many browsers in one light process: a clip by WHIP to every URL, looped, in real time.

`python -m benchmarks.browsers CLIP URL…` publishes until SIGTERM, then prints how many pictures
each sent, as JSON. Pictures are encoded once and packed once for all.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import av
from aiohttp import ClientSession
from aioice import ice
from aiortc import (
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
    VideoStreamTrack,
)
from aiortc.rtcrtpsender import RTCEncodedFrame

from benchmarks.audience import HEADERS
from services.gateway.playback.h264 import configuration_of, packetise, units_of

RTP_HZ = 90_000
TICKS = 3000  # of 30 pictures a second
# aioice hangs up when six answers in a row take longer than half a second; browsers are patient.
ice.CONSENT_FAILURES = 1000


class Browser:
    """A WHIP publisher. `sent`: pictures until now."""

    def __init__(self, pictures: list[list[bytes]], delay_s: float) -> None:
        self.sent = 0
        self._pictures = pictures
        self._delay_s = delay_s
        self._began_s = 0.0
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))

    async def publish(self, http: ClientSession, url: str) -> None:
        video = self._peer.addTransceiver(VideoStreamTrack(), direction="sendonly")
        known = RTCRtpSender.getCapabilities("video").codecs
        video.setCodecPreferences([codec for codec in known if codec.mimeType == "video/H264"])
        sender: Any = video.sender
        sender._next_encoded_frame = self._next
        await self._peer.setLocalDescription(await self._peer.createOffer())
        offer = self._peer.localDescription.sdp
        async with http.post(url, data=offer, headers=HEADERS) as response:
            response.raise_for_status()
            answer = RTCSessionDescription(await response.text(), "answer")
        await self._peer.setRemoteDescription(answer)

    async def leave(self) -> None:
        await self._peer.close()

    async def _next(self, codec: Any) -> RTCEncodedFrame:
        self._began_s = self._began_s or time.monotonic() + self._delay_s
        due_s = self._began_s + self.sent * TICKS / RTP_HZ
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        payloads = self._pictures[self.sent % len(self._pictures)]
        self.sent += 1
        return RTCEncodedFrame(payloads, self.sent * TICKS & 0xFFFFFFFF, None)  # type: ignore[arg-type]


def pictures_of(clip: Path) -> list[list[bytes]]:
    """Payloads of the RTP packets of each picture of a clip."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        length_bytes, sets = configuration_of(bytes(stream.codec_context.extradata or b""))
        return [
            packetise(
                [*(sets if packet.is_keyframe else ()), *units_of(bytes(packet), length_bytes)]
            )
            for packet in container.demux(stream)
            if packet.size
        ]


class Browsers:
    """The process, for as long as it is not stopped."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, clip: Path, urls: list[str], folder: Path) -> "Browsers":
        """Raises RuntimeError where they cannot publish."""
        command = [sys.executable, "-m", "benchmarks.browsers", str(clip), *urls]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        if not await process.stdout.readline():
            raise RuntimeError("the browsers cannot publish")
        return cls(process)

    async def stop(self) -> list[int]:
        """Pictures that each sent."""
        self._process.terminate()
        output, _ = await self._process.communicate()
        return list(json.loads(output.splitlines()[-1]))


async def _run(clip: Path, urls: list[str]) -> list[int]:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    pictures = pictures_of(clip)
    apart_s = TICKS / RTP_HZ / len(urls)
    browsers = [Browser(pictures, number * apart_s) for number in range(len(urls))]
    async with ClientSession() as http:
        for browser, url in zip(browsers, urls, strict=True):
            await browser.publish(http, url)
    print("published", flush=True)
    await over.wait()
    await asyncio.gather(*(browser.leave() for browser in browsers))
    return [browser.sent for browser in browsers]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.browsers", description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("urls", nargs="+")
    given = parser.parse_args()
    print(json.dumps(asyncio.run(_run(given.clip, given.urls))))


if __name__ == "__main__":
    main()
