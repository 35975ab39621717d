"""Every viewer of this gateway: opened, resumed, and ended in time."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

from services.common.checks import check_id, check_wishes
from services.common.identity import Identity
from services.common.in_flight import InFlight, share
from services.common.metrics import REFUSED
from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.auth.caller import ANYBODY, Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.memory.memories import Memories
from services.gateway.memory.recaller import Recaller
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.asks import Asks
from services.gateway.viewers.decisions import Decisions
from services.gateway.viewers.delegation import Delegation
from services.gateway.viewers.host_ears import HostEars
from services.gateway.viewers.turns import Turns
from services.gateway.viewers.viewer import RECONNECT_WITHIN_S, Send, Viewer, conversation_of
from services.gateway.voice.ears import Ears
from services.gateway.workers.workers import Workers
from sightline.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
)
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2

log = logging.getLogger(__name__)

START_TIMEOUT_S = 10.0
GOODBYE_S = 2.0  # for viewers who do not read when the gateway ends


class Viewers:
    """The viewers by resume handle. A `SessionListener`. All methods belong to the event loop."""

    def __init__(
        self,
        sessions: Sessions,
        workers: Workers,
        config: GatewayConfig,
        identity: Identity | None = None,
    ) -> None:
        self._sessions = sessions
        self._config = config
        self._viewers: dict[str, Viewer] = {}
        self.turns = Turns(config.dialogue, identity)
        self.memories = Memories(sessions, config, identity)
        self._recaller = Recaller(self.memories.journal, config.zone())
        self._delegation = Delegation(sessions, workers, config)
        self._stream = self._delegation.stream_answer
        self.asks = Asks(config, sessions.quotas, self.turns, self._recaller, self._stream)
        self.ears = Ears(config.asr, config.turn_rules(), identity)
        self.decisions = Decisions(config, sessions.quotas)
        self._answers = InFlight("answers", owner="the gateway")
        self.hosts = HostEars(lambda: self.ears, self._said)
        sessions.listen(self)
        sessions.listen(self.hosts)

    async def serve(
        self,
        incoming: AsyncIterator[gateway_pb2.ClientEvent],
        send: Send,
        place: str = "",
        caller: Caller = ANYBODY,
    ) -> None:
        """Serve one connection from `place`, from `start` until it ends.

        Raises FailedPreconditionError when something else comes first, NotFoundError for an
        unknown session, and what the transport raises.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                first = await anext(incoming, None)
        except TimeoutError:
            raise DeadlineExceededError("no `start` arrived") from None
        if first is None:
            return
        if first.WhichOneof("event") != "start":
            raise FailedPreconditionError(
                "the first message must be `start`", reason=Reason.OUT_OF_ORDER
            )
        old = self._viewers.get(first.start.resume_handle)
        name = first.start.session or (old.session.id if old else "")
        session = await self._sessions.locate(name, caller)
        await self.attend(self.open(first.start, place, caller, session), incoming, send)

    async def attend(
        self, viewer: Viewer, incoming: AsyncIterator[gateway_pb2.ClientEvent], send: Send
    ) -> None:
        """Serve a viewer that is open over one connection, counted as one of its session's. Raises
        what the transport raises."""
        viewer.session.viewers += 1
        viewer.session.touch()
        try:
            await viewer.serve(incoming, send)
        finally:
            viewer.session.viewers -= 1  # which may be another gateway's by now
            viewer.session.touch()

    def open(
        self,
        start: gateway_pb2.Start,
        place: str = "",
        caller: Caller = ANYBODY,
        session: AnySession | None = None,
    ) -> Viewer:
        """The viewer that `start` resumes, or a new one; greeted, ready to be served. `session`:
        the one that it means, wherever that is; left out: one of this gateway."""
        if not start.conversation and start.resume_handle:
            start.conversation = conversation_of(start.resume_handle)
        check_id("conversation", start.conversation)
        check_wishes(start.spoken)
        self._answers.check()
        old = self._viewers.get(start.resume_handle)
        if session is None:
            name = start.session or (old.session.id if old else "")
            session = self._sessions.find(name, caller)
        caller.check(Permission.VIEW, session)
        if old is not None and old.session is session and old.remembers(start.last_sequence):
            old.adopt(start, caller)
            old.greet("line", start.last_sequence)
            return old
        self._make_room(session, place)
        resumed = "conversation" if start.conversation else ""
        viewer = Viewer(
            session,
            start,
            self._config,
            self._answers,
            self.turns,
            place,
            caller,
            self._sessions.quotas,
            self.ears,
            self._recaller,
            self._stream,
        )
        self._viewers[viewer.handle] = viewer
        viewer.greet(resumed)
        return viewer

    def of_handle(self, handle: str, session: AnySession) -> Viewer:
        """The viewer of a resume handle on a session. Raises NotFoundError."""
        viewer = self._viewers.get(handle)
        if viewer is None or viewer.closed or viewer.session is not session:
            raise NotFoundError(
                "no viewer of this handle is on the session here", reason=Reason.HANDLE_NOT_FOUND
            )
        return viewer

    def microphone_of(self, handle: str, key: str) -> Callable[[bytes, int], None]:
        """What hears for the viewer of a resume handle on the session that `key` publishes to.
        Raises NotFoundError."""
        viewer = self._viewers.get(handle)
        if viewer is None or viewer.closed or not self._sessions.has_key(viewer.session, key):
            raise NotFoundError(
                "no viewer of this handle is on the session here", reason=Reason.HANDLE_NOT_FOUND
            )
        return viewer.hear

    def all(self) -> list[Viewer]:
        return list(self._viewers.values())

    def session_changed(self, session: AnySession) -> None:
        """Tell its viewers, and forget those who did not come back."""
        message = None
        for viewer in self._of(session):
            if not viewer.caller.is_current() or not viewer.caller.sees(session):
                viewer.close("signed_out")
            if viewer.detached_s is None:
                message = message or session.message()
                viewer.put_state(message)
            elif viewer.closed or time.monotonic() - viewer.detached_s > self._config.resume_s:
                viewer.close("expired")
                del self._viewers[viewer.handle]
        self._count()

    def session_replaced(self, before: AnySession, now: AnySession) -> None:
        """Its viewers stay: their answers go on, and new questions are asked of `now`. Those who
        are not connected may be with another gateway, which asks for them, and are let go."""
        for viewer in self._of(before):
            if viewer.detached_s is not None:
                viewer.close("session_moved")
                del self._viewers[viewer.handle]
                continue
            viewer.move_to(now)
            before.viewers -= 1
            now.viewers += 1

    def session_deleted(self, session: AnySession, reason: str) -> None:
        for viewer in self._of(session):
            if self._answers.draining:
                viewer.close("draining", reconnect_within_s=RECONNECT_WITHIN_S)
            else:
                viewer.close("session_deleted")
            del self._viewers[viewer.handle]
        self._count()

    async def drain(self) -> None:
        """Take no more viewers and questions, send those away who wait for no answer, and let the
        answers under way end."""
        self._answers.refuse()
        for viewer in self._viewers.values():
            if not viewer.is_answering:
                viewer.close("draining", reconnect_within_s=RECONNECT_WITHIN_S)
        await self._answers.drain()

    async def aclose(self) -> None:
        """Take no more viewers, send all away, and wait a little until they know."""
        self._answers.refuse()
        viewers = list(self._viewers.values())
        self._viewers.clear()
        for viewer in viewers:
            viewer.close("draining", reconnect_within_s=RECONNECT_WITHIN_S)
        closing = [spawn(viewer.wait_closed(), name="viewer:close") for viewer in viewers]
        if closing:
            _, stuck = await asyncio.wait(closing, timeout=GOODBYE_S)
            await cancel_and_wait(*stuck)
        await self._delegation.aclose()
        await self.hosts.aclose()
        await self.turns.aclose()
        await self.ears.aclose()

    def _said(self, session: AnySession, said: gateway_pb2.Said) -> None:
        for viewer in self._of(session):
            if not viewer.closed:
                viewer.put(gateway_pb2.ServerEvent(said=said))

    def _of(self, session: AnySession) -> list[Viewer]:
        return [viewer for viewer in self._viewers.values() if viewer.session is session]

    def _make_room(self, session: AnySession, place: str) -> None:
        """Raise ResourceExhaustedError when all the session's viewers are connected, or all those
        that `place` may have."""
        most = self._config.max_viewers
        viewers = self._of(session)
        here = [viewer for viewer in viewers if place and viewer.place == place]
        if here and len(here) >= share(most, len(viewers) - len(here)):
            viewers, whose = here, "viewers from your address"
        elif len(viewers) >= most:
            whose = "viewers"
        else:
            return
        left = [viewer for viewer in viewers if viewer.detached_s is not None]
        if not left:
            REFUSED.labels("gateway", "quota").inc()
            raise ResourceExhaustedError(
                f"{len(viewers)} {whose} are on this session already",
                reason=Reason.TOO_MANY_VIEWERS,
            )
        oldest = min(left, key=lambda viewer: viewer.detached_s or 0.0)
        oldest.close("crowded_out")
        del self._viewers[oldest.handle]

    def _count(self) -> None:
        attached = sum(viewer.detached_s is None for viewer in self._viewers.values())
        metrics.VIEWERS.labels("attached").set(attached)
        metrics.VIEWERS.labels("detached").set(len(self._viewers) - attached)
