"""One PushFrames stream: pictures or packets out, acknowledgements in.

A lossless session answers with credit: how many more frames may be on the way beyond those it
has received. Any other session takes what comes and drops what is too much.
"""

import asyncio
import contextlib
import time
from collections import deque
from typing import Any

import grpc

from sightline.calls import CUT_SHORT, Calls, StreamClosedError, backoff_s, from_rpc, send
from sightline.closing import AsyncLeaving
from sightline.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    SightlineError,
    UnavailableError,
)
from sightline.frames import frame_message, push_messages, push_report
from sightline.reasons import Reason
from sightline.types import PushReport
from sightline.v1 import gateway_pb2 as pb
from sightline.wire import error_of

__all__ = ["Pusher"]

SILENCE_S = 3.0  # without an acknowledgement, of which there is one every second
FIRST_CREDIT = 8  # frames on the way before the first acknowledgement


class Pusher(AsyncLeaving):
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
        reconnects: bool = False,
    ) -> None:
        """reconnects: a stream that breaks is opened again, and what comes meanwhile is lost."""
        self.report = PushReport()
        self.sent = 0
        self._given = 0  # with those that were lost while there was no stream
        self._sent_before = 0  # over earlier streams
        self._ended = False
        self._calls = calls
        self._open = pb.PushOpen(session=session, key=key)
        self._packets = pb.PushOpen(codec=codec, extradata=extradata)
        self._fps = fps
        self._start_ns = time.time_ns()
        self._lossless = lossless
        self._allowed = FIRST_CREDIT
        self._received = 0  # by the server, over this stream
        self._crossing: deque[pb.PushFramesRequest] = deque()  # sent over it, and not received yet
        self._call: grpc.aio.StreamStreamCall[pb.PushFramesRequest, pb.PushFramesResponse] | None
        self._call = None
        self._stub: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._error: SightlineError | None = None
        self._acked = asyncio.Event()
        self._reconnects = reconnects
        self._down_since_s: float | None = None  # by the event loop's clock
        self._again_s = 0.0
        self._attempts = 0
        self._heard_s = 0.0
        self._needs_keyframe = False

    async def _leave(self, error: BaseException | None) -> None:
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
            capture_ns = self._start_ns + round(self._given * 1e9 / self._fps)
        self._given += 1
        await self.send_message(frame_message(frame, capture_ns))

    async def send_message(self, message: pb.PushFramesRequest) -> None:
        """`send` for a frame or packet that is a message already."""
        if not self._reconnects:
            await self._send_message(message)
            return
        now_s = asyncio.get_running_loop().time()
        if now_s < self._again_s:
            return
        try:
            if self._needs_keyframe and message.HasField("packet") and not message.packet.keyframe:
                await self._begin(message)
                self._check()
                return
            await self._send_message(message)
        except SightlineError as error:
            await self._broke(error, now_s)
        else:
            self._needs_keyframe = False

    async def _broke(self, error: SightlineError, now_s: float) -> None:
        """Try again later, with a frame that can begin a stream. Raises the error where that makes
        no sense, or was tried for long."""
        returning = self._down_since_s is not None  # the server may not know yet that we left
        passes = isinstance(error, UnavailableError) or (
            returning and error.reason == Reason.PUBLISHER_PRESENT
        )
        self._down_since_s = now_s if self._down_since_s is None else self._down_since_s
        if not passes or now_s - self._down_since_s > self._calls.timeouts.reconnect_s:
            raise error
        if error.reason in (Reason.DRAINING, Reason.SESSION_MOVED):
            await self._calls.leave(self._stub)
        await self.aclose()
        self._forget()
        self._needs_keyframe = True
        self._again_s = now_s + backoff_s(self._attempts, self._calls.rng)
        self._attempts += 1

    def _forget(self) -> None:
        """The next message opens another stream."""
        self._call = self._reader = self._error = None
        self._sent_before, self._allowed, self._received = self.sent, FIRST_CREDIT, 0
        self._crossing.clear()
        self._ended = False

    def _let_go(self) -> None:
        """Keep no message that the server has received."""
        while len(self._crossing) > max(0, self.sent - self._sent_before - self._received):
            self._crossing.popleft()

    def _was_idle(self) -> bool:
        """Whether the server let go of the stream because there was nothing to send for long."""
        return self._error is not None and self._error.reason == Reason.PUBLISHER_IDLE

    async def _begin(self, message: pb.PushFramesRequest) -> None:
        """Open the stream that a message goes over, where there is none."""
        if self._call is None:
            if message.HasField("packet"):
                self._open.MergeFrom(self._packets)
            stub = self._calls.stub
            self._call = stub.PushFrames()
            self._heard_s = asyncio.get_running_loop().time()
            self._reader = asyncio.create_task(self._read(self._call), name="push:acks")
            self._stub = stub
            await self._write(pb.PushFramesRequest(open=self._open))
        if self._reconnects and asyncio.get_running_loop().time() - self._heard_s > SILENCE_S:
            await self._calls.leave(self._stub)
            raise UnavailableError("the server is silent")

    async def _send_message(self, *messages: pb.PushFramesRequest) -> None:
        """Send them, over another stream where the server let go of an idle one: there after what
        was on its way just then."""
        waiting = deque(messages)
        while waiting or self._was_idle():
            try:
                while waiting:
                    await self._send_now(waiting[0])
                    waiting.popleft()
            except DeadlineExceededError:
                if not self._was_idle():
                    raise
            if self._was_idle():
                self.sent -= len(self._crossing)
                waiting.extendleft(reversed(self._crossing))
                self._forget()

    async def _send_now(self, message: pb.PushFramesRequest) -> None:
        await self._begin(message)
        while self._lossless and self.sent - self._sent_before >= self._allowed:
            await self._next_ack()
        for part in push_messages(message):
            await self._write(part)
        self.sent += 1
        self._crossing.append(message)
        self._let_go()  # its acknowledgement may have come while it was written

    async def end(self) -> PushReport:
        """No more frames. Returns once everything sent is understood or dropped. Idempotent."""
        while self._call is not None:
            if self._was_idle():
                if not self._crossing:
                    break
                await self._send_message()
            try:
                return await self._end()
            except DeadlineExceededError:
                if not self._was_idle():
                    raise
        return self.report

    async def _end(self) -> PushReport:
        assert self._call is not None
        assert self._reader is not None
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
        self._check()
        push_s = self._calls.timeouts.push_s
        try:
            async with asyncio.timeout(min(push_s, SILENCE_S) if self._reconnects else push_s):
                await send(self._call, message)
        except TimeoutError:
            if not self._reconnects:
                raise self._stalled() from None
            await self._calls.leave(self._stub)
            raise UnavailableError("the server is silent") from None
        except (grpc.aio.AioRpcError, StreamClosedError):
            await asyncio.wait([self._reader])
            raise self._error or FailedPreconditionError("the server ended the push") from None

    def _check(self) -> None:
        """Raise why the server has ended the stream, if it has."""
        assert self._reader is not None
        if self._reader.done():
            raise self._error or FailedPreconditionError("the server ended the push")

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
                self._heard_s = asyncio.get_running_loop().time()
                self._down_since_s, self._attempts = None, 0
                self.report = push_report(message)
                self._received = message.received
                self._let_go()
                self._allowed = message.received + message.credit
                self._acked.set()
        except grpc.aio.AioRpcError as error:
            self._error = from_rpc(error, self._calls.address)
        except asyncio.CancelledError:
            self._error = FailedPreconditionError("the push was broken off")
        finally:
            self._acked.set()
