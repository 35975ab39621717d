"""Every session of this gateway: made, found, published to, and ended in time."""

import asyncio
import contextlib
import hmac
import logging
import time
from collections import Counter

from services.common.in_flight import DRAINING_S
from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.auth.authoriser import audit
from services.gateway.auth.caller import ANYBODY, Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.asked_once import KEPT_S, AskedOnce
from services.gateway.sessions.census import Census
from services.gateway.sessions.elsewhere import Elsewhere, SessionListener
from services.gateway.sessions.labels import checked_labels
from services.gateway.sessions.lease import Lease
from services.gateway.sessions.memory_trimmer import MemoryTrimmer
from services.gateway.sessions.once import Once
from services.gateway.sessions.own_source import MakeSource
from services.gateway.sessions.quotas import Quotas
from services.gateway.sessions.remote_session import AnySession, RemoteSession
from services.gateway.sessions.session import Session
from services.gateway.sessions.session_maker import SessionMaker
from services.gateway.sessions.session_media import SessionMedia
from services.gateway.sessions.session_spec import (
    SessionSpec,
    check_options,
    delegate_of,
    digest_of,
)
from services.gateway.sessions.states import ENDED, WAITING
from services.gateway.workers.workers import Workers
from sightline.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2

log = logging.getLogger(__name__)

TICK_S = 1.0
MAX_REQUESTS = 1024  # remembered, to be told when they are repeated


