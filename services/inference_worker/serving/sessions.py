"""The asyncio side of sessions: who feeds one, and how long it outlives its feeder."""

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from services.inference_worker.engine.jobs import NO_FRAME
from services.inference_worker.model.layout import FrameLayout
from services.inference_worker.serving.answer_health import AnswerHealth
from services.inference_worker.serving.brain import Brain
from sightline.errors import FailedPreconditionError, NotFoundError
from sightline.reasons import Reason
from sightline.v1 import inference_pb2

log = logging.getLogger(__name__)

MAX_FENCES = 16_384  # of sessions, also of those that left: their old owners may come back


@dataclass(slots=True, eq=False)
class Attachment:
    """One StreamFrames call on a session. `replaced` is set when a newer call takes over."""

    replaced: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class WorkerSession:
    """A session as calls see it. `frames_understood` and `changed` let watches sleep until there
    is something new; `last_capture_ns` guards the order of frames. `layout` is that of the first
    frame, and then of all; `most_tokens` bounds it, because the session was admitted for that.
    `replays`: frames still to come before the window is what it was; `caught_up` is set once a
    frame was understood and none of these is missing. `health`: of its
    answers; `window`: its newest frames, where a fallback may have to be shown them; `question`:
    that was asked last. `ended` is set once it is released, forgotten or expired."""

    id: str
    grace_s: float
    most_tokens: int
    layout: FrameLayout | None = None
    opening: asyncio.Future[None] | None = None
    attachment: Attachment | None = None
    expiry: asyncio.TimerHandle | None = None
    last_capture_ns: int = 0
    frames_understood: int = 0
    num_watches: int = 0
    replays: int = 0
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)
    health: AnswerHealth = field(default_factory=lambda: AnswerHealth(0, 0.0))
    window: deque[inference_pb2.Frame] = field(default_factory=lambda: deque(maxlen=0))
    question: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def understood(self) -> None:
        """A frame counts from now on."""
        self.frames_understood += 1
        self.replays = max(0, self.replays - 1)
        if not self.replays:
            self.catch_up()

    def catch_up(self) -> None:
        """Wait for no more of a replay."""
        self.replays = 0
        self.caught_up.set()


