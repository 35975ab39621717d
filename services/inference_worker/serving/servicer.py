"""InferenceService: the worker's calls, between gRPC and the engine."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from grpc.aio import ServicerContext

from services.common.checks import (
    check_id,
    check_question,
    check_seconds,
    check_statements,
    check_watch,
)
from services.common.in_flight import InFlight
from services.common.protocol import PROTOCOL
from services.common.tasks import cancel_and_wait, spawn
from services.inference_worker import metrics
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.jobs import FrameJob, FrameReceipt
from services.inference_worker.model.layout import FrameLayout
from services.inference_worker.serving.answering import Answerer
from services.inference_worker.serving.brain import Brain
from services.inference_worker.serving.fallback import StandIn
from services.inference_worker.serving.guard import Guard
from services.inference_worker.serving.noting import Noter
from services.inference_worker.serving.scoring import Scorer
from services.inference_worker.serving.sessions import Attachment, Sessions, WorkerSession
from services.inference_worker.serving.watching import Watcher
from sightline.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    SightlineError,
    UnavailableError,
)
from sightline.v1 import gateway_pb2, inference_pb2
from sightline.v1.inference_pb2_grpc import InferenceServiceServicer

log = logging.getLogger(__name__)

Context = ServicerContext[Any, Any]
Receipts = asyncio.Queue[FrameReceipt | Exception | None]

LOAD_WINDOW_S = 5.0
LATEST_NS = 2**62  # in 2116; a later frame would keep every one after it out


class InferenceServicer(InferenceServiceServicer):
    """Serves one engine. Bad input is refused to its sender; the engine never sees it."""

    def __init__(
        self,
        engine: Brain,
        answerer: Answerer,
        config: WorkerConfig,
        fallback: StandIn | None = None,
    ) -> None:
        self._engine = engine
        self._guard = Guard(answerer, fallback, config)
        self._config = config
        self._sessions = Sessions(engine)
        self._watcher = Watcher(
            engine,
            self._sessions,
            self._guard,
            config.question_tokens,
            config.watches_per_session,
            withholds=config.withholds,
        )
        self._scorer = Scorer(
            engine,
            config.question_tokens,
            max(1, config.waiting_questions // 2),
            config.withholds,
        )
        self._noter = Noter(engine, config.withholds, config.note_wait_s)
        self._answers = InFlight("questions", owner="the worker", most=config.max_answers)
        self._busy: deque[tuple[float, float]] = deque([(time.monotonic(), 0.0)], maxlen=256)

    async def drain(self) -> None:
        """Refuse new sessions and questions, and let the answers under way end."""
        await self._answers.drain()
        await self._guard.aclose()

    async def Describe(
        self, request: inference_pb2.DescribeRequest, context: Context
    ) -> inference_pb2.ModelDescription:
        spec, now = self._engine.model.spec, self._engine.snapshot()
        return inference_pb2.ModelDescription(
            model=spec.name,
            frame_width=spec.layout.width,
            frame_height=spec.layout.height,
            layouts=[inference_pb2.PIXEL_LAYOUT_RGB24],
            tubelet=spec.tubelet,
            tokens_per_segment=spec.layout.segment_tokens,
            window_segments=spec.window_segments,
            max_window_segments=self._engine.limits.max_window_segments,
            preferred_fps=spec.preferred_fps,
            max_sessions=now.capacity,
            free_sessions=now.num_admissible,
            dtype=self._engine.dtype_name,
            device=self._engine.device_name,
            frame_queue=self._engine.limits.frame_queue,
            size_factor=spec.size_factor,
            min_pixels=spec.min_pixels,
            max_pixels=spec.max_pixels,
            protocol_major=PROTOCOL[0],
            protocol_minor=PROTOCOL[1],
            card=gateway_pb2.ModelCard(**asdict(self._engine.model.card)),
            pool=self._config.pool,
        )

    # Frames

    async def StreamFrames(
        self, request_iterator: AsyncIterator[inference_pb2.StreamFramesRequest], context: Context
    ) -> AsyncIterator[inference_pb2.StreamFramesResponse]:
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("message") != "open":
            raise FailedPreconditionError("the first message must be `open`")
        session, attachment, resumed = await self._open(first.open)
        # From here on the session is this call's, even if the caller is gone already. Not in the
        # `finally` below: of a generator that a lost caller left behind, it may run only when
        # garbage is collected.
        context.add_done_callback(
            lambda _: self._sessions.detach(session, attachment)  # type: ignore[arg-type]
        )
        receipts: Receipts = asyncio.Queue()  # bounded by the credit
        tasks: list[asyncio.Task[None]] = []
        try:
            opened = inference_pb2.Opened(
                credit=self._credit(session),
                resumed=resumed,
                last_capture_ns=session.last_capture_ns,
            )
            yield inference_pb2.StreamFramesResponse(opened=opened)
            frames = self._read_frames(request_iterator, session, attachment, receipts)
            tasks.append(spawn(frames, name=f"{session.id}:frames"))
            replaced = _replaced(attachment, receipts)
            tasks.append(spawn(replaced, name=f"{session.id}:replaced"))
            while (receipt := await receipts.get()) is not None:
                if isinstance(receipt, Exception):
                    raise receipt
                session.understood()
                credit = self._credit(session)
                yield inference_pb2.StreamFramesResponse(ack=_ack(receipt, credit))
        finally:
            await cancel_and_wait(*tasks)

    def _credit(self, session: WorkerSession) -> int:
        """Frames that may be in flight: more of them while a window is replayed, so that every step
        is full and questions wait no longer than need be."""
        limits = self._engine.limits
        return limits.frame_queue + (limits.replay_queue if session.replays else 0)

    async def _open(
        self, request: inference_pb2.OpenStream
    ) -> tuple[WorkerSession, Attachment, bool]:
        if not 0 < len(request.session_id) <= 128:
            raise InvalidArgumentError("session_id must have 1 to 128 characters")
        if self._answers.draining:
            raise UnavailableError("the worker is draining")
        check_seconds("grace_s", request.grace_s)
        grace_s = request.grace_s if request.HasField("grace_s") else self._config.grace_s
        attached = await self._sessions.attach(
            request.session_id,
            request.window_segments,
            request.max_pixels,
            min(grace_s, 3600.0),
            request.replays,
            request.fence,
            request.priority,
        )
        session, _, resumed = attached
        if not resumed:
            self._guard.take(session, request.window_segments)
        return attached

    async def _read_frames(
        self,
        requests: AsyncIterator[inference_pb2.StreamFramesRequest],
        session: WorkerSession,
        attachment: Attachment,
        receipts: Receipts,
    ) -> None:
        """Feed the engine. Ends with None in `receipts` once all that was sent is understood, or
        with the error that ends the stream."""
        loop = asyncio.get_running_loop()
        in_flight = 0
        idle = asyncio.Event()
        idle.set()

        def arrived(receipt: FrameReceipt | Exception) -> None:
            nonlocal in_flight
            in_flight -= 1
            if in_flight == 0:
                idle.set()
            receipts.put_nowait(receipt)

        def done(receipt: FrameReceipt | Exception) -> None:
            loop.call_soon_threadsafe(arrived, receipt)

        try:
            async for request in requests:
                if attachment.replaced.is_set():  # from here on the frames are another's
                    return
                frame, layout = self._checked(request, session)
                in_flight += 1
                idle.clear()
                job = FrameJob(
                    pixels=frame.pixels,
                    layout=layout,
                    capture_ns=frame.capture_ns,
                    sequence=frame.sequence,
                    arrived_s=time.monotonic(),
                    done=done,
                    replayed=frame.replayed,
                    missing=frame.missing,
                )
                self._engine.submit_frame(session.id, job)
                frame.width, frame.height = layout.width, layout.height
                self._guard.show(session, frame)
            await idle.wait()
            receipts.put_nowait(None)
        except SightlineError as error:
            await idle.wait()
            receipts.put_nowait(error)

    def _checked(
        self, request: inference_pb2.StreamFramesRequest, session: WorkerSession
    ) -> tuple[inference_pb2.Frame, FrameLayout]:
        if request.WhichOneof("message") != "frame":
            raise FailedPreconditionError("only frames may follow `open`")
        frame = request.frame
        if frame.layout not in (
            inference_pb2.PIXEL_LAYOUT_UNSPECIFIED,
            inference_pb2.PIXEL_LAYOUT_RGB24,
        ):
            raise InvalidArgumentError(f"frame {frame.sequence}: unknown pixel layout")
        layout = self._layout(frame, session)
        if len(frame.pixels) != layout.frame_bytes:
            raise InvalidArgumentError(
                f"frame {frame.sequence} has {len(frame.pixels)} bytes, one of "
                f"{layout.width}×{layout.height} has {layout.frame_bytes}"
            )
        if not 0 <= frame.capture_ns <= LATEST_NS:
            raise InvalidArgumentError(f"frame {frame.sequence} has an absurd capture_ns")
        if frame.capture_ns < session.last_capture_ns and not frame.replayed:
            raise InvalidArgumentError(
                f"frame {frame.sequence} was captured before the frame that preceded it"
            )
        session.last_capture_ns = max(frame.capture_ns, session.last_capture_ns)
        session.layout = layout
        return frame, layout

    def _layout(self, frame: inference_pb2.Frame, session: WorkerSession) -> FrameLayout:
        """The session's layout. Raises InvalidArgumentError for a frame of another size."""
        default = self._engine.model.spec.layout
        width, height = frame.width or default.width, frame.height or default.height
        layout = session.layout
        if layout is None:
            layout = self._engine.model.layout(width, height)
            if layout.segment_tokens > session.most_tokens:
                raise InvalidArgumentError(
                    f"frames of {width}×{height} are more than the session was opened for"
                )
        elif (width, height) != (layout.width, layout.height):
            raise InvalidArgumentError(
                f"frame {frame.sequence} has {width}×{height} pixels, the session's frames have "
                f"{layout.width}×{layout.height}"
            )
        return layout

    async def ReleaseSession(
        self, request: inference_pb2.ReleaseSessionRequest, context: Context
    ) -> inference_pb2.ReleaseSessionResponse:
        await self._sessions.release(request.session_id, request.fence)
        return inference_pb2.ReleaseSessionResponse()

    # Questions

    async def Answer(
        self, request: inference_pb2.AnswerRequest, context: Context
    ) -> AsyncIterator[inference_pb2.AnswerEvent]:
        session = self._accepts_questions(request.session_id)
        check_question(request.question)
        check_id("conversation", request.conversation)
        with self._answers.under_way():
            await self._sessions.catch_up(session, self._config.first_frame_s)
            async with contextlib.aclosing(self._guard.answer(session, request)) as events:
                async for event in events:
                    yield event

    async def WatchSession(
        self, request: inference_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.WatchEvent]:
        session = self._accepts_questions(request.session_id)
        check_watch(request.watch)
        async with contextlib.aclosing(self._watcher.watch(session, request)) as events:
            async for event in events:
                yield event

    async def ScoreStatements(
        self, request: inference_pb2.ScoreStatementsRequest, context: Context
    ) -> inference_pb2.ScoreStatementsResponse:
        session = self._accepts_questions(request.session_id)
        check_statements(list(request.statements))
        with self._answers.under_way():
            await self._sessions.catch_up(session, self._config.first_frame_s)
            return await self._scorer.score(session.id, list(request.statements))

    async def ResizeSession(
        self, request: inference_pb2.ResizeSessionRequest, context: Context
    ) -> inference_pb2.ResizeSessionResponse:
        session = self._sessions.get(request.session_id)
        segments = await self._sessions.resize(session, request.window_segments)
        return inference_pb2.ResizeSessionResponse(window_segments=segments)

    def _accepts_questions(self, session_id: str) -> WorkerSession:
        if self._answers.draining:
            raise UnavailableError("the worker is draining")
        return self._sessions.get(session_id)

    async def Note(
        self, request: inference_pb2.NoteRequest, context: Context
    ) -> inference_pb2.NoteResponse:
        session = self._accepts_questions(request.session_id)
        await self._sessions.catch_up(session, self._config.first_frame_s)
        if self._guard.stand_in(session) is not None:  # what the model says now is not sound
            return inference_pb2.NoteResponse(last_capture_ns=session.last_capture_ns)
        return await self._noter.note(session.id)

    # Load

    async def Load(
        self, request: inference_pb2.LoadRequest, context: Context
    ) -> AsyncIterator[inference_pb2.LoadReport]:
        check_seconds("interval_s", request.interval_s)
        interval_s = min(max(request.interval_s or 1.0, 0.1), 60.0)
        while True:
            yield self._load()
            await asyncio.sleep(interval_s)

    def _load(self) -> inference_pb2.LoadReport:
        engine, now_s = self._engine.snapshot(), time.monotonic()
        self._busy.append((now_s, engine.busy_s))
        while len(self._busy) > 2 and now_s - self._busy[0][0] > LOAD_WINDOW_S:
            self._busy.popleft()
        since_s, before = self._busy[0]
        share = (engine.busy_s - before) / (now_s - since_s) if now_s > since_s else 0.0
        share = max(0.0, share)  # what the warm-up took is taken off the count when it ends
        metrics.ENGINE_BUSY.set(min(1.0, share))
        queue_s = _since(now_s - LOAD_WINDOW_S, engine.queued_s)
        return inference_pb2.LoadReport(
            sessions=len(engine.sessions),
            max_sessions=engine.capacity,
            kv_pages_used=engine.pages_used,
            kv_pages_total=engine.pages_total,
            running_answers=engine.num_running,
            queue_delay_ms=1000 * float(np.quantile(queue_s, 0.95)) if queue_s else 0.0,
            device_busy=min(1.0, share),
            draining=self._answers.draining,
            kv_pages_promised=engine.pages_promised,
            kv_session_pages=engine.session_pages,
        )


def _since(oldest_s: float, samples: Iterable[tuple[float, float]]) -> list[float]:
    """The values of those samples that are not older: what waited long ago says nothing of now."""
    return [value for at_s, value in samples if at_s >= oldest_s]


async def _replaced(attachment: Attachment, receipts: Receipts) -> None:
    await attachment.replaced.wait()
    receipts.put_nowait(FailedPreconditionError("the session was released or taken over"))


def _ack(receipt: FrameReceipt, credit: int) -> inference_pb2.FrameAck:
    return inference_pb2.FrameAck(
        sequence=receipt.sequence,
        capture_ns=receipt.capture_ns,
        queue_ms=1000 * receipt.queue_s,
        latency_ms=1000 * receipt.latency_s,
        credit=credit,
        reused_segments=receipt.reused_segments,
        recomputed_segments=receipt.recomputed_segments,
        strangeness=receipt.strangeness,
    )
