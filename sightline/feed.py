"""A local file or camera played into a session: in real time, or as fast as the model takes it."""

import asyncio
import itertools
import time
from collections.abc import Iterator

from sightline.calls import Calls
from sightline.push import Pusher
from sightline.types import PushReport
from sightline.v1 import gateway_pb2 as pb
from sightline.video import VideoFile

__all__ = ["Feed"]

BATCH = 8  # messages of a file read per visit to the reading thread


class Feed:
    """A file on its way into a session. Call `run` once. The file is read in a thread, a few
    messages at a time.

    `start_ns` is the capture time of the file's first picture; the moment it started by default.
    In real time a gateway that goes away is waited for and joined again at a keyframe; otherwise
    a broken push is an error, because frames on the way are lost.
    """

    def __init__(
        self,
        calls: Calls,
        session: str,
        key: str,
        file: VideoFile,
        *,
        realtime: bool,
        loop: bool = False,
        lossless: bool = False,
        start_ns: int | None = None,
    ) -> None:
        self._file = file
        self._realtime = realtime
        self._loop = loop
        self.start_ns = time.time_ns() if start_ns is None else start_ns
        self._pusher = Pusher(
            calls,
            session,
            key,
            lossless=lossless,
            codec=file.codec,
            extradata=file.extradata,
            reconnects=realtime,
        )
        self._reading: asyncio.Future[list[tuple[float, pb.PushFramesRequest]]] | None = None

    @property
    def report(self) -> PushReport:
        """Report of what became of the frames so far; of this connection only, after one broke."""
        return self._pusher.report

    async def run(self) -> PushReport:
        """Play to the end (for ever with `loop`), wait until all is understood."""
        clock = asyncio.get_running_loop()
        try:
            started, offset_s = clock.time(), 0.0
            while True:
                last_due_s = 0.0
                messages = self._file.messages(self.start_ns + round(offset_s * 1e9))
                while batch := await self._read(messages):
                    for due_s, message in batch:
                        if self._realtime:
                            wait_s = started + offset_s + due_s - clock.time()
                            if wait_s > 0:
                                await asyncio.sleep(wait_s)
                        await self._pusher.send_message(message)
                        last_due_s = due_s
                if not self._loop or last_due_s == 0.0:
                    return await self._pusher.end()
                offset_s += self._file.last_s + self._file.frame_s
        finally:
            await self._pusher.aclose()
            if self._reading is not None:  # the thread must let go of the file first
                await asyncio.wait([self._reading])
            self._file.close()

    async def _read(
        self, messages: Iterator[tuple[float, pb.PushFramesRequest]]
    ) -> list[tuple[float, pb.PushFramesRequest]]:
        loop = asyncio.get_running_loop()
        count = 1 if self._file.live else BATCH
        self._reading = loop.run_in_executor(None, _take, messages, count)
        return await asyncio.shield(self._reading)


def _take(
    messages: Iterator[tuple[float, pb.PushFramesRequest]], count: int
) -> list[tuple[float, pb.PushFramesRequest]]:
    return list(itertools.islice(messages, count))
