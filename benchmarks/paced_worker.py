"""A worker whose engine takes as long for a frame as it is told: for what a gateway makes of it."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from services.common.protocol import PROTOCOL
from sightline.v1 import inference_pb2 as pb
from sightline.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)

SIDE = 32  # pixels
BUSY_S = 5.0  # that its business is measured over, as a worker does
CREDIT = 4  # frames of a session that may be in flight, as WORKER_FRAME_QUEUE has it


@dataclass(frozen=True, slots=True)
class Understood:
    """A frame that was understood `at_ns`, so long after its capture."""

    session: str
    at_ns: int
    capture_ns: int

    @property
    def age_s(self) -> float:
        return (self.at_ns - self.capture_ns) / 1e9


class PacedWorker(InferenceServiceServicer):
    """Server of StreamFrames over the contract: frames of all sessions go through one engine, in
    the order they came, each for the `step_s` of the moment when it came."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.understood: list[Understood] = []
        self.address = ""
        self._free_s = 0.0  # when the engine has understood what it was given, monotonic
        self._sessions: set[str] = set()
        self._steps: deque[tuple[float, float]] = deque()  # when each begins, and how long it takes
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        add_InferenceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.ModelDescription:
        return pb.ModelDescription(
            model="paced",
            frame_width=SIDE,
            frame_height=SIDE,
            layouts=[pb.PIXEL_LAYOUT_RGB24],
            tubelet=1,
            tokens_per_segment=16,
            window_segments=30,
            max_window_segments=30,
            preferred_fps=30,
            max_sessions=64,
            free_sessions=64 - len(self._sessions),
            frame_queue=CREDIT,
            protocol_major=PROTOCOL[0],
            protocol_minor=PROTOCOL[1],
        )

    async def Load(self, request: pb.LoadRequest, context: Any) -> AsyncIterator[pb.LoadReport]:
        while True:
            busy = self._busy(time.monotonic())
            yield pb.LoadReport(sessions=len(self._sessions), max_sessions=64, device_busy=busy)
            await asyncio.sleep(request.interval_s or 1.0)

    def _busy(self, now_s: float) -> float:
        """Share of the last seconds in which the engine was in a step."""
        while self._steps and self._steps[0][0] < now_s - BUSY_S:
            self._steps.popleft()
        return min(1.0, sum(step_s for began_s, step_s in self._steps if began_s < now_s) / BUSY_S)

    async def ReleaseSession(
        self, request: pb.ReleaseSessionRequest, context: Any
    ) -> pb.ReleaseSessionResponse:
        self._sessions.discard(request.session_id)
        return pb.ReleaseSessionResponse()

    async def StreamFrames(
        self, requests: AsyncIterator[pb.StreamFramesRequest], context: Any
    ) -> AsyncIterator[pb.StreamFramesResponse]:
        session = (await anext(requests)).open.session_id
        opened = pb.Opened(credit=CREDIT, resumed=session in self._sessions)
        self._sessions.add(session)
        yield pb.StreamFramesResponse(opened=opened)
        due: asyncio.Queue[tuple[pb.Frame, float, float, float] | None] = asyncio.Queue(CREDIT)

        async def read() -> None:
            async for request in requests:
                now_s = time.monotonic()
                began_s = max(self._free_s, now_s)
                self._free_s = began_s + self.step_s
                self._steps.append((began_s, self.step_s))
                await due.put((request.frame, now_s, began_s, self._free_s))
            await due.put(None)

        reader = asyncio.create_task(read(), name=f"{session}:paced")
        try:
            while (entry := await due.get()) is not None:
                frame, came_s, began_s, done_s = entry
                await asyncio.sleep(done_s - time.monotonic())
                self.understood.append(Understood(session, time.time_ns(), frame.capture_ns))
                ack = pb.FrameAck(
                    sequence=frame.sequence,
                    capture_ns=frame.capture_ns,
                    queue_ms=1000 * (began_s - came_s),
                    latency_ms=1000 * (done_s - came_s),
                    credit=CREDIT,
                )
                yield pb.StreamFramesResponse(ack=ack)
        finally:
            reader.cancel()
