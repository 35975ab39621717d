"""A publisher of live video for tests: a clip by RTMP in real time, without re-encoding."""

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.error


class RtmpPublisher:
    """`with RtmpPublisher(path, "rtmp://host/live/key"):` publishes, looping, until the end.

    `error` holds what the server or the network did to it, if anything.
    """

    def __init__(self, path: Path, url: str) -> None:
        self.error: Exception | None = None
        self._path = path
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(20)

    def _run(self) -> None:
        try:
            self._publish()
        except (av.error.FFmpegError, OSError) as error:
            self.error = error

    def _publish(self) -> None:
        begun, offset_s = time.monotonic(), 0.0
        with av.open(self._url, "w", format="flv", timeout=10) as output:
            streams: dict[int, av.stream.Stream] = {}
            while not self._stop.is_set():
                with av.open(str(self._path)) as clip:
                    for source in (*clip.streams.video, *clip.streams.audio):
                        if source.index not in streams:
                            streams[source.index] = output.add_stream_from_template(source)
                    end_s = 0.0
                    for packet in clip.demux():
                        tick = packet.time_base
                        if packet.dts is None or packet.pts is None or not tick:
                            continue
                        shift = round(offset_s / tick)
                        due_s = offset_s + float(packet.dts * tick)
                        end_s = max(end_s, due_s + float((packet.duration or 0) * tick))
                        if self._stop.wait(max(0.0, begun + due_s - time.monotonic())):
                            return
                        packet.dts += shift
                        packet.pts += shift
                        packet.stream = streams[packet.stream.index]
                        output.mux(packet)
                    offset_s = end_s
