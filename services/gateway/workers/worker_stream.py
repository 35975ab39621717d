"""One session's frame stream to its worker: credit, acknowledgements, reconnection, replay."""

import asyncio
import itertools
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from services.common.errors import error_of_call, error_of_peer
from services.common.tasks import QueueClosed, cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.frames.latency import Latencies
from services.gateway.frames.sampler import SampledFrame
from services.gateway.workers.workers import MODEL, Backoff, Worker, version_mismatch
from sightline.errors import SightlineError, UnavailableError
from sightline.v1 import inference_pb2

log = logging.getLogger(__name__)

RELEASE_TIMEOUT_S = 3.0


@dataclass(slots=True)
class _Sent:
    """A frame that the worker has not acknowledged. `fresh`: the worker never acknowledged it on
    an earlier stream either, so that it still counts as processed when it is."""

    sequence: int
    frame: SampledFrame
    fresh: bool


async def _closed() -> SampledFrame:
    raise QueueClosed


class FrameLink:
    """Sends a session's frames as long as the worker has credit, and keeps the last window.

    A stream that breaks is opened again with the same session id. A worker that forgot the session
    gets the kept window first, so that its state is what it was, but for frames older than that.
    """

    def __init__(
        self,
        session_id: str,
        worker: Worker,
        next_frame: Callable[[], Awaitable[SampledFrame]],
        *,
        window_segments: int,
        max_pixels: int,
        window_frames: int,
        grace_s: float,
        open_timeout_s: float,
        delivery: str,
    ) -> None:
        """`window_segments` and `max_pixels` of a frame are what the worker is asked for,
        `window_frames` how many are kept, `delivery` what latencies are counted under."""
        self.worker = worker
        self.connected = False
        self.processed = 0
        self.dropped: Counter[str] = Counter()
        self.latencies = Latencies()
        self.newest_s: float | None = None  # when the newest understood frame was sampled
        self.last_capture_ns = 0
        self.refused_s = float("-inf")  # when the worker last had no room for the session's frames
        self.reused_segments = 0
        self.recomputed_segments = 0
        self._open_message = inference_pb2.OpenStream(
            session_id=session_id,
            window_segments=window_segments,
            max_pixels=max_pixels,
            grace_s=grace_s,
        )
        self._next_frame = next_frame
        self._open_timeout_s = open_timeout_s
        self._observed = metrics.FRAME_LATENCY.labels(delivery)
        self._kept: deque[SampledFrame] = deque(maxlen=window_frames)
        self._in_flight: deque[_Sent] = deque()
        self._again: deque[tuple[SampledFrame, bool]] = deque()
        self._credit = 0
        self._sequence = 0
        self._progress = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def resize(self, window_segments: int, *, window_frames: int) -> None:
        """The worker has given the session another window: ask for that from now on, and keep as
        many frames."""
        self._open_message.window_segments = window_segments
        self._kept = deque(self._kept, maxlen=window_frames)

    @property
    def waiting(self) -> int:
        """Frames taken from the ring that are not understood yet."""
        return len(self._in_flight) + len(self._again)

    def age_s(self, capture_ns: int) -> float | None:
        """How long ago the frame of this capture time was sampled here; None for one of which
        nothing is kept. By this clock alone: a publisher's may differ."""
        sent = (each.frame for each in reversed(self._in_flight))
        for frame in itertools.chain(sent, reversed(self._kept)):
            if frame.capture_ns == capture_ns:
                return time.monotonic() - frame.sampled_s
        return None

    async def open(self) -> None:
        """Be admitted by the worker, then carry frames until `aclose`.

        Raises the SightlineError of the worker's refusal.
        """
        call, _ = await self._connect()
        self.connected = True
        self.worker.placed()
        self._task = spawn(self._run(call), name=f"{self._open_message.session_id}:frames")

    async def aclose(self) -> None:
        """End the stream and free the worker's memory. Waits for the worker, but not for long."""
        await cancel_and_wait(self._task)
        # What a session holds must be free once nobody refers to it: with references in a circle it
        # would stay until the collector of garbage comes by, which it rarely does.
        self._task = None
        self._next_frame = _closed
        for frames in (self._kept, self._in_flight, self._again):
            frames.clear()
        request = inference_pb2.ReleaseSessionRequest(session_id=self._open_message.session_id)
        try:
            await self.worker.stub.ReleaseSession(request, timeout=RELEASE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:  # it forgets the session after its grace time
            log.warning(
                "session not released",
                extra={"session": request.session_id, "code": error.code().name},
            )

    async def _connect(self) -> tuple[Any, bool]:
        """A fresh stream that the worker accepted, and whether it still knew the session."""
        if self.worker.incompatible:
            raise version_mismatch()
        call = self.worker.stub.StreamFrames()
        shown = sum(not fresh for _, fresh in self._again)
        shown += sum(not sent.fresh for sent in self._in_flight)
        self._open_message.replays = len(self._kept) + shown
        try:
            async with asyncio.timeout(self._open_timeout_s):
                await call.write(inference_pb2.StreamFramesRequest(open=self._open_message))
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
        self._credit = reply.opened.credit
        return call, reply.opened.resumed

    async def _run(self, call: Any) -> None:
        backoff = Backoff()
        while True:
            self.connected = True
            carried = self.processed
            reason = await self._carry(call)
            self.connected = False
            metrics.WORKER_STREAMS_BROKEN.inc()
            log.warning(
                "frame stream broke",
                extra={
                    "session": self._open_message.session_id,
                    "worker": self.worker.address,
                    "reason": reason,
                },
            )
            if self.processed > carried:
                backoff.reset()
            while True:
                await asyncio.sleep(backoff.next_s())
                try:
                    call, resumed = await self._connect()
                    break
                except SightlineError:
                    continue
            self._prepare(resumed)
            log.info(
                "frame stream is back",
                extra={"session": self._open_message.session_id, "resumed": resumed},
            )

    async def _carry(self, call: Any) -> str:
        """Send and read until the stream ends; returns why it did."""
        sender = spawn(self._send(call), name=f"{self._open_message.session_id}:frames:send")
        try:
            while (reply := await call.read()) is not grpc.aio.EOF:
                if reply.WhichOneof("message") == "ack":
                    self._acknowledge(reply.ack)
            return self._ended(await call.code(), await call.details())
        except grpc.aio.AioRpcError as error:
            return self._ended(error.code(), error.details())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return "the sender failed"  # grpc cancels the reader of a call that was cancelled
        finally:
            call.cancel()
            await cancel_and_wait(sender)

    def _ended(self, code: grpc.StatusCode, details: str | None) -> str:
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            self.refused_s = time.monotonic()
        return f"{code.name} {details or ''}".strip()

    async def _send(self, call: Any) -> None:
        try:
            await self._send_all(call)
        except Exception:
            call.cancel()
            raise

    async def _send_all(self, call: Any) -> None:
        while True:
            while len(self._in_flight) >= self._credit:
                self._progress.clear()
                await self._progress.wait()
            if self._again:
                frame, fresh = self._again.popleft()
            else:
                try:
                    frame, fresh = await self._next_frame(), True
                except QueueClosed:
                    return
            self._sequence += 1
            self._in_flight.append(_Sent(self._sequence, frame, fresh))
            message = inference_pb2.Frame(
                sequence=self._sequence,
                capture_ns=frame.capture_ns,
                pixels=frame.pixels,
                width=frame.width,
                height=frame.height,
                layout=inference_pb2.PIXEL_LAYOUT_RGB24,
                replayed=not fresh,
            )
            try:
                await call.write(inference_pb2.StreamFramesRequest(frame=message))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the reader learns why

    def _acknowledge(self, ack: inference_pb2.FrameAck) -> None:
        now = time.monotonic()
        while self._in_flight and self._in_flight[0].sequence <= ack.sequence:
            sent = self._in_flight.popleft()
            self._kept.append(sent.frame)
            if sent.fresh:
                self.processed += 1
                latency_s = now - sent.frame.sampled_s
                self._observed.observe(latency_s)
                self.latencies.add(now, latency_s)
                self.newest_s = sent.frame.sampled_s
        self._credit = ack.credit
        self.last_capture_ns = ack.capture_ns
        self.reused_segments = ack.reused_segments
        self.recomputed_segments = ack.recomputed_segments
        self._progress.set()

    def _prepare(self, resumed: bool) -> None:
        """Decide what the new stream begins with."""
        unknown = [(sent.frame, sent.fresh) for sent in self._in_flight]
        self._in_flight.clear()
        if resumed:
            # They may have been understood or not. Sending them again could repeat the past.
            self._kept.extend(frame for frame, _ in unknown)
            lost = sum(fresh for _, fresh in unknown)
            if lost:
                self.dropped["worker_stream_broken"] += lost
            return
        again = [(frame, False) for frame in self._kept] + unknown
        metrics.FRAMES_REPLAYED.inc(len(again))
        self._again.extendleft(reversed(again))
        self._kept.clear()