class Sessions:
    """Every session of this worker. One event loop."""

    def __init__(self, engine: Brain) -> None:
        self._engine = engine
        self._sessions: dict[str, WorkerSession] = {}
        self._fences: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, session_id: str) -> WorkerSession:
        session = self._sessions.get(session_id)
        if session is None:
            raise NotFoundError(f"no session {session_id} on this worker")
        return session

    async def attach(
        self,
        session_id: str,
        window_segments: int,
        max_pixels: int,
        grace_s: float,
        replays: int = 0,
        fence: int = 0,
        priority: int = 0,
    ) -> tuple[WorkerSession, Attachment, bool]:
        """Open a session, or take over one that exists (the bool), from whoever feeds it now:
        a gateway that lost its stream comes back before we notice that the old one is dead.

        Raises FailedPreconditionError for a feeder whose fence is older than one that was here.
        """
        self._check_fence(session_id, fence)
        session = self._living(session_id)
        resumed = session is not None
        if session is None:
            costliest = self._engine.model.costliest(max_pixels)
            session = WorkerSession(session_id, grace_s, costliest.segment_tokens, replays=replays)
            self._sessions[session_id] = session
            opening = self._engine.open_session(session_id, window_segments, max_pixels, priority)
            session.opening = asyncio.wrap_future(opening)
            session.opening.add_done_callback(_heard)
        await self._opened(session)
        self._check_fence(session_id, fence)  # others may have come meanwhile
        if session.attachment is not None:
            session.attachment.replaced.set()
        if session.expiry is not None:
            session.expiry.cancel()
            session.expiry = None
        session.grace_s = grace_s
        session.attachment = Attachment()
        return session, session.attachment, resumed

    def _living(self, session_id: str) -> WorkerSession | None:
        """A session that the engine has, or is about to have. One that the engine ended is
        forgotten, so that whoever feeds it can open it anew."""
        session = self._sessions.get(session_id)
        if session is None or session.opening is None or not session.opening.done():
            return session
        if session_id in self._engine.snapshot().sessions:
            return session
        del self._sessions[session_id]
        session.ended.set()
        if session.expiry is not None:
            session.expiry.cancel()
        if session.attachment is not None:
            session.attachment.replaced.set()
        return None

    async def resize(self, session: WorkerSession, window_segments: int) -> int:
        """Give a session another window; returns its segments."""
        layout = session.layout or self._engine.model.spec.layout
        resizing = self._engine.resize_session(session.id, window_segments, layout)
        return await asyncio.wrap_future(resizing)

    async def catch_up(self, session: WorkerSession, timeout_s: float) -> None:
        """Wait for a session's first frame and its replay, where somebody feeds it or was about to:
        a stream that broke amid a replay is back soon. What has not come by then is waited for no
        more. Raises FailedPreconditionError where there is no frame then."""
        fed = session.attachment is not None or session.replays > 0
        if fed and not session.caught_up.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await session.caught_up.wait()
        if session.frames_understood:
            session.catch_up()
        else:
            raise FailedPreconditionError(NO_FRAME, reason=Reason.NO_FRAME_YET)

    async def _opened(self, session: WorkerSession) -> None:
        """Wait until the engine has admitted it, with everybody else who does. Raises what the
        engine says."""
        assert session.opening is not None
        try:
            await asyncio.shield(session.opening)
        except asyncio.CancelledError:  # this caller left, not the session
            self._let_expire(session)
            raise
        except Exception:
            if self._sessions.get(session.id) is session:
                del self._sessions[session.id]
            raise
        if self._sessions.get(session.id) is not session:
            raise NotFoundError(f"session {session.id} was released")

    def detach(self, session: WorkerSession, attachment: Attachment) -> None:
        """The feeder left. Unless it was replaced, the session has `grace_s` left to live."""
        if session.attachment is not attachment or session.id not in self._sessions:
            return
        session.attachment = None
        self._let_expire(session)

    def _let_expire(self, session: WorkerSession) -> None:
        if session.attachment is None and session.expiry is None:
            loop = asyncio.get_running_loop()
            session.expiry = loop.call_later(session.grace_s, self._expire, session)

    def _expire(self, session: WorkerSession) -> None:
        if self._sessions.get(session.id) is session and session.attachment is None:
            log.info("session expired", extra={"session": session.id})
            del self._sessions[session.id]
            session.ended.set()
            self._engine.close_session(session.id)

    def _check_fence(self, session_id: str, fence: int) -> None:
        """Raise FailedPreconditionError for an older fence than the newest, which is remembered."""
        if fence < self._fences.get(session_id, 0):
            raise FailedPreconditionError(
                "another gateway has the session now", reason=Reason.NOT_OWNER
            )
        if fence:
            self._fences[session_id] = fence
            self._fences.move_to_end(session_id)
            while len(self._fences) > MAX_FENCES:
                self._fences.popitem(last=False)

    async def release(self, session_id: str, fence: int = 0) -> None:
        """End a session now. Idempotent. Raises FailedPreconditionError for an older fence."""
        self._check_fence(session_id, fence)
        session = self._sessions.pop(session_id, None)
        if session is None:
            return
        session.ended.set()
        if session.expiry is not None:
            session.expiry.cancel()
        if session.attachment is not None:
            session.attachment.replaced.set()
        await asyncio.wrap_future(self._engine.close_session(session_id))

    def add_watch(self, session: WorkerSession, limit: int) -> None:
        if session.num_watches >= limit:
            raise FailedPreconditionError(f"a session has at most {limit} watches")
        session.num_watches += 1


def _heard(opening: asyncio.Future[None]) -> None:
    """Hear of a failure: those who wait are told; where all of them left, asyncio would
    complain."""
    if not opening.cancelled():
        opening.exception()
