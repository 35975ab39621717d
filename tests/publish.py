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
            stream = None
            while not self._stop.is_set():
                with av.open(str(self._path)) as clip:
                    video = clip.streams.video[0]
                    assert video.time_base is not None
                    if stream is None:
                        stream = output.add_stream_from_template(video)
                    end_s = 0.0
                    for packet in clip.demux(video):
                        if packet.dts is None or packet.pts is None:
                            continue
                        shift = round(offset_s / video.time_base)
                        due_s = offset_s + float(packet.dts * video.time_base)
                        end_s = due_s + float((packet.duration or 0) * video.time_base)
                        if self._stop.wait(max(0.0, begun + due_s - time.monotonic())):
                            return
                        packet.dts += shift
                        packet.pts += shift
                        packet.stream = stream
                        output.mux(packet)
                    offset_s = end_s
