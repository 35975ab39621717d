"""A clock in the picture, for whoever films it: the time in milliseconds as black and white fields.

`python -m benchmarks.clock URL` films one, 30 times a second, and publishes it by RTMP, or by WHIP
where the URL is one of HTTP, until SIGTERM.
"""

import argparse
import asyncio
import contextlib
import fractions
import signal
import time
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, FPS = 640, 360, 30
BITS, COLUMNS = 24, 8  # of milliseconds: four hours and a half
FIELD = 40  # pixels a side
KEYFRAME_EVERY = 4 * FPS  # as cameras do
BITS_PER_S = 1_000_000
WRAP = 1 << BITS

# Reads the clock of a video at every picture that a page shows: `window.ages`, in milliseconds.
READ_IN_PAGE = f"""
const video = document.querySelector(arguments[0]);
const canvas = document.createElement("canvas");
Object.assign(canvas, {{width: {WIDTH}, height: {HEIGHT}}});
const paint = canvas.getContext("2d", {{willReadFrequently: true}});
window.ages = [];
const read = (now, {{expectedDisplayTime}}) => {{
  paint.drawImage(video, 0, 0, {WIDTH}, {HEIGHT});
  const {{data}} = paint.getImageData(0, 0, {COLUMNS * FIELD}, {BITS // COLUMNS * FIELD});
  let time = 0;
  for (let bit = 0; bit < {BITS}; bit++) {{
    const x = (bit % {COLUMNS}) * {FIELD} + {FIELD // 2};
    const y = Math.floor(bit / {COLUMNS}) * {FIELD} + {FIELD // 2};
    time = time * 2 + (data[4 * (y * {COLUMNS * FIELD} + x)] > 127 ? 1 : 0);
  }}
  const shown = Math.round(performance.timeOrigin + Math.max(now, expectedDisplayTime));
  window.ages.push((shown - time) % {WRAP});
  video.requestVideoFrameCallback(read);
}};
video.requestVideoFrameCallback(read);
"""


def paint(time_ms: int, number: int) -> NDArray[np.uint8]:
    """A picture that shows the time, above something that moves, `[height, width, 3] uint8`."""
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    ramp = (np.arange(WIDTH)[None] + np.arange(HEIGHT)[:, None] + 4 * number) % 256
    picture[:] = ramp.astype(np.uint8)[..., None]
    bits = [time_ms % WRAP >> (BITS - 1 - place) & 1 for place in range(BITS)]
    fields = np.array(bits, np.uint8).reshape(-1, COLUMNS) * 255
    fields = fields.repeat(FIELD, 0).repeat(FIELD, 1)
    picture[: fields.shape[0], : fields.shape[1]] = fields[..., None]
    return picture


def now_ms() -> int:
    return time.time_ns() // 1_000_000 % WRAP


def film_rtmp(url: str, over: Any) -> None:
    """Publish by RTMP until `over()`; the encoder holds no picture back."""
    with av.open(url, "w", format="flv", options={"flush_packets": "1"}) as output:
        stream = output.add_stream("libx264", rate=FPS)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = BITS_PER_S
        stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
        stream.codec_context.gop_size = KEYFRAME_EVERY
        begun_s = time.monotonic()
        number = 0
        while not over():
            time.sleep(max(0.0, begun_s + number / FPS - time.monotonic()))
            frame = av.VideoFrame.from_ndarray(paint(now_ms(), number), format="rgb24")
            frame.pts, frame.time_base = number, fractions.Fraction(1, FPS)
            output.mux(stream.encode(frame))
            number += 1


async def film_whip(url: str, over: asyncio.Event) -> None:
    """Publish by WHIP, encoded by aiortc."""
    from aiohttp import ClientSession
    from aiortc import (
        RTCConfiguration,
        RTCPeerConnection,
        RTCRtpSender,
        RTCSessionDescription,
        VideoStreamTrack,
    )

    class Filmed(VideoStreamTrack):
        number = 0
        begun_s = 0.0

        async def recv(self) -> av.VideoFrame:
            self.begun_s = self.begun_s or time.monotonic()
            self.number += 1
            await asyncio.sleep(max(0.0, self.begun_s + self.number / FPS - time.monotonic()))
            frame = av.VideoFrame.from_ndarray(paint(now_ms(), self.number), format="rgb24")
            frame.pts, frame.time_base = self.number * 90_000 // FPS, fractions.Fraction(1, 90_000)
            return frame

    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    video = peer.addTransceiver(Filmed(), direction="sendonly")
    known = RTCRtpSender.getCapabilities("video").codecs
    video.setCodecPreferences([codec for codec in known if codec.mimeType == "video/H264"])
    await peer.setLocalDescription(await peer.createOffer())
    headers = {"Content-Type": "application/sdp"}
    async with (
        ClientSession() as http,
        http.post(url, data=peer.localDescription.sdp, headers=headers) as response,
    ):
        response.raise_for_status()
        answer = RTCSessionDescription(await response.text(), "answer")
    await peer.setRemoteDescription(answer)
    await over.wait()
    await peer.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clock", description=__doc__)
    parser.add_argument("url")
    url: str = parser.parse_args().url
    if url.startswith("rtmp"):
        stopped = False

        def stop(*signalled: object) -> None:
            nonlocal stopped
            stopped = True

        signal.signal(signal.SIGTERM, stop)
        with contextlib.suppress(av.FFmpegError, OSError):  # the server ended first
            film_rtmp(url, lambda: stopped)
        return

    async def film() -> None:
        over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        await film_whip(url, over)

    asyncio.run(film())


if __name__ == "__main__":
    main()
