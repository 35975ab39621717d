"""The feed of one session: its frames, in order, to whichever worker it has."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from services.common.backoff import Backoff
from services.common.tasks import QueueClosed, cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.frames.frame_counts import FrameCounts
from services.gateway.frames.frame_window import FrameWindow, SentFrame
from services.gateway.frames.gaps import Gaps
from services.gateway.frames.latency import Latencies
from services.gateway.frames.sampler import SampledFrame
from services.gateway.workers.placement import Placement
from services.gateway.workers.worker_stream import WorkerStream
from sightline.errors import SightlineError
from sightline.v1 import inference_pb2

log = logging.getLogger(__name__)

PLACED_POLL_S = 0.5  # workers come and go without telling those who wait for one


async def _closed() -> SampledFrame:
    raise QueueClosed


def _nobody(*told: float) -> None:
    pass


def _unseen(frame: SampledFrame) -> None:
    pass


class FrameFeed:
    """The sender of one session's frames, as long as its worker has credit; it keeps the last
    window.

    A stream that breaks is opened again, with the same worker or with another: as `placement`
    finds. A worker that does not know the session gets the kept window first, so that its state is
    what it was, but for frames older than that. A worker that is ending is left as soon as another
    has taken the session.
    """

    def __init__(
        self,
        placement: Placement,
        next_frame: Callable[[], Awaitable[SampledFrame]],
        take_waiting: Callable[[], list[SampledFrame]],
        num_waiting: Callable[[], int],
        counts: FrameCounts,
        *,
        window_frames: int,
        delivery: str,
        on_moving: Callable[[], None],
        on_understood: Callable[[float, float], None],
        gaps: Gaps | None = None,
    ) -> None:
        """`next_frame` gives the next frame, once there is one, and `take_waiting` at once all
        that there are, `num_waiting` in number. `window_frames` are kept, `delivery` is what
        latencies are counted under. `on_moving` is called when `moving` has changed with the
        stream, `on_understood` with the age of every new frame that was understood and what its
        step took, in seconds. `gaps` are told to workers; without it they are not."""
        self.placement = placement
        self.window = FrameWindow(window_frames)
        self.latencies = Latencies()
        self.witness: Callable[[SampledFrame], None] = _unseen  # sees each frame that is understood
        self.refused_s = float("-inf")  # when a worker last had no room for the session's frames
        self._next_frame = next_frame
        self._take_waiting = take_waiting
        self._num_waiting = num_waiting
        self._on_moving = on_moving
        self._on_understood = on_understood
        self._counts = counts
        self._gaps = gaps
        self._observed = metrics.FRAME_LATENCY.labels(delivery)
        self._connected = asyncio.Event()
        self._next: WorkerStream | None = None  # with another worker, which has taken the session
        self._task: asyncio.Task[None] | None = None
        self._replaying_s: float | None = None  # since when a worker is shown the window

    @property
    def connected(self) -> bool:
        """Whether a worker takes the session's frames now."""
        return self._connected.is_set()

    @property
    def moving(self) -> bool:
        """Whether the session is on its way from one worker to another, or back."""
        return not self.connected or self.placement.is_ending

    async def wait_placed(self, timeout_s: float) -> bool:
        """Wait while the session is moving; False when none took it in time, or none is there that
        could."""
        end_s = time.monotonic() + timeout_s
        while self.moving:
            left_s = end_s - time.monotonic()
            if left_s <= 0 or not self.placement.may_return:
                return False
            moved_on = self.placement.moved_on
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, PLACED_POLL_S)):
                    await (moved_on if self.connected else self._connected).wait()
        return True

    def age_s(self, capture_ns: int) -> float | None:
        """Seconds since the frame of this capture time was sampled here; None for one of which
        nothing is kept. By this clock alone: a publisher's may differ."""
        sampled_s = self.window.sampled_s(capture_ns)
        return None if sampled_s is None else time.monotonic() - sampled_s

    def resize(self, window_segments: int, window_frames: int) -> None:
        """The worker has given the session another window: ask for that from now on, and keep as
        many frames."""
        self.placement.resize(window_segments)
        self.window.resize(window_frames)

    def start(self, stream: WorkerStream) -> None:
        """Carry frames over the stream that `placement` opened, and its successors, until
        `aclose`."""
        self._connected.set()
        self._task = spawn(self._run(stream), name=f"{self.placement.session_id}:frames")

    async def aclose(self, *, keep: bool = False) -> None:
        """End the stream and free the workers' memory, or `keep` it for another gateway. Waits for
        them, but not for long."""
        await cancel_and_wait(self._task)
        # What a session holds must be free once nobody refers to it: with references in a circle it
        # would stay until the collector of garbage comes by, which it rarely does.
        self._task = None
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._next_frame = _closed
        self._take_waiting = list
        self._on_moving = self._on_understood = _nobody
        self.witness = _unseen
        self.window.clear()
        await self.placement.release(keep=keep)

    # --- streams ----------------------------------------------------------------------------

    async def _run(self, stream: WorkerStream) -> None:
        backoff = Backoff()
        fields = {"session": self.placement.session_id}
        while True:
            self._connected.set()
            self._on_moving()
            processed = self._counts.processed
            await self._carry(stream)
            if (successor := self._next) is not None:
                self._next = None
                self.placement.moved(successor)
                stream = successor
            else:
                self._connected.clear()
                self._on_moving()
                self._broken(stream)
                if self._counts.processed > processed:
                    backoff.reset()
                stream = await self._reopen(backoff, refused=stream.refused)
            if not stream.resumed:
                self.window.replay([self._told(frame) for frame in self._take_waiting()])
                metrics.FRAMES_REPLAYED.inc(self.window.num_again)
                self._replaying_s = time.monotonic() if self.window.num_again else None
            elif lost := self.window.resume():
                self._counts.drop("worker_stream_broken", lost)
            worker = stream.worker.address
            log.info(
                "frame stream is back",
                extra=fields | {"worker": worker, "resumed": stream.resumed},
            )

    def _broken(self, stream: WorkerStream) -> None:
        if stream.refused:
            self.refused_s = time.monotonic()
        metrics.WORKER_STREAMS_BROKEN.inc()
        log.warning(
            "frame stream broke",
            extra={
                "session": self.placement.session_id,
                "worker": stream.worker.address,
                "reason": stream.reason,
            },
        )

    async def _reopen(self, backoff: Backoff, *, refused: bool) -> WorkerStream:
        while True:
            await asyncio.sleep(backoff.next_s())
            if self.placement.superseded:  # until whoever keeps the lease finds out
                await asyncio.Event().wait()
            try:
                return await self.placement.reopen(self._num_first(), refused=refused)
            except SightlineError:
                continue

    def _num_first(self) -> int:
        """Frames that a worker which does not know the session is shown first."""
        return self.window.num_first(self._num_waiting())

    async def _carry(self, stream: WorkerStream) -> None:
        """Send and read until the stream is over, or another worker has taken the session."""
        name = f"{self.placement.session_id}:frames"
        sender = spawn(self._send(stream), name=f"{name}:send")
        leaver = spawn(self._leave(stream), name=f"{name}:leave")
        try:
            while (ack := await stream.read()) is not None:
                self._acknowledged(ack)
        finally:
            stream.cancel()
            await cancel_and_wait(sender, leaver)

    async def _leave(self, stream: WorkerStream) -> None:
        """End the stream once another worker has taken the session over from one that is ending."""
        self._next = await self.placement.open_elsewhere(self._num_first)
        stream.cancel()

    async def _send(self, stream: WorkerStream) -> None:
        try:
            while True:
                await stream.writable()
                if (sent := self.window.send_again()) is None:
                    try:
                        frame = await self._next_frame()
                    except QueueClosed:
                        return
                    sent = self.window.send(self._told(frame))
                if not await stream.send(_message(sent)):
                    return
        except Exception:
            stream.cancel()
            raise

    def _told(self, frame: SampledFrame) -> SampledFrame:
        """The next frame, with what is missing before it where workers are told of that."""
        return frame if self._gaps is None else self._gaps.told(frame)

    def _acknowledged(self, ack: inference_pb2.FrameAck) -> None:
        now_s, step_s = time.monotonic(), max(0.0, ack.latency_ms - ack.queue_ms) / 1000
        for sent in self.window.acknowledge(ack.sequence):
            if sent.fresh:
                self._counts.add_processed(sent.frame.sampled_s, ack.strangeness)
                latency_s = now_s - sent.frame.sampled_s
                self._observed.observe(latency_s)
                self.latencies.add(now_s, latency_s)
                self._on_understood(latency_s, step_s)
                self.witness(sent.frame)
        self._counts.add_understood(
            ack.capture_ns, ack.reused_segments, ack.recomputed_segments, ack.strangeness
        )
        if self._replaying_s is not None and not self.window.replaying:
            fields = {"session": self.placement.session_id, "seconds": now_s - self._replaying_s}
            log.info("window replayed", extra=fields)
            self._replaying_s = None


def _message(sent: SentFrame) -> inference_pb2.Frame:
    return inference_pb2.Frame(
        sequence=sent.sequence,
        capture_ns=sent.frame.capture_ns,
        pixels=sent.frame.pixels,
        width=sent.frame.width,
        height=sent.frame.height,
        layout=inference_pb2.PIXEL_LAYOUT_RGB24,
        replayed=not sent.fresh,
        missing=sent.frame.missing,
    )
