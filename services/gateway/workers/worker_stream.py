"""One StreamFrames call: a session's frames to one worker, its acknowledgements back."""

import asyncio
from typing import Any, Self

import grpc

from services.common.errors import error_of_call, error_of_peer
from services.gateway.workers.worker import Worker
from services.gateway.workers.workers import MODEL, version_mismatch
from sightline.errors import UnavailableError
from sightline.v1 import inference_pb2


class WorkerStream:
    """A call that its worker has accepted. One reader and one writer, on one event loop.

    `resumed`: the worker knew the session, and its newest frame was of `last_capture_ns`.
    `refused`, `reason`: once it is over, whether the worker had no room for the session's frames,
    and why it ended.
    """

    def __init__(self, worker: Worker, call: Any, opened: inference_pb2.Opened) -> None:
        self.worker = worker
        self.resumed = opened.resumed
        self.last_capture_ns = opened.last_capture_ns
        self.refused = False
        self.reason = ""
        self._call = call
        self._credit = opened.credit
        self._in_flight = 0  # frames sent and not acknowledged
        self._first: int | None = None  # sequence of the first that is not
        self._progress = asyncio.Event()

    @classmethod
    async def open(
        cls, worker: Worker, opening: inference_pb2.OpenStream, timeout_s: float
    ) -> Self:
        """Be admitted by a worker. Raises the SightlineError of its refusal."""
        if worker.incompatible:
            raise version_mismatch()
        call: Any = worker.stub.StreamFrames()
        try:
            async with asyncio.timeout(timeout_s):
                await call.write(inference_pb2.StreamFramesRequest(open=opening))
                reply = await call.read()
            if reply is grpc.aio.EOF:
                raise await error_of_call(call, MODEL)
            if reply.WhichOneof("message") != "opened":
                raise UnavailableError("the worker did not open the stream")
        except TimeoutError:
            call.cancel()
            raise UnavailableError("The model did not answer in time: try again") from None
        except grpc.aio.AioRpcError as error:
            raise error_of_peer(error, MODEL) from None
        except BaseException:
            call.cancel()
            raise
        return cls(worker, call, reply.opened)

    async def writable(self) -> None:
        """Wait until the worker has credit for one more frame."""
        while self._in_flight >= self._credit:
            self._progress.clear()
            await self._progress.wait()

    async def send(self, frame: inference_pb2.Frame) -> bool:
        """Send one frame; False when the call is over, of which the reader learns the reason."""
        if self._first is None:
            self._first = frame.sequence
        self._in_flight = frame.sequence - self._first + 1
        self.worker.pulse.sent(self)
        try:
            await self._call.write(inference_pb2.StreamFramesRequest(frame=frame))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return True

    async def read(self) -> inference_pb2.FrameAck | None:
        """The next acknowledgement; None when the call is over."""
        try:
            while (reply := await self._call.read()) is not grpc.aio.EOF:
                if reply.WhichOneof("message") == "ack":
                    ack: inference_pb2.FrameAck = reply.ack
                    self._acknowledged(ack)
                    return ack
            self._ended(await self._call.code(), await self._call.details())
        except grpc.aio.AioRpcError as error:
            self._ended(error.code(), error.details())
        except asyncio.CancelledError:  # grpc cancels the reader of a call that was cancelled
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self.reason = "CANCELLED by us"
        return None

    def cancel(self) -> None:
        """End the call; the worker keeps the session for its grace time."""
        self.worker.pulse.left(self)
        self._call.cancel()

    def _acknowledged(self, ack: inference_pb2.FrameAck) -> None:
        if self._first is not None and ack.sequence >= self._first:
            self._in_flight -= ack.sequence - self._first + 1
            self._first = ack.sequence + 1
        self.worker.pulse.acknowledged(self, all_of_it=self._in_flight <= 0)
        self._credit = ack.credit
        self._progress.set()

    def _ended(self, code: grpc.StatusCode, details: str | None) -> None:
        self.refused = code is grpc.StatusCode.RESOURCE_EXHAUSTED
        self.reason = f"{code.name} {details or ''}".strip()
