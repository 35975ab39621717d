"""One PushFrames stream: pictures or packets out, acknowledgements in.

A lossless session answers with credit: how many more frames may be on the way beyond those it
has received. Any other session takes what comes and drops what is too much.
"""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Any, Self

import grpc

from sightline.calls import CUT_SHORT, Calls, StreamClosedError, from_rpc, send
from sightline.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    SightlineError,
)
from sightline.types import PushReport
from sightline.v1 import gateway_pb2 as pb
from sightline.wire import error_of, frame_message, push_messages, push_report

__all__ = ["Pusher"]

FIRST_CREDIT = 8  # frames on the way before the first acknowledgement


class Pusher:
    """A stream of frames: `send` in capture order, then `end`. It opens at the first frame and
    belongs to one event loop.

    `async with` ends it. Frames without a time of their own are taken `fps` apart, or as they
    come. `codec` and `extradata` are for packets only. `report` is what was acknowledged so far.
    """

    def __init__(
        self,
        calls: Calls,
        session: str,
        key: str,
        *,
        lossless: bool = False,
        fps: float | None = None,
        codec: str = "",
        extradata: bytes = b"",
    ) -> None:
        self.report = PushReport()
        self.sent = 0
        self._ended = False
        self._calls = calls
        self._open = pb.PushOpen(session=session, key=key)
        self._packets = pb.PushOpen(codec=codec, extradata=extradata)
        self._fps = fps
        self._start_ns = time.time_ns()
        self._lossless = lossless
        self._allowed = FIRST_CREDIT
        self._call: grpc.aio.StreamStreamCall[pb.PushFramesRequest, pb.PushFramesResponse] | None
        self._call = None
        self._reader: asyncio.Task[None] | None = None
        self._error: SightlineError | None = None
        self._acked = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self.end()
        finally:
            await self.aclose()

    async def send(self, frame: Any, capture_ns: int | None = None) -> None:
        """Send one frame: a height x width x 3 uint8 RGB array, JPEG bytes, (frame, capture_ns)
        or Packet. On a lossless session wait until there is room for it.

        Raises what the server says about an earlier frame as soon as that is known.
        """
        if capture_ns is None and self._fps is not None:
            capture_ns = self._start_ns + round(self.sent * 1e9 / self._fps)
        await self.send_message(frame_message(frame, capture_ns))

    async def send_message(self, message: pb.PushFramesRequest) -> None:
        """`send` for a frame or packet that is a message already."""
        if self._call is None:
            if message.HasField("packet"):
                self._open.MergeFrom(self._packets)
            self._call = self._calls.stub.PushFrames()
            self._reader = asyncio.create_task(self._read(self._call), name="push:acks")
            await self._write(pb.PushFramesRequest(open=self._open))
        while self._lossless and self.sent >= self._allowed:
            await self._next_ack()
        for part in push_messages(message):
            await self._write(part)
        self.sent += 1

    async def end(self) -> PushReport:
        """No more frames. Returns once everything sent is understood or dropped. Idempotent."""
        if self._call is None or self._reader is None:
            return self.report
        if not self._ended:
            self._ended = True
            await self._write(pb.PushFramesRequest(end=pb.PushEnd()))
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, CUT_SHORT):
            await self._call.done_writing()
        while not self._reader.done():
            await self._next_ack()
        if self._error is not None:
            raise self._error
        return self.report

    async def aclose(self) -> None:
        """Break off: what is still on the way is lost. Idempotent, also right after `end`."""
        if self._call is not None:
            self._call.cancel()
        if self._reader is not None:
            await asyncio.wait([self._reader])

    async def _write(self, message: pb.PushFramesRequest) -> None:
        assert self._call is not None
        assert self._reader is not None
        if self._reader.done():
            raise self._error or FailedPreconditionError("the server ended the push")
        try:
            async with asyncio.timeout(self._calls.timeouts.push_s):
                await send(self._call, message)
        except TimeoutError:
            raise self._stalled() from None
        except (grpc.aio.AioRpcError, StreamClosedError):
            await asyncio.wait([self._reader])
            raise self._error or FailedPreconditionError("the server ended the push") from None

    async def _next_ack(self) -> None:
        if self._error is not None:
            raise self._error
        assert self._reader is not None
        if self._reader.done():
            raise FailedPreconditionError("the server ended the push")
        self._acked.clear()
        try:
            async with asyncio.timeout(self._calls.timeouts.push_s):
                await self._acked.wait()
        except TimeoutError:
            raise self._stalled() from None
        if self._error is not None:
            raise self._error

    def _stalled(self) -> SightlineError:
        seconds = self._calls.timeouts.push_s
        return DeadlineExceededError(f"no pushed frame was acknowledged in {seconds:g} s")

    async def _read(
        self, call: "grpc.aio.StreamStreamCall[pb.PushFramesRequest, pb.PushFramesResponse]"
    ) -> None:
        try:
            async for message in call:
                if message.HasField("error"):
                    self._error = error_of(message.error)
                    return
                self.report = push_report(message)
                self._allowed = message.received + message.credit
                self._acked.set()
        except grpc.aio.AioRpcError as error:
            self._error = from_rpc(error, self._calls.address)
        except asyncio.CancelledError:
            self._error = FailedPreconditionError("the push was broken off")
        finally:
            self._acked.set()
