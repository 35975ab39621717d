"""An understudy: one session at the fallback, shown the same window and then every new frame."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

import grpc

from services.common.backoff import Backoff
from services.common.tasks import NewestQueue, cancel_and_wait, spawn
from services.common.tracing import trace_headers
from services.inference_worker.serving.fallback import StandIn
from services.inference_worker.serving.resizing import resized
from sightline.v1 import inference_pb2

log = logging.getLogger(__name__)

Frame = inference_pb2.Frame
NEWEST = 8  # frames that may wait for the fallback; it is shown the newest
RELEASE_TIMEOUT_S = 3.0


class Understudy:
    """A session of the fallback from `start` to `aclose`; its stream is opened again when it
    breaks, with the window as it is then. One event loop.

    window: the session's newest frames, which somebody else keeps.
    """

    def __init__(self, fallback: StandIn, session_id: str, window: Iterable[Frame]) -> None:
        self._fallback = fallback
        self._session_id = session_id
        self._window = window
        self._live: NewestQueue[Frame] = NewestQueue(NEWEST)
        self._sequence = 0
        self._in_flight = self._credit = 0
        self._moved = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self.ready = asyncio.Event()
        """Set while the fallback has the session; its questions wait there for the window."""
        self.over = asyncio.Event()
        """Set once it stands in no more."""

    def start(self) -> None:
        self._following = spawn(self._follow(), name=f"{self._session_id}:understudy")

    def show(self, frame: Frame) -> None:
        """A frame that the session has got."""
        self._live.put_nowait(frame)

    def answer(self, request: inference_pb2.AnswerRequest) -> Any:
        """The call that answers a question."""
        asked = inference_pb2.AnswerRequest()
        asked.CopyFrom(request)
        for moment in asked.recall.moments:  # pictures have the size of the other model's frames
            moment.ClearField("pixels")
        return self._fallback.stub.Answer(asked, metadata=trace_headers())

    def watch(self, request: inference_pb2.WatchRequest) -> Any:
        """The call that asks a standing question."""
        return self._fallback.stub.WatchSession(request)

    async def aclose(self) -> None:
        self.over.set()
        await cancel_and_wait(self._following)
        if self._fallback.description is None:
            return
        release = inference_pb2.ReleaseSessionRequest(session_id=self._session_id)
        try:
            await self._fallback.stub.ReleaseSession(release, timeout=RELEASE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:  # it forgets the session with its stream
            log.warning("understudy not released", extra={"code": error.code().name})

    async def _follow(self) -> None:
        backoff = Backoff(0.2, 5.0)
        while True:
            if (description := self._fallback.description) is not None:
                call = self._fallback.stub.StreamFrames(self._messages(description))
                try:
                    async for reply in call:
                        self._heard(reply)
                        backoff.reset()
                except grpc.aio.AioRpcError as error:
                    reason = f"{error.code().name} {error.details()}"
                    log.warning("understudy's stream broke", extra={"reason": reason})
                finally:
                    call.cancel()
                    self.ready.clear()
            await asyncio.sleep(backoff.next_s())

    def _heard(self, reply: inference_pb2.StreamFramesResponse) -> None:
        if reply.WhichOneof("message") == "opened":
            self._credit = reply.opened.credit
            self.ready.set()
        else:
            self._credit = reply.ack.credit
            self._in_flight -= 1
        self._moved.set()

    async def _messages(
        self, description: inference_pb2.ModelDescription
    ) -> AsyncIterator[inference_pb2.StreamFramesRequest]:
        most = max(1, description.window_segments * max(1, description.tubelet))
        window = list(self._window)[-most:]
        self._live = NewestQueue(NEWEST)  # what waited is in the window
        self._in_flight = self._credit = 0
        opening = inference_pb2.OpenStream(
            session_id=self._session_id, replays=len(window), grace_s=0.0
        )
        yield inference_pb2.StreamFramesRequest(open=opening)
        async for frame, replayed in self._frames(window):
            while self._in_flight >= self._credit:
                self._moved.clear()
                await self._moved.wait()
            self._in_flight += 1
            self._sequence += 1
            yield inference_pb2.StreamFramesRequest(
                frame=fitted(frame, description, self._sequence, replayed)
            )

    async def _frames(self, window: list[Frame]) -> AsyncGenerator[tuple[Frame, bool], None]:
        for frame in window:
            yield frame, True
        while True:
            yield await self._live.get(), False


def fitted(
    frame: Frame, description: inference_pb2.ModelDescription, sequence: int, replayed: bool
) -> Frame:
    """A frame in a size that another model takes: its own where that is one of them."""
    size = wanted = (frame.width, frame.height)
    if not _takes(description, size):
        wanted = (description.frame_width, description.frame_height)
    return Frame(
        sequence=sequence,
        capture_ns=frame.capture_ns,
        pixels=resized(frame.pixels, size, wanted),
        layout=inference_pb2.PIXEL_LAYOUT_RGB24,
        replayed=replayed,
        missing=frame.missing,
        width=wanted[0],
        height=wanted[1],
    )


def _takes(description: inference_pb2.ModelDescription, size: tuple[int, int]) -> bool:
    if size == (description.frame_width, description.frame_height):
        return True
    factor = description.size_factor
    if not factor or any(side % factor for side in size):
        return False
    return size[0] * size[1] <= description.frame_width * description.frame_height
