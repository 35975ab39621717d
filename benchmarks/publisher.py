"""Many cameras in one light process: a clip by RTMP to every URL, looped, in real time.

`python -m benchmarks.publisher CLIP URL…` publishes until SIGTERM, then prints what it sent as
JSON. Packets are encoded once and sent by FFmpeg's own RTMP client, so that hardly any of the
machine's time goes into being the load. Cameras start a part of a frame apart, as real ones do.
"""

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import av
import av.error

from benchmarks import REPOSITORY
from benchmarks.samples import percentile


@dataclass(frozen=True, slots=True)
class Sent:
    """Frames that one publisher sent. `late_*`: behind the camera's own clock."""

    packets: int
    late_p95_ms: float
    late_max_ms: float
    error: str


class Camera(threading.Thread):
    """An RTMP publisher. `delay_s`: how much later than the others it begins."""

    def __init__(self, clip: Path, url: str, delay_s: float, stop: threading.Event) -> None:
        super().__init__(name=url, daemon=True)
        self._clip = clip
        self._url = url
        self._delay_s = delay_s
        self._halt = stop
        self._late_ms: list[float] = []
        self._error = ""

    def run(self) -> None:
        try:
            self._publish()
        except (av.error.FFmpegError, OSError) as error:
            self._error = str(error)

    def sent(self) -> Sent:
        """Frames sent until now."""
        late = self._late_ms or [0.0]
        return Sent(len(self._late_ms), percentile(late, 0.95), max(late), self._error)

    def _publish(self) -> None:
        with (
            av.open(str(self._clip)) as clip,
            av.open(self._url, "w", format="flv", options={"flush_packets": "1"}) as output,
        ):
            video = clip.streams.video[0]
            assert video.time_base is not None
            ticks_s = float(video.time_base)
            stream = output.add_stream_from_template(video)
            units = [
                (bytes(packet), packet.pts, packet.dts, packet.is_keyframe)
                for packet in clip.demux(video)
                if packet.dts is not None and packet.pts is not None
            ]
            interval = units[1][2] - units[0][2]
            length = units[-1][2] + interval - units[0][2]
            begun_s = time.monotonic() + self._delay_s
            offset = -units[0][2]
            while True:
                for data, pts, dts, keyframe in units:
                    due_s = begun_s + (dts + offset) * ticks_s
                    if self._halt.wait(max(0.0, due_s - time.monotonic())):
                        return
                    packet: av.Packet[Any] = av.Packet(data)
                    packet.pts, packet.dts = pts + offset, dts + offset
                    packet.time_base, packet.is_keyframe = video.time_base, keyframe
                    packet.stream = stream
                    output.mux(packet)
                    self._late_ms.append(1000 * (time.monotonic() - due_s))
                offset += length


class Publisher:
    """The process, for as long as the context lasts; `sent` is known after it."""

    def __init__(self, clip: Path, urls: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.publisher", str(clip), *urls],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid

    def stop(self) -> list[Sent]:
        """End it; what each camera sent. Raises RuntimeError when it had failed."""
        self._process.terminate()
        try:
            output, _ = self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RuntimeError("the publisher did not end") from None
        if self._process.returncode != 0:
            raise RuntimeError(f"the publisher exited {self._process.returncode}")
        return [Sent(**sent) for sent in json.loads(output)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publisher", description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("urls", nargs="+")
    arguments = parser.parse_args()
    stop = threading.Event()

    def halt(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, halt)
    signal.signal(signal.SIGINT, halt)
    with av.open(str(arguments.clip)) as clip:
        rate = clip.streams.video[0].average_rate
        assert rate is not None
        apart_s = 1 / float(rate) / len(arguments.urls)
    cameras = [
        Camera(arguments.clip, url, index * apart_s, stop)
        for index, url in enumerate(arguments.urls)
    ]
    for camera in cameras:
        camera.start()
    stop.wait()
    for camera in cameras:
        camera.join(5)
    sent = [camera.sent() for camera in cameras]
    print(json.dumps([{name: getattr(s, name) for name in Sent.__slots__} for s in sent]))


if __name__ == "__main__":
    main()
