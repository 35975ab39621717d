"""One video being watched: its source, its frames on their way to a worker, its figures."""

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import grpc

from services.common.errors import RESTARTING_S, error_of_peer
from services.common.in_flight import InFlight
from services.common.redaction import redacted
from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.config import GatewayConfig
from services.gateway.frames.frame_size import FrameSize
from services.gateway.frames.sampler import SampledFrame, Sampler
from services.gateway.sessions.quotas import Turns
from services.gateway.sources.source import DecodeBudget, PictureSink, Source
from services.gateway.workers.worker_stream import FrameLink
from services.gateway.workers.workers import MODEL, Worker
from sightline.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    SightlineError,
    UnavailableError,
)
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2, inference_pb2, inference_pb2_grpc

WAITING = gateway_pb2.SESSION_STATE_WAITING
LIVE = gateway_pb2.SESSION_STATE_LIVE
STALLED = gateway_pb2.SESSION_STATE_STALLED
ENDED = gateway_pb2.SESSION_STATE_ENDED
STATE_NAMES = {WAITING: "waiting", LIVE: "live", STALLED: "stalled", ENDED: "ended"}

DEFAULT_FPS = 8.0
DEGRADED_S = 30.0  # how long what an answer said about its peers is shown
CREDIT = 64  # frames a lossless pusher may have on the way when nothing waits
RESIZE_TIMEOUT_S = 10.0
RATE_S = 3  # seconds that rates are averaged over


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a session was asked to be, checked and with defaults filled in."""

    name: str
    source: str  # "": publishers push
    key: str
    fps: float
    window: int  # segments; 0: the worker's default
    max_pixels: int  # of a frame; 0: the worker's default
    lossless: bool
    loop: bool
    grace_s: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Tick:
    at_s: float
    received: int
    processed: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Frames understood and lost, and the capture time of the newest understood one."""

    processed: int
    dropped: int
    capture_ns: int