class Sessions:
    """The sessions by id. make_source: see `SessionMaker`."""

    def __init__(
        self,
        config: GatewayConfig,
        workers: Workers,
        make_source: MakeSource,
    ) -> None:
        self._config = config
        self.quotas = Quotas(config)
        self._maker = SessionMaker(config, workers, make_source, self._changed)
        self._sessions: dict[str, Session] = {}
        self._making: Counter[str] = Counter()  # keys of sessions that are being made
        self._making_of: Counter[str] = Counter()  # how many, by tenant
        self._listeners: list[SessionListener] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._draining = False
        self._gone = False  # with the gateway, and no other has them
        self.elsewhere: Elsewhere | None = None  # set where there are several gateways
        self.media = SessionMedia(self._others)
        self._trimmer = MemoryTrimmer()
        # By caller and request; ids of sessions, because a session that is held stays in memory.
        self._requests: Once[str] = Once(
            "sessions:create",
            most=MAX_REQUESTS,
            kept_s=KEPT_S,
            reason=Reason.REQUEST_ID_REUSED,
        )

    def start(self) -> None:
        self._trimmer.started()
        self._ticker = spawn(self._tick_forever(), name="sessions:tick")

    def listen(self, listener: SessionListener) -> None:
        self._listeners.append(listener)

    def refuse(self) -> None:
        """Take no more sessions."""
        self._draining = True

    async def aclose(self) -> None:
        """Take no more sessions, end all there are and wait for it."""
        self.refuse()
        self._gone = self.elsewhere is None
        await cancel_and_wait(self._ticker)
        for session in list(self._sessions.values()):
            self.delete(session, "draining")
        while self._closing:
            await asyncio.wait(set(self._closing))

    def all(self) -> list[Session]:
        """Oldest first."""
        return list(self._sessions.values())

    def seen_by(self, caller: Caller) -> list[Session]:
        """Sessions that a caller may look at, oldest first."""
        return [each for each in self._sessions.values() if caller.may(Permission.VIEW, each)]

    def get(self, session_id: str) -> Session | None:
        """One of this gateway's own."""
        return self._sessions.get(session_id)

    def find(self, name: str, caller: Caller = ANYBODY) -> Session:
        """Session by id, or by name where one session only has it, among those that are there for
        `caller`. Raises NotFoundError; UnavailableError where it may have ended with the gateway.
        """
        session = self._sessions.get(name)
        if session is not None and caller.sees(session):
            return session
        named = [
            session
            for session in self._sessions.values()
            if name and session.name == name and caller.sees(session)
        ]
        if len(named) > 1:
            raise NotFoundError(
                "several sessions have this name: use an id", reason=Reason.SESSION_NAME_AMBIGUOUS
            )
        if not named:
            self._refuse_when_gone()
            raise NotFoundError("no such session", reason=Reason.SESSION_NOT_FOUND)
        return named[0]

    def name_of(self, text: str) -> str:
        """The name of the session with this id, or else the text, which is one if it is any."""
        session = self._sessions.get(text)
        return text if session is None else session.name

    def find_by_key(self, key: str) -> Session:
        """The session that `key` publishes to. Raises UnauthenticatedError, UnavailableError as
        `find` does.

        Every key is compared, each in constant time.
        """
        found = None
        for session in self._sessions.values():
            if self.has_key(session, key):
                found = session
        if found is None:
            self._refuse_when_gone()
            raise UnauthenticatedError("wrong key", reason=Reason.WRONG_KEY)
        return found

    def has_key(self, session: AnySession, key: str) -> bool:
        """Whether `key` publishes to this session; compared in constant time."""
        offered = digest_of(key, self._config.cluster_secret)
        return hmac.compare_digest(session.key_digest, offered) and bool(offered)

    # --- wherever they are --------------------------------------------------------------------

    async def locate(self, name: str, caller: Caller = ANYBODY) -> AnySession:
        """As `find`, also among the sessions of other gateways. Raises UnavailableError where
        nobody can tell."""
        try:
            return self.find(name, caller)
        except NotFoundError as error:
            if self.elsewhere is None or error.reason != Reason.SESSION_NOT_FOUND or not name:
                raise
        return await self.elsewhere.find(name, caller)

    async def locate_by_key(self, key: str) -> AnySession:
        """As `find_by_key`, likewise."""
        try:
            return self.find_by_key(key)
        except UnauthenticatedError:
            if self.elsewhere is None or not key:
                raise
        return await self.elsewhere.find_by_key(key)

    async def bring_home(self, session: AnySession) -> Session:
        """The session as one of this gateway's: a publisher has come here. Raises
        AlreadyExistsError while another publishes elsewhere, UnavailableError."""
        if isinstance(session, Session):
            return session
        assert self.elsewhere is not None
        return await self.elsewhere.bring_home(session)

    async def listed(self, caller: Caller) -> list[AnySession]:
        """Sessions of all gateways that a caller may look at; of this one alone while nobody knows
        of others."""
        here: list[AnySession] = list(self.seen_by(caller))
        if self.elsewhere is not None:
            with contextlib.suppress(UnavailableError):
                here += await self.elsewhere.seen_by(caller)
        return here

    # --- made, changed, ended -----------------------------------------------------------------

    async def create(
        self,
        request: gateway_pb2.CreateSessionRequest,
        place: str = "",
        caller: Caller = ANYBODY,
    ) -> AnySession:
        """Make a session that a worker has admitted, or give the one that the same caller's request
        with this `request_id` made, at whichever gateway. Raises what CreateSession may answer."""
        caller.check(Permission.ADMIN)
        caller.check_name(request.options.name)
        if not request.request_id:
            return await self._create(request, caller)
        asked = AskedOnce.of(request, caller, place, self._config.cluster_secret)
        made = await self._requests.do(
            asked.id, asked.what.encode(), lambda: self._make_once(request, caller, asked)
        )
        session: AnySession | None = self._sessions.get(made)
        if session is None and self.elsewhere is not None:
            with contextlib.suppress(NotFoundError):
                session = await self.elsewhere.find(made, caller)
        if session is None:
            raise NotFoundError(
                "the session of this request was deleted", reason=Reason.SESSION_NOT_FOUND
            )
        if not session.key and request.WhichOneof("input") == "push":  # another gateway made it
            session.key = request.push.key or asked.key
        return session

    async def create_for_question(
        self, request: gateway_pb2.CreateSessionRequest, caller: Caller
    ) -> Session:
        """A session for one question of somebody who may ask, who deletes it when that is answered.
        Raises what CreateSession may answer."""
        caller.check(Permission.ASK)
        return await self._create(request, caller)

    async def update(
        self, request: gateway_pb2.UpdateSessionRequest, caller: Caller = ANYBODY
    ) -> AnySession:
        """Change a session. Raises what UpdateSession may answer, with nothing changed then."""
        session = await self.locate(request.session, caller)
        caller.check(Permission.ADMIN, session)
        given = request.HasField
        if given("name"):
            if not request.name:  # who calls it by its name would lose it
                raise InvalidArgumentError("a session keeps a name: an empty one is none")
            caller.check_name(request.name)
        check_options(request, self._config)
        labels = checked_labels(request.labels.labels) if given("labels") else None
        mode, to = session.delegation
        delegation = delegate_of(
            request.delegate or mode,
            request.delegate_to if given("delegate_to") else to,
            self._config,
        )
        if isinstance(session, RemoteSession):
            assert self.elsewhere is not None
            await self.elsewhere.update(session, request)
            audit(caller, "update", session.id)
            return session
        if given("name") and self.elsewhere is not None:
            await self.elsewhere.rename(session, request.name)
        if given("window"):
            await session.resize(request.window)
        if given("fps"):
            session.set_fps(request.fps or self._config.fps)
        if given("listen"):
            session.listen(request.listen)
        session.delegate(*delegation)
        session.amend(
            name=request.name if given("name") else session.name,
            grace_s=request.grace_s if given("grace_s") else session.spec.grace_s,
            labels=session.labels if labels is None else labels,
        )
        self._changed(session)
        if self.elsewhere is not None:
            await self.elsewhere.tell(session)
        audit(caller, "update", session.id)
        return session

    async def _make_once(
        self, request: gateway_pb2.CreateSessionRequest, caller: Caller, asked: AskedOnce
    ) -> str:
        """Id of the session that this request has made, at any gateway, or makes now."""
        if self.elsewhere is not None:
            with contextlib.suppress(UnavailableError):  # nobody can tell: it is made here
                if (made := await self.elsewhere.made(asked)) is not None:
                    return made
        try:
            return (await self._create(request, caller, asked)).id
        except AlreadyExistsError:  # another gateway was asked, too, and was faster
            made = None if self.elsewhere is None else await self.elsewhere.made(asked)
            if made is None:
                raise
            return made

    async def _create(
        self,
        request: gateway_pb2.CreateSessionRequest,
        caller: Caller,
        asked: AskedOnce | None = None,
    ) -> Session:
        spec = SessionSpec.of(request, self._config, caller.tenant, asked)
        if self._draining:
            raise draining()
        self.check_room()
        theirs = sum(each.tenant == spec.tenant for each in self._sessions.values())
        self.quotas.check_session(spec.tenant, theirs + self._making_of[spec.tenant])
        self._refuse_taken_key(spec.key)
        self._making[spec.key] += 1
        self._making_of[spec.tenant] += 1
        try:
            session = await self._maker.admit(spec, leased=self.elsewhere is not None)
            try:
                await self._maker.open_source(session)
                if self._draining:
                    raise draining()
                if self.elsewhere is not None:
                    await self.elsewhere.register(session)
            except BaseException:
                self._end(session)
                raise
            self._sessions[session.id] = session
        finally:
            self._making[spec.key] -= 1
            self._making_of[spec.tenant] -= 1
        metrics.SESSIONS_CREATED.labels("source" if spec.source else "push").inc()
        log.info(
            "session created",
            extra={
                "session": session.id,
                "worker": session.worker.address,
                "kind": session.source_kind,
            },
        )
        audit(caller, "create", session.id)
        return session

    async def adopt(self, lease: Lease) -> Session:
        """Go on with a session whose lease this gateway has taken: with what its worker still knows
        of it, or else from nothing. Raises the SightlineError of the workers."""
        session, resumed = await self._maker.adopt(lease)
        self._sessions[session.id] = session
        log.info(
            "session adopted",
            extra={
                "session": session.id,
                "worker": session.worker.address,
                "fence": lease.fence,
                "resumed": resumed,
            },
        )
        return session

    def leave(self, session: Session, now: RemoteSession) -> None:
        """Give a session up to another gateway, whose it is `now`: its worker keeps what it knows,
        and its viewers stay."""
        if self._sessions.pop(session.id, None) is None:
            return
        session.leave()
        self._close(session)
        for listener in self._listeners:
            listener.session_replaced(session, now)
        log.info("session left", extra={"session": session.id})

    def arrived(self, before: RemoteSession, now: Session) -> None:
        """A session that somebody here had to do with is this gateway's now."""
        before.settle(now)
        for listener in self._listeners:
            listener.session_replaced(before, now)

    def heard(self, session: RemoteSession) -> None:
        """Note that another gateway's session has been looked up."""
        for listener in self._listeners:
            listener.session_changed(session)

    def lost(self, session: RemoteSession) -> None:
        """Another gateway's session was deleted."""
        session.alive = False
        for listener in self._listeners:
            listener.session_deleted(session, "requested")

    def check_room(self) -> None:
        """Raise ResourceExhaustedError where no more sessions may be here."""
        if len(self._sessions) + self._making.total() >= self._config.max_sessions:
            raise ResourceExhaustedError(
                f"{self._config.max_sessions} sessions are open, and there may be no more: "
                "end one first",
                reason=Reason.TOO_MANY_SESSIONS,
            )

    async def remove(self, name: str, caller: Caller = ANYBODY) -> AnySession:
        """Delete a session because a caller says so; the session. Raises what DeleteSession may
        answer."""
        session = await self.locate(name, caller)
        caller.check(Permission.ADMIN, session)
        if isinstance(session, RemoteSession):
            assert self.elsewhere is not None
            await self.elsewhere.delete(session)
        else:
            self.delete(session, "requested")
        audit(caller, "delete", session.id)
        return session

    def delete(self, session: Session, reason: str) -> None:
        """End a session: nobody finds it any more, viewers are told, its memory is freed soon."""
        if self._sessions.pop(session.id, None) is None:
            return
        self._end(session)
        if self.elsewhere is not None:
            self.elsewhere.ended(session)
        for listener in self._listeners:
            listener.session_deleted(session, reason)
        metrics.SESSIONS_DELETED.labels(reason).inc()
        log.info("session deleted", extra={"session": session.id, "reason": reason})

    def tick(self, now_s: float) -> None:
        """Once a second: figures, and the sessions whose time is over."""
        census = Census()
        for session in list(self._sessions.values()):
            session.tick(now_s)
            census.count(session, now_s)
            if reason := self._overdue(session, now_s):
                self.delete(session, reason)
                continue
            for listener in self._listeners:
                listener.session_changed(session)
        census.export()

    # --- inside -----------------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self.tick(time.monotonic())
                await self._trimmer.advance(time.monotonic())
            except Exception:  # one session's defect must not keep the others from ending
                log.exception("tick failed")

    def _overdue(self, session: Session, now_s: float) -> str:
        """Why a session ends now; "" to keep it."""
        age_s = now_s - session.since_s
        if session.abandoned_s(now_s) > session.spec.grace_s:
            return "publisher_left"
        if (
            session.state == WAITING
            and not session.spec.source
            and age_s > self._config.unpublished_s
        ):
            return "never_published"
        idle_s = now_s - max(session.since_s, session.used_s)
        if session.state == ENDED and not session.viewers and idle_s > self._config.ended_s:
            return "ended"
        return ""

    def _end(self, session: Session) -> None:
        session.end()
        self._close(session)

    def _close(self, session: Session) -> None:
        self._trimmer.noted()
        task = spawn(session.aclose(), name=f"{session.id}:close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _changed(self, session: Session) -> None:
        if session.id in self._sessions:
            for listener in self._listeners:
                listener.session_changed(session)

    def _others(self) -> Elsewhere:
        assert self.elsewhere is not None
        return self.elsewhere

    def _refuse_when_gone(self) -> None:
        """Raise UnavailableError when the sessions have ended with the gateway: that what was asked
        for is not there says nothing about whether it will be, at the next gateway."""
        if self._gone:
            raise draining()

    def _refuse_taken_key(self, key: str) -> None:
        if not key:
            return
        taken = bool(self._making[key])
        with contextlib.suppress(UnauthenticatedError):
            taken |= self.find_by_key(key).alive
        if taken:
            raise AlreadyExistsError("this key belongs to another session", reason=Reason.KEY_TAKEN)


def draining() -> UnavailableError:
    return UnavailableError(
        "the gateway is draining", reason=Reason.DRAINING, retry_after_s=DRAINING_S
    )
