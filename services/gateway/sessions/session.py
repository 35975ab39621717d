"""One video being watched: its source, its frames on their way to a worker, its figures."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from services.common.in_flight import InFlight
from services.common.redaction import redacted
from services.gateway.config import GatewayConfig
from services.gateway.frames.frame_counts import FrameCounts
from services.gateway.frames.frame_size import FrameSize
from services.gateway.frames.gaps import Gaps
from services.gateway.frames.picture_health import Condition
from services.gateway.frames.sampler import Glimpse, SampledFrame, Sampler
from services.gateway.playback.broadcast import Broadcast
from services.gateway.playback.recording import Recording
from services.gateway.sessions.arrivals import Arrivals
from services.gateway.sessions.bounds import decode_budget, health_limits
from services.gateway.sessions.figures import Figures
from services.gateway.sessions.frame_feed import FrameFeed
from services.gateway.sessions.own_lease import OwnLease
from services.gateway.sessions.own_source import OwnSource
from services.gateway.sessions.publisher import Publisher
from services.gateway.sessions.question_queue import QuestionQueue
from services.gateway.sessions.rate_steering import RateSteering
from services.gateway.sessions.session_spec import NEVER, SessionSpec
from services.gateway.sessions.source_condition import SourceCondition
from services.gateway.sessions.states import ENDED, LIVE, STALLED, WAITING
from services.gateway.sources.source import FrameSink, Source
from services.gateway.voice.transcript import Transcript, lines_of
from services.gateway.workers.placement import Placement
from services.gateway.workers.resizing import resize
from services.gateway.workers.worker import Worker
from services.gateway.workers.worker_stream import WorkerStream
from sightline.errors import AlreadyExistsError, FailedPreconditionError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2

log = logging.getLogger(__name__)

DEFAULT_FPS = 8.0
CREDIT = 64  # frames a lossless pusher may have on the way when nothing waits
SILENT_S = 3.0  # without a picture, after which a publisher makes way for another with its key
EVICT_S = 5.0  # what it gets to leave


class Session:
    """A session that a worker has admitted. All methods belong to the event loop; only publishers'
    sinks are called from decode threads.

    `stream` is what `placement` opened. `on_change` is called whenever `state` changes. `before`:
    the session as it was with another gateway, which this one goes on with.
    """

    def __init__(
        self,
        spec: SessionSpec,
        placement: Placement,
        stream: WorkerStream,
        config: GatewayConfig,
        on_change: Callable[["Session"], None],
        before: gateway_pb2.Session | None = None,
    ) -> None:
        description = placement.description
        self.id = placement.session_id
        self.spec = spec
        self.key = spec.key  # as its publishers say it; "": nobody here was told
        self._own_name = f"session-{self.id[:4]}"
        self.name = spec.name or self._own_name
        self.labels = dict(spec.labels)
        self.created_ns = time.time_ns()
        self.state = WAITING
        self.since_s = time.monotonic()  # when `state` was entered
        self.used_s = self.since_s  # when somebody last asked or watched
        self.viewers = 0
        self.alive = True
        self.moved = False  # to another gateway
        self.lease = OwnLease()
        self.source_kind = "file" if spec.source else ""
        self.counts = FrameCounts()
        self._publisher: Publisher | None = None  # who is publishing now
        self._own = OwnSource(self.id, spec)
        self._on_change = on_change
        self._description = description
        self._window = spec.window or description.window_segments
        self.fps = spec.fps or description.preferred_fps or DEFAULT_FPS
        self.sampler = Sampler(
            fps=self.fps,
            size=FrameSize.of(description, spec.max_pixels),
            loop=asyncio.get_running_loop(),
            capacity=config.ring_frames,
            lossless=spec.lossless,
            counts=self.counts,
            budget=decode_budget(config),
        )
        self._num_glimpses = config.delegate_frames
        if spec.delegate != NEVER:
            self.sampler.glance(self._num_glimpses)
        steers = config.adaptive_rate and not spec.lossless
        self._rate = RateSteering(self.id, self.sampler, self.fps, steers=steers)
        self._source = SourceCondition(self.id)
        self._health_limits = health_limits(config, repeats=spec.repeats)
        self.transcript: Transcript | None = None  # of what is said in it; None: nobody listens
        self._new_transcript = partial(Transcript, config.transcript_s, config.said_s)
        self.deaf = False  # what is said in it is not understood for now
        self.listen(spec.listen)
        self.broadcast = Broadcast(self.id, asyncio.get_running_loop())
        self.recording: Recording | None = None
        if config.recording_s:
            self.recording = Recording(
                self.id,
                self.broadcast,
                seconds=config.recording_s,
                max_bytes=config.recording_bytes,
            )
            self.recording.start()
        self.feed = FrameFeed(
            placement,
            self._next_frame,
            self._take_waiting,
            self.sampler.__len__,
            self.counts,
            window_frames=self._window * max(1, description.tubelet),
            delivery="lossless" if spec.lossless else "newest",
            on_moving=self._changed,
            on_understood=self._rate.note,
            gaps=Gaps() if config.fill == "hold" else None,
        )
        self.feed.start(stream)
        self.questions = QuestionQueue(config.session_answers)
        self.watches = InFlight(
            "watches",
            owner="the session",
            most=config.session_watches,
            reason=Reason.TOO_MANY_WATCHES,
        )
        self._resizing = asyncio.Lock()
        self._figures = Figures(self.counts, self.feed, self._rate)
        self._source_failed = False
        self._arrivals = Arrivals()
        self._left_s = self.since_s  # when the last publisher left
        if before is not None:
            self._go_on(before, stream)

    @property
    def tenant(self) -> str:
        return self.spec.tenant

    @property
    def condition(self) -> Condition | None:
        """How its pictures are; None where nobody knows."""
        return self._source.now

    @property
    def key_digest(self) -> str:
        """Digest that its publishing key is kept as; "" where nobody publishes to it."""
        return self.spec.key_digest

    # --- life -------------------------------------------------------------------------------

    async def open(
        self, make_source: Callable[[SessionSpec, FrameSink], Source], timeout_s: float
    ) -> None:
        """Start the source of the session's own, if it has one. Raises what it raises, or
        TimeoutError."""
        await self._own.open(make_source, timeout_s, self._admit_own)

    def reopen(
        self,
        make_source: Callable[[SessionSpec, FrameSink], Source],
        timeout_s: float,
        away_s: float = 0.0,
    ) -> None:
        """Start its own source again in the background, where it has one that was not over. A URL
        is tried for `away_s`, for ever where that is 0; a file for a few times."""
        if self.state != ENDED:
            self._own.reopen(make_source, timeout_s, away_s, self._admit_own, self._own_failed)

    def _own_failed(self) -> None:
        self._source_failed = True
        self._enter(ENDED)

    def leave(self) -> None:
        """Take no more pictures: another gateway does. Questions go on; `aclose` follows."""
        self.moved = True
        self.lease.note(float("inf"))
        if self._publisher is not None:
            self._publisher.refuse()
            self._publisher = None
        self.moved_on.set()

    def end(self) -> None:
        """Take no more pictures and change no more; `aclose` follows."""
        self.alive = False
        if self._publisher is not None:
            self._publisher.refuse()

    async def aclose(self) -> None:
        """End the source, and free the worker's memory unless the session has moved."""
        if not self.moved:
            self.end()
        await self._own.stay_closed()
        self.sampler.close()  # first: a decode thread may be waiting for room
        await self._own.aclose()
        if self.recording is not None:
            await self.recording.aclose()
        await self.broadcast.aclose()
        await self.feed.aclose(keep=self.moved)

    def _go_on(self, before: gateway_pb2.Session, stream: WorkerStream) -> None:
        """Be what it was, as far as the worker still knows it."""
        self.created_ns = before.created_ns
        self.source_kind = before.source_kind
        self._figures.go_on(before.stats, stream)
        if before.stats.frames_received:
            self.sampler.settle_size(before.frame_width, before.frame_height)
        if before.state == ENDED:
            self.state = ENDED
        elif before.state in (LIVE, STALLED) and not self.spec.source:
            self.state = STALLED

    # --- changes while it runs --------------------------------------------------------------

    async def resize(self, window: int) -> None:
        """Let the worker give the session another window, of so many segments; 0: the model's
        default. Raises what the worker answers, FailedPreconditionError for one that cannot."""
        async with self._resizing:  # the last wish holds, at the worker and here
            self._window = await resize(self.worker, self.id, window)
            self.spec = replace(self.spec, window=window)
            tubelet = max(1, self._description.tubelet)
            self.feed.resize(window, self._window * tubelet)

    def set_fps(self, fps: float) -> None:
        """Show the model so many frames a second from now on; 0: as many as it prefers."""
        self.fps = fps or self._description.preferred_fps or DEFAULT_FPS
        self._rate.want(self.fps)
        self.spec = replace(self.spec, fps=fps)

    def delegate(self, mode: gateway_pb2.DelegateMode, to: str) -> None:
        """Let another model answer these questions from now on."""
        self.spec = replace(self.spec, delegate=mode, delegate_to=to)
        self.sampler.glance(self._num_glimpses if mode != NEVER else 0)

    def amend(self, *, name: str, grace_s: float, labels: Mapping[str, str]) -> None:
        """Change what the gateway alone knows of it. An empty name is the one that it chooses."""
        self.name = name or self._own_name
        self.spec = replace(self.spec, name=name, grace_s=grace_s)
        self.labels = dict(labels)

    def listen(self, wanted: bool) -> None:
        """Hear what is said in it from here on, or nothing, and forget what was."""
        self.spec = replace(self.spec, listen=wanted)
        self.deaf = False
        if not wanted:
            self.transcript = None
        elif self.transcript is None:
            self.transcript = self._new_transcript()

    # --- publishers -------------------------------------------------------------------------

    async def make_way(self) -> None:
        """End a publisher who has shown nothing for a while, because another has come with its
        key: a network that broke leaves connections behind that end much later."""
        publisher = self._publisher
        if publisher is None or publisher.evict is None:
            return
        if time.monotonic() - max(self._arrivals.last_s, publisher.admitted_s) > SILENT_S:
            log.info("publisher replaced", extra={"session": self.id, "kind": publisher.kind})
            publisher.evict()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVICT_S):
                    await publisher.gone.wait()

    def admit(
        self, kind: str, *, own: bool = False, evict: Callable[[], None] | None = None
    ) -> Publisher:
        """Give the session to a publisher until it leaves: the one place where the coming and
        going of a source changes a session. `own`: the source that the session itself reads;
        `evict` ends the publisher's connection soon.

        Raises AlreadyExistsError when there is a publisher, FailedPreconditionError when the
        session has a source of its own.
        """
        if self.spec.source and not own:
            raise FailedPreconditionError(
                "this session reads a source of its own", reason=Reason.NOT_A_PUSH_SESSION
            )
        if self._publisher is not None:
            raise AlreadyExistsError(
                f"somebody else is publishing to this session ({self._publisher.kind})",
                reason=Reason.PUBLISHER_PRESENT,
            )
        self.source_kind = kind
        self.broadcast.restart()
        self._publisher = Publisher(
            kind, self.sampler, self.broadcast, self._publisher_left, self._health_limits, evict
        )
        return self._publisher

    @contextlib.contextmanager
    def _admit_own(self) -> Iterator[FrameSink]:
        """The session's sink for its own source, which is taken back where that does not start."""
        publisher = self.admit("file", own=True)
        try:
            yield publisher.sink
        except BaseException:
            publisher.refuse()
            self._publisher = None
            raise

    def abandoned_s(self, now_s: float) -> float:
        """Seconds that it has waited for a publisher who left; 0 where it does not."""
        if self.state != STALLED or self._publisher is not None:
            return 0.0
        return now_s - max(self.since_s, self._left_s)

    def _publisher_left(self, reason: str) -> None:
        self._publisher, self._left_s = None, time.monotonic()
        if self.spec.source:
            self._source_failed = reason == "error"
        if self.spec.source or reason == "end":
            self._enter(ENDED)
        elif self.state == LIVE:
            self._enter(STALLED)

    async def _next_frame(self) -> SampledFrame:
        frame = await self.sampler.get()
        self._shown()
        return frame

    def _take_waiting(self) -> list[SampledFrame]:
        if waiting := self.sampler.take_waiting():
            self._shown()
        return waiting

    def _shown(self) -> None:
        if self.state != LIVE and self._publisher:
            self._enter(LIVE)

    def _enter(self, state: gateway_pb2.SessionState) -> None:
        if state != self.state and self.alive:
            self.state = state
            self.since_s = time.monotonic()
            self._judge()
            self._on_change(self)

    def _judge(self) -> bool:
        """Take note of how the pictures are; whether they have become good or bad."""
        publisher = self._publisher
        return self._source.judge(self.state, None if publisher is None else publisher.health)

    def _changed(self) -> None:
        if self.alive:
            self._on_change(self)

    # --- questions --------------------------------------------------------------------------

    @property
    def worker(self) -> Worker:
        """The worker that answers about this session."""
        return self.feed.placement.worker

    @property
    def moving(self) -> bool:
        """Whether the session is on its way to another worker, or back; questions wait then."""
        return self.feed.moving

    async def wait_placed(self, timeout_s: float) -> bool:
        """Wait while the session moves to another worker; False when none took it in time, or none
        is there that could."""
        await self.lease.wait_told(timeout_s)
        return await self.feed.wait_placed(timeout_s)

    @property
    def published(self) -> bool:
        """Whether somebody publishes to it now."""
        return self._publisher is not None

    async def preview(self, max_width: int) -> bytes | None:
        """The newest picture as JPEG; None before the first."""
        return await self.sampler.preview(max_width)

    async def picture_of(self, capture_ns: int, max_width: int) -> bytes | None:
        """What the model saw at a capture time, as JPEG; the newest picture where that is not known
        any more, None before the first."""
        frame = self.feed.window.frame_at(capture_ns)
        if frame is None:
            return await self.preview(max_width)
        return await self.sampler.picture_of(frame, max_width)

    @property
    def delegation(self) -> tuple[gateway_pb2.DelegateMode, str]:
        """Which questions another model answers, and which model or pool that is."""
        return self.spec.delegate, self.spec.delegate_to

    async def glimpses(self) -> list[Glimpse]:
        """Its last pictures, for a delegate; none before the first."""
        return await self.sampler.glimpses()

    @property
    def moved_on(self) -> asyncio.Event:
        """Set once the session has left the worker that it has now."""
        return self.feed.placement.moved_on

    def check_answerable(self) -> None:
        """Raises FailedPreconditionError where no frame has come that could be asked about, and
        none is on its way."""
        if not (self.counts.processed or self.waiting_frames or self._publisher):
            raise FailedPreconditionError(
                "no frame has been understood yet", reason=Reason.NO_FRAME_YET
            )

    @property
    def shown_again(self) -> bool:
        """Whether a worker that has none of its frames will have some in a moment."""
        return bool(self.counts.processed and (self.waiting_frames or self._publisher))

    def said_lines(self) -> str:
        """What was said in it lately, for a question."""
        if self.transcript is None:
            return ""
        now_ns = time.time_ns()
        return lines_of(self.transcript.lately(now_ns), now_ns)

    def frame_age_s(self, capture_ns: int) -> float | None:
        """Age of a frame that the feed knows."""
        return self.feed.age_s(capture_ns)

    @property
    def unfamiliar(self) -> bool:
        """Whether its newest pictures are unlike those that its model was trained on."""
        return self._figures.unfamiliar

    def note_degraded(self, flags: list[str]) -> None:
        """Remember what an answer went without; an empty list says that all is well again."""
        self._figures.note_degraded(flags)

    def touch(self) -> None:
        self.used_s = time.monotonic()

    # --- figures ----------------------------------------------------------------------------

    @property
    def waiting_frames(self) -> int:
        """Sampled frames that the model has not seen yet."""
        return len(self.sampler) + self.feed.window.num_waiting

    @property
    def credit(self) -> int:
        """Frames a lossless pusher may have on the way."""
        return max(0, CREDIT - self.waiting_frames)

    def staleness_s(self, now_s: float) -> float:
        """Since the newest understood frame was sampled; without one, since its state began."""
        newest_s = self.counts.newest_s
        return max(0.0, now_s - (self.since_s if newest_s is None else newest_s))

    def tick(self, now_s: float) -> None:
        """Once a second: rates, and the counters that Prometheus reads."""
        counts, before = self._figures.tick(now_s, self.source_kind or "none")
        self._arrivals.note(now_s, counts, before, waiting=bool(self.waiting_frames))
        if self.state == LIVE and self._arrivals.stopped(now_s, self.since_s):
            self._enter(STALLED)  # a publisher or a camera that is there and shows nothing
        away = self.moving or self.feed.window.replaying
        busy = self.worker.load.device_busy
        steered = self._rate.steer(now_s, counts, before, away=away, busy=busy)
        if self._judge() or steered:
            self._changed()

    def message(self) -> gateway_pb2.Session:
        """The session as viewers see it: without its key, its source without passwords."""
        return gateway_pb2.Session(
            id=self.id,
            name=self.name,
            state=self.state,
            source_kind=self.source_kind,
            source=redacted(self.spec.source),
            model=self._description.model,
            window=self._window,
            fps=self.fps,
            frame_width=self.sampler.size[0],
            frame_height=self.sampler.size[1],
            worker=self.feed.placement.worker.name,
            created_ns=self.created_ns,
            stats=self._figures.message(self._flags()),
            delivery=(
                gateway_pb2.DELIVERY_LOSSLESS if self.spec.lossless else gateway_pb2.DELIVERY_NEWEST
            ),
            labels=self.labels,
            grace_s=self.spec.grace_s,
            moving=self.moving,
            source_health=self._source.message(),
            sound=self.broadcast.sound.is_heard,
            memory=self.spec.memory,
            listens=self.transcript is not None,
            delegate=self.spec.delegate,
            delegate_to=self.spec.delegate_to,
        )

    def _flags(self) -> list[str]:
        """What it goes without for a reason of its own."""
        flags = []
        if self._source_failed:
            flags.append("source_failed")
        if self.deaf:
            flags.append("transcript_unavailable")
        return flags