class Session:
    """All methods belong to the event loop; only the sampler is called from decode threads.

    `on_change` is called whenever `state` changes.
    """

    def __init__(
        self,
        plan: Plan,
        worker: Worker,
        description: inference_pb2.ModelDescription,
        config: GatewayConfig,
        on_change: Callable[["Session"], None],
    ) -> None:
        self.id = secrets.token_hex(8)
        self.plan = plan
        self._own_name = f"session-{self.id[:4]}"
        self.name = plan.name or self._own_name
        self.labels = dict(plan.labels)
        self.created_ns = time.time_ns()
        self.state = WAITING
        self.since_s = time.monotonic()  # when `state` was entered
        self.used_s = self.since_s  # when somebody last asked or watched
        self.viewers = 0
        self.alive = True
        self.source_kind = "file" if plan.source else ""
        self._publisher = ""  # kind of who is publishing now
        self._source: Source | None = None
        self._on_change = on_change
        self._description = description
        self._window = plan.window or description.window_segments
        self.fps = plan.fps or description.preferred_fps or DEFAULT_FPS
        self.sampler = Sampler(
            fps=self.fps,
            size=FrameSize.of(description, plan.max_pixels),
            loop=asyncio.get_running_loop(),
            capacity=config.ring_frames,
            lossless=plan.lossless,
            on_ended=self._source_ended,
            budget=DecodeBudget(decoder_bytes=config.decoder_bytes, picture_s=config.picture_s),
        )
        self.link = FrameLink(
            self.id,
            worker,
            self._next_frame,
            window_segments=plan.window,
            max_pixels=plan.max_pixels,
            window_frames=self._window * max(1, description.tubelet),
            grace_s=config.worker_grace_s,
            open_timeout_s=config.open_timeout_s,
            delivery="lossless" if plan.lossless else "newest",
        )
        self.turns = Turns(config.session_answers)
        self.watches = InFlight(
            "watches",
            owner="the session",
            most=config.session_watches,
            reason=Reason.TOO_MANY_WATCHES,
        )
        self._resizing = asyncio.Lock()
        self._degraded: dict[str, float] = {}
        self._source_failed = False
        self._ticks: deque[_Tick] = deque(maxlen=RATE_S + 1)
        self._counted = (0, 0, 0)
        self._counted_drops: Counter[str] = Counter()
        self._counted_notes: Counter[str] = Counter()

    # --- life -------------------------------------------------------------------------------

    async def open(self, source: Source | None, timeout_s: float) -> None:
        """Start a source of the session's own. Raises what it raises, or TimeoutError."""
        self._source = source
        if source is not None:
            self._publisher = source.kind
            async with asyncio.timeout(timeout_s):
                await source.start()

    async def aclose(self) -> None:
        """End the source and free the worker's memory."""
        self.alive = False
        self.sampler.close()  # first: a decode thread may be waiting for room
        if self._source is not None:
            closing = spawn(self._source.aclose(), name=f"{self.id}:source:close")
            done, _ = await asyncio.wait({closing}, timeout=5)
            if not done:
                await cancel_and_wait(closing)
        await self.link.aclose()

    # --- changes while it runs --------------------------------------------------------------

    async def resize(self, window: int) -> None:
        """Let the worker give the session another window, of so many segments; 0: the model's
        default. Raises what the worker answers, FailedPreconditionError for one that cannot."""
        async with self._resizing:  # the last wish holds, at the worker and here
            worker = self.link.worker
            request = inference_pb2.ResizeSessionRequest(session_id=self.id, window_segments=window)
            try:
                reply = await worker.stub.ResizeSession(request, timeout=RESIZE_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise _not_resized(error) from None
            self._window = reply.window_segments
            tubelet = max(1, self._description.tubelet)
            self.link.resize(window, window_frames=self._window * tubelet)

    def set_fps(self, fps: float) -> None:
        """Show the model so many frames a second from now on; 0: as many as it prefers."""
        self.fps = fps or self._description.preferred_fps or DEFAULT_FPS
        self.sampler.set_fps(self.fps)

    def amend(self, *, name: str, grace_s: float, labels: Mapping[str, str]) -> None:
        """Change what the gateway alone knows of it. An empty name is the one that it chooses."""
        self.name = name or self._own_name
        self.plan = replace(self.plan, name=name, grace_s=grace_s)
        self.labels = dict(labels)

    # --- publishers -------------------------------------------------------------------------

    def admit(self, kind: str) -> PictureSink:
        """Give the session to a publisher until `release`. Raises AlreadyExistsError when there
        is one, FailedPreconditionError when the session has a source of its own.
        """
        if self.plan.source:
            raise FailedPreconditionError(
                "this session reads a source of its own", reason=Reason.NOT_A_PUSH_SESSION
            )
        if self._publisher:
            raise AlreadyExistsError(
                f"somebody else is publishing to this session ({self._publisher})",
                reason=Reason.PUBLISHER_PRESENT,
            )
        self._publisher = self.source_kind = kind
        return self.sampler

    def release(self) -> None:
        """The publisher has left."""
        self._publisher = ""
        if self.state == LIVE:
            self._enter(STALLED)

    def _source_ended(self, reason: str) -> None:
        self._publisher = ""
        if self.plan.source:
            self._source_failed = reason == "error"
            self._enter(ENDED)
        elif reason == "end":
            self._enter(ENDED)
        elif self.state == LIVE:
            self._enter(STALLED)

    async def _next_frame(self) -> SampledFrame:
        frame = await self.sampler.get()
        if self.state != LIVE and self._publisher:
            self._enter(LIVE)
        return frame

    def _enter(self, state: gateway_pb2.SessionState) -> None:
        if state != self.state and self.alive:
            self.state = state
            self.since_s = time.monotonic()
            self._on_change(self)

    # --- questions --------------------------------------------------------------------------

    @property
    def stub(self) -> inference_pb2_grpc.InferenceServiceStub:
        """The worker that answers about this session."""
        return self.link.worker.stub

    def check_answerable(self) -> None:
        """Raises FailedPreconditionError where no frame has come that could be asked about, and
        none is on its way."""
        if not (self.link.processed or self.waiting_frames or self._publisher):
            raise FailedPreconditionError(
                "no frame has been understood yet", reason=Reason.NO_FRAME_YET
            )

    def frame_age_s(self, capture_ns: int) -> float | None:
        """As of the link."""
        return self.link.age_s(capture_ns)

    def note_degraded(self, flags: list[str]) -> None:
        """Remember what an answer went without; an empty list says that all is well again."""
        self._degraded = dict.fromkeys(flags, time.monotonic())

    def touch(self) -> None:
        self.used_s = time.monotonic()

    # --- figures ----------------------------------------------------------------------------

    @property
    def waiting_frames(self) -> int:
        """Sampled frames that the model has not seen yet."""
        return len(self.sampler) + self.link.waiting

    @property
    def credit(self) -> int:
        """Frames a lossless pusher may have on the way."""
        return max(0, CREDIT - self.waiting_frames)

    def progress(self) -> Progress:
        """How far the frames have come, all publishers together."""
        dropped = self.sampler.counts().dropped.total() + self.link.dropped.total()
        return Progress(self.link.processed, dropped, self.link.last_capture_ns)

    def staleness_s(self, now_s: float) -> float:
        """Since the newest understood frame was sampled; without one, since its state began."""
        newest_s = self.link.newest_s
        return max(0.0, now_s - (self.since_s if newest_s is None else newest_s))

    def tick(self, now_s: float) -> None:
        """Once a second: rates, and the counters that Prometheus reads."""
        counts = self.sampler.counts()
        self._ticks.append(_Tick(now_s, counts.received, self.link.processed))
        kind = self.source_kind or "none"
        received, sampled, processed = self._counted
        metrics.FRAMES_RECEIVED.labels(kind).inc(counts.received - received)
        metrics.FRAMES_SAMPLED.labels(kind).inc(counts.sampled - sampled)
        metrics.FRAMES_PROCESSED.inc(self.link.processed - processed)
        self._counted = (counts.received, counts.sampled, self.link.processed)
        drops = counts.dropped + self.link.dropped
        for reason, count in drops.items():
            metrics.FRAMES_DROPPED.labels(reason).inc(count - self._counted_drops[reason])
        self._counted_drops = drops
        for what, count in counts.noted.items():
            metrics.SOURCE_NOTES.labels(what).inc(count - self._counted_notes[what])
        self._counted_notes = counts.noted

    def message(self) -> gateway_pb2.Session:
        """The session as viewers see it: without its key, its source without passwords."""
        return gateway_pb2.Session(
            id=self.id,
            name=self.name,
            state=self.state,
            source_kind=self.source_kind,
            source=redacted(self.plan.source),
            model=self._description.model,
            window=self._window,
            fps=self.fps,
            frame_width=self.sampler.size[0],
            frame_height=self.sampler.size[1],
            worker=self.link.worker.name,
            created_ns=self.created_ns,
            stats=self._stats(),
            delivery=(
                gateway_pb2.DELIVERY_LOSSLESS if self.plan.lossless else gateway_pb2.DELIVERY_NEWEST
            ),
            labels=self.labels,
            grace_s=self.plan.grace_s,
        )

    def _stats(self) -> gateway_pb2.SessionStats:
        counts = self.sampler.counts()
        link = self.link
        p50_ms, p95_ms = link.latencies.percentiles_ms(time.monotonic(), (0.50, 0.95))
        history = link.reused_segments + link.recomputed_segments
        return gateway_pb2.SessionStats(
            fps_in=self._rate(lambda tick: tick.received),
            fps_processed=self._rate(lambda tick: tick.processed),
            frames_received=counts.received,
            frames_sampled=counts.sampled,
            frames_processed=link.processed,
            dropped=counts.dropped + link.dropped,
            frame_latency_p50_ms=p50_ms,
            frame_latency_p95_ms=p95_ms,
            kv_hit_ratio=link.reused_segments / history if history else 1.0,
            last_capture_ns=link.last_capture_ns,
            clock_source=counts.clock_source or "",
            degraded=self._flags(),
            source_width=counts.source_width,
            source_height=counts.source_height,
        )

    def _rate(self, of: Callable[[_Tick], int]) -> float:
        if len(self._ticks) < 2:
            return 0.0
        first, last = self._ticks[0], self._ticks[-1]
        return (of(last) - of(first)) / max(1e-6, last.at_s - first.at_s)

    def _flags(self) -> list[str]:
        oldest_s = time.monotonic() - DEGRADED_S
        flags = [flag for flag, at_s in self._degraded.items() if at_s > oldest_s]
        if not self.link.connected:
            flags.append("worker_unavailable")
        if self.link.refused_s > oldest_s:
            flags.append("worker_full")
        if self._source_failed:
            flags.append("source_failed")
        return flags


def _not_resized(error: grpc.aio.AioRpcError) -> SightlineError:
    """What is told of a window that did not change."""
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return FailedPreconditionError(
            "this session's worker is of an earlier version, which changes no window while a "
            "session runs: open another session",
            reason=Reason.NOT_CHANGEABLE,
        )
    refusal = error_of_peer(error, MODEL)
    if error.code() is grpc.StatusCode.NOT_FOUND:  # it was started again, and hears of it soon
        return UnavailableError(
            "The model is restarting: try again in some seconds",
            reason=Reason.MODEL_AWAY,
            retry_after_s=RESTARTING_S,
        )
    return refusal
