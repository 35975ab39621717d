"""Publishes a video file as a live, looping RTMP stream, where ffmpeg is not installed.

`python -m services.local.publish FILE URL`. H.264 goes out as it is, everything else is encoded.
"""

import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

MILLISECOND = Fraction(1, 1000)  # FLV's clock


def publish(path: str, url: str) -> None:
    """Publish until the connection breaks, which raises av.FFmpegError."""
    with av.open(path) as source, av.open(url, "w", format="flv") as target:
        video = source.streams.video[0]
        if video.codec_context.name == "h264":
            packets = _copied(source, target, video)
        else:
            packets = _encoded(source, target, video)
        started = time.monotonic()
        for packet in packets:
            wait_s = started + float(packet.dts * packet.time_base) - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            target.mux(packet)


def _copied(source: Any, target: Any, video: Any) -> Iterator[Any]:
    """The file's packets round after round, each round after the one before."""
    stream = target.add_stream_from_template(video)
    offset = 0
    while True:
        end = offset
        for packet in source.demux(video):
            if packet.dts is None:
                continue
            packet.pts += offset
            packet.dts += offset
            end = max(end, packet.pts + (packet.duration or 1))
            packet.stream = stream
            yield packet
        offset = end
        source.seek(0)


def _encoded(source: Any, target: Any, video: Any) -> Iterator[Any]:
    rate = video.average_rate or 25
    stream = target.add_stream("libx264", rate=rate)
    stream.width, stream.height = video.width & ~1, video.height & ~1
    stream.pix_fmt = "yuv420p"
    stream.options = {"preset": "veryfast", "tune": "zerolatency", "g": str(round(rate * 2))}
    number = 0
    while True:
        for frame in source.decode(video):
            picture = frame.reformat(
                width=stream.width, height=stream.height, format="yuv420p", threads=1
            )
            picture.pts, picture.time_base = number, 1 / Fraction(rate)
            number += 1
            yield from stream.encode(picture)
        source.seek(0)


if __name__ == "__main__":
    try:
        publish(sys.argv[1], sys.argv[2])
    except av.FFmpegError as error:
        sys.exit(f"publishing ended: {error}")
