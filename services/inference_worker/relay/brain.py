"""Brain of a relay: sessions as rings of pictures, and questions that another server answers.

It stands where the engine does, so that sessions, watches, answers and their guard are the same.
One event loop; pictures are made on a thread of their own.
"""

import asyncio
import base64
import contextlib
import logging
import math
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np

from services.common.jpeg import encode_jpeg
from services.common.tasks import cancel_and_wait, spawn
from services.common.threads import Lane
from services.inference_worker import metrics
from services.inference_worker.engine.admission import EngineLimits
from services.inference_worker.engine.jobs import (
    NO_FRAME,
    FinishReason,
    FrameJob,
    FrameReceipt,
    Generation,
    Newest,
    Seen,
)
from services.inference_worker.engine.snapshot import EngineSnapshot
from services.inference_worker.model.layout import FrameLayout
from services.inference_worker.relay.model import RelayModel
from services.inference_worker.relay.questions import Asking, Picture
from services.inference_worker.relay.upstream import nothing
from services.inference_worker.relay.verdict import THOUGHTS
from sightline.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    SightlineError,
)
from sightline.reasons import Reason

log = logging.getLogger(__name__)

PIECES, CHARACTERS = 4, 64  # of a stream for each token that an answer may have
BRANCH_TOKENS = 1_000_000  # the server knows what fits; it says so


@dataclass(slots=True, eq=False)
class _Session:
    """A session: its newest pictures, frames on their way into that, and questions under way."""

    id: str
    ring: deque[Picture]
    num_coming: int = 0
    jobs: dict[Generation, asyncio.Task[None] | None] = field(default_factory=dict)


class RelayBrain:
    """A `Brain` of a model server. concurrency: requests at a time; checks of watches and
    statements leave one of them to questions."""

    def __init__(
        self, model: RelayModel, asking: Asking, limits: EngineLimits, concurrency: int
    ) -> None:
        self.model = model
        self.limits = limits
        self.branch_tokens = BRANCH_TOKENS
        self.dtype_name = "unknown"
        self.device_name = "relay"
        self._asking = asking
        self._sessions: dict[str, _Session] = {}
        self._work: asyncio.Queue[tuple[_Session, FrameJob | Generation]] = asyncio.Queue()
        self._lane = Lane("jpeg")
        self._pump: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(concurrency)
        self._checks = asyncio.Semaphore(max(1, concurrency - 1))
        self._concurrency = concurrency
        self._num_running = 0
        self._busy_s = 0.0
        self._num_frames = 0
        self._queued_s: deque[tuple[float, float]] = deque(maxlen=256)

    def start(self) -> None:
        self._pump = spawn(self._carry_out(), name="relay")

    async def aclose(self) -> None:
        await cancel_and_wait(self._pump)
        for session_id in list(self._sessions):
            self.close_session(session_id)
        self._lane.close()

    def snapshot(self) -> EngineSnapshot:
        """A page is a session here: there is nothing else to run out of."""
        count = len(self._sessions)
        jobs = sum(len(session.jobs) for session in self._sessions.values())
        return EngineSnapshot(
            sessions=frozenset(self._sessions),
            num_admissible=self.limits.max_sessions - count,
            num_running=self._num_running,
            num_waiting=jobs - self._num_running,
            pages_used=count,
            pages_promised=count,
            pages_total=self.limits.max_sessions,
            session_pages=1,
            busy_s=self._busy_s,
            frames=self._num_frames,
            queued_s=tuple(self._queued_s),
        )

    # Sessions

    def open_session(
        self, session_id: str, window_segments: int = 0, max_pixels: int = 0, priority: int = 0
    ) -> Future[None]:
        opened: Future[None] = Future()
        try:
            segments = self._window(window_segments)
            if session_id in self._sessions:
                raise AlreadyExistsError(f"session {session_id} is open already")
            if len(self._sessions) >= self.limits.max_sessions:
                raise ResourceExhaustedError(
                    f"the worker has its {self.limits.max_sessions} sessions"
                )
        except SightlineError as error:
            opened.set_exception(error)
            return opened
        self._sessions[session_id] = _Session(session_id, deque(maxlen=segments))
        metrics.SESSIONS.set(len(self._sessions))
        opened.set_result(None)
        return opened

    def newest(self, session_id: str) -> Future[Newest | None]:
        """Nothing: the server keeps what its encoder makes of a picture."""
        nothing: Future[Newest | None] = Future()
        nothing.set_result(None)
        return nothing

    def resize_session(
        self, session_id: str, window_segments: int, layout: FrameLayout
    ) -> Future[int]:
        resized: Future[int] = Future()
        try:
            session = self._get(session_id)
            segments = self._window(window_segments)
        except SightlineError as error:
            resized.set_exception(error)
            return resized
        session.ring = deque(session.ring, maxlen=segments)
        resized.set_result(segments)
        return resized

    def close_session(self, session_id: str) -> Future[bool]:
        closed: Future[bool] = Future()
        session = self._sessions.pop(session_id, None)
        if session is not None:
            for job, task in list(session.jobs.items()):
                job.sink.failed(self._gone(session_id))
                if task is not None:
                    task.cancel()
            session.jobs.clear()
            metrics.SESSIONS.set(len(self._sessions))
        closed.set_result(session is not None)
        return closed

    def _get(self, session_id: str) -> _Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise self._gone(session_id)
        return session

    def _gone(self, session_id: str) -> NotFoundError:
        return NotFoundError(f"no session {session_id} on this worker")

    def _window(self, segments: int) -> int:
        most = self.limits.max_window_segments
        if segments > most:
            raise InvalidArgumentError(f"a window of {segments} frames; at most {most} are kept")
        return segments or self.model.spec.window_segments

    # Work

    def submit_frame(self, session_id: str, frame: FrameJob) -> None:
        session = self._sessions.get(session_id)
        if session is None:
            frame.done(self._gone(session_id))
            return
        if session.num_coming >= self.limits.frame_queue + self.limits.replay_queue:
            metrics.FRAMES.labels("refused").inc()
            frame.done(ResourceExhaustedError("more frames than the credit allows"))
            return
        session.num_coming += 1
        self._work.put_nowait((session, frame))

    def submit_branch(self, session_id: str, job: Generation) -> None:
        session = self._sessions.get(session_id)
        if session is None:
            job.sink.failed(self._gone(session_id))
        elif len(session.jobs) >= self.limits.waiting_branches:
            job.sink.failed(
                ResourceExhaustedError(
                    "the session has too many questions waiting", reason=Reason.TOO_MANY_QUESTIONS
                )
            )
        else:
            session.jobs[job] = None
            self._work.put_nowait((session, job))  # after the frames that came before it

    def cancel(self, job: Generation) -> None:
        for session in self._sessions.values():
            if job in session.jobs:
                task = session.jobs.pop(job)
                if task is not None:
                    task.cancel()
                job.sink.finished(FinishReason.CANCELLED)
                return

    async def _carry_out(self) -> None:
        while True:
            session, item = await self._work.get()
            if isinstance(item, FrameJob):
                session.num_coming -= 1
                await self._keep(session, item)
            elif item in session.jobs:
                answering = self._answer(session, item, tuple(session.ring))
                session.jobs[item] = spawn(answering, name=f"{session.id}:relay")

    async def _keep(self, session: _Session, frame: FrameJob) -> None:
        started_s = time.monotonic()
        if self._sessions.get(session.id) is not session:
            frame.done(self._gone(session.id))
            return
        try:
            picture = await self._lane.run(_picture_of, frame)
        except Exception:
            log.exception("a picture could not be made")
            frame.done(InternalError("a picture could not be made"))
            return
        session.ring.append(picture)
        metrics.FRAMES.labels("understood").inc()
        now_s = time.monotonic()
        queue_s, latency_s = started_s - frame.arrived_s, now_s - frame.arrived_s
        self._num_frames += 1
        self._queued_s.append((now_s, queue_s))
        metrics.FRAME_QUEUE.observe(queue_s)
        metrics.FRAME_LATENCY.observe(latency_s)
        frame.done(
            FrameReceipt(
                sequence=frame.sequence,
                capture_ns=frame.capture_ns,
                queue_s=queue_s,
                latency_s=latency_s,
                reused_segments=0,
                recomputed_segments=0,
            )
        )

    async def _answer(
        self, session: _Session, job: Generation, pictures: tuple[Picture, ...]
    ) -> None:
        """Ask the server. Whoever takes the job out of `session.jobs` tells its sink how it ended,
        and nobody else."""
        result: FinishReason | SightlineError
        try:
            if not pictures:
                raise FailedPreconditionError(NO_FRAME, reason=Reason.NO_FRAME_YET)
            if job.score_only:
                async with self._checks, self._slots:
                    await self._score(job, pictures)
                result = FinishReason.STOP
            else:
                async with self._slots:
                    result = await self._say(job, pictures)
        except SightlineError as error:
            result = error
        except Exception:
            log.exception("a question could not be relayed")
            result = InternalError("the question could not be relayed")
        if session.jobs.pop(job, None) is None:
            return
        if isinstance(result, Exception):
            job.sink.failed(result)
        elif not job.score_only:
            job.sink.finished(result)

    async def _score(self, job: Generation, pictures: tuple[Picture, ...]) -> None:
        self._begin()
        try:
            probability = await self._asking.score(job.pending, pictures)
        finally:
            self._end()
        job.sink.started(_seen(pictures))
        job.sink.scored(probability)

    async def _say(self, job: Generation, pictures: tuple[Picture, ...]) -> FinishReason:
        started, finish = False, ""
        pieces, characters, whole, thought = 0, 0, "", False
        job.prompt_tokens = 0  # unless the server tells
        job.surprise = math.nan  # it does not tell
        past = [
            await self._lane.run(_jpeg_of, each.pixels, each.layout, 0) for each in job.pictures
        ]
        self._begin()
        try:
            async with contextlib.aclosing(self._asking.say(job, pictures, past)) as chunks:
                async for chunk in chunks:
                    if not started:
                        job.sink.started(_seen(pictures))
                        started = True
                    pieces += bool(chunk.text or chunk.thought)
                    characters += len(chunk.text) + chunk.thought
                    thought = thought or chunk.thought > 0
                    if chunk.text:
                        whole += chunk.text
                        said: Any = chunk.text  # a piece of it stands for a token
                        job.sink.token(said)
                    finish = chunk.finish or finish
                    if max(pieces / PIECES, characters / CHARACTERS) > job.max_tokens:
                        finish = "length"  # of a server that does not end by itself
                        break
                    job.prompt_tokens = chunk.prompt_tokens or job.prompt_tokens
        finally:
            self._end()
        if not THOUGHTS.sub("", whole).strip():
            raise nothing(finish == "length" and (thought or bool(whole.strip())))
        return FinishReason.LENGTH if finish == "length" else FinishReason.STOP

    def _begin(self) -> None:
        self._num_running += 1
        self._busy_s -= time.monotonic() / self._concurrency

    def _end(self) -> None:
        self._num_running -= 1
        self._busy_s += time.monotonic() / self._concurrency


def _seen(pictures: tuple[Picture, ...]) -> Seen:
    return Seen(pictures[0].capture_ns, pictures[-1].capture_ns, len(pictures))


def _picture_of(frame: FrameJob) -> Picture:
    return _jpeg_of(frame.pixels, frame.layout, frame.capture_ns)


def _jpeg_of(rgb: bytes, layout: FrameLayout, capture_ns: int) -> Picture:
    """JPEG of a picture, made on the lane's thread: it takes milliseconds."""
    pixels = np.frombuffer(rgb, np.uint8).reshape((layout.height, layout.width, 3))
    video = av.VideoFrame.from_ndarray(pixels, "rgb24")
    full = video.reformat(format="yuvj420p", dst_color_range="JPEG", threads=1)
    return Picture(capture_ns, base64.b64encode(encode_jpeg(full)).decode("ascii"))
