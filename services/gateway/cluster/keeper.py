"""Keeps the leases of this gateway's sessions, and takes over those that nobody keeps any more."""

import asyncio
import contextlib
import logging
import random
import time
from weakref import WeakKeyDictionary

from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.cluster.lease_store import LeaseStore
from services.gateway.cluster.peers import Peers
from services.gateway.cluster.remotes import Remotes
from services.gateway.config import GatewayConfig
from services.gateway.sessions.lease import Lease, record_of
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.session import Session
from services.gateway.sessions.sessions import Sessions, draining
from sightline.errors import SightlineError, UnavailableError
from sightline.v1 import peer_pb2

log = logging.getLogger(__name__)

MOST_BEAT_S = 1.0  # between two renewals
BEATS = 4  # renewals in the time of a lease
LATE_BEATS = 2  # without a renewal, after which a lease's owner is asked whether it lives
SETTLE_S = 2.0  # after Redis came back: in it, owners renew what ran out meanwhile
SWEEP_S = (0.4, 0.8)  # between two looks for sessions that nobody owns
MOST_AT_ONCE = 16  # of those that are taken in one look: other gateways take some, too
ADOPT_S = 2.0  # for another gateway to take a session over


class Keeper:
    """The leases of this gateway. While Redis is away it goes on with what it has, until a worker
    says that another gateway has the session."""

    def __init__(
        self,
        config: GatewayConfig,
        sessions: Sessions,
        store: LeaseStore,
        peers: Peers,
        remotes: Remotes,
    ) -> None:
        self._config = config
        self._beat_s = min(MOST_BEAT_S, config.lease_s / BEATS)
        self._sessions = sessions
        self._store = store
        self._peers = peers
        self._remotes = remotes
        self._adopting: dict[str, asyncio.Task[Session | None]] = {}
        self._ended: dict[str, tuple[int, peer_pb2.SessionRecord]] = {}  # Redis is to forget them
        self._up_since_s: float | None = None
        self._draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self._forgetting: asyncio.Task[None] | None = None
        self._told: WeakKeyDictionary[Session, str] = WeakKeyDictionary()  # workers, as of leases

    def start(self) -> None:
        self._sessions.listen(self)
        self._tasks = [
            spawn(self._keep(), name="cluster:keep"),
            spawn(self._sweep(), name="cluster:sweep"),
            spawn(self._remotes.follow(), name="cluster:follow"),
        ]

    async def aclose(self) -> None:
        await cancel_and_wait(*self._tasks, *self._adopting.values(), self._forgetting)
        await self._forget()

    def ended(self, session: Session) -> None:
        """A session of ours was deleted: nobody finds it any more, from when Redis was told."""
        self._ended[session.id] = (session.feed.placement.fence, record_of(session))
        self._forgetting = spawn(self._forget(), name="cluster:forget")

    def has_ended(self, session_id: str) -> bool:
        """Whether a session of ours was deleted and Redis may not know yet."""
        return session_id in self._ended

    async def _forget(self) -> None:
        with contextlib.suppress(UnavailableError):  # with the next renewal then
            await self.forget()

    async def forget(self) -> None:
        """Tell Redis what was deleted. Raises UnavailableError."""
        for session_id, (fence, record) in list(self._ended.items()):
            await self._store.drop(session_id, fence, record)
            self._ended.pop(session_id, None)

    def is_free(self, lease: Lease) -> bool:
        """Whether nobody owns a session, as far as can be told: not while its owner may be about to
        renew what ran out when Redis was away."""
        return lease.left_s <= 0 and self._is_settled

    @property
    def _is_settled(self) -> bool:
        up_s = self._up_since_s
        return up_s is not None and time.monotonic() - up_s > SETTLE_S

    # --- adoption -----------------------------------------------------------------------------

    def check(self) -> None:
        """Raise UnavailableError where this gateway ends, ResourceExhaustedError where it is full:
        it adopts no session then."""
        if self._draining:
            raise draining()
        self._sessions.check_room()

    async def adopt(self, session_id: str, how: str, fence: int | None = None) -> Session | None:
        """Own a session from here on: one whose lease has run out, or has the number `fence`. None
        where another has it. Raises the SightlineError of whoever refused."""
        if (session := self._sessions.get(session_id)) is not None:
            return session
        task = self._adopting.get(session_id)
        if task is None:
            self.check()
            # Not by `spawn`: what it fails of is for those who wait.
            work = self._adopt(session_id, how, fence)
            task = asyncio.create_task(work, name=f"{session_id}:adopt")
            self._adopting[session_id] = task
            task.add_done_callback(lambda _: self._adopting.pop(session_id, None))
        return await asyncio.shield(task)

    async def _adopt(self, session_id: str, how: str, fence: int | None) -> Session | None:
        lease = await self._store.take(session_id, fence)
        if lease is None or lease.owner != self._store.owner:
            return None
        try:
            session = await self._sessions.adopt(lease)
        except BaseException:
            await self._store.free(session_id, lease.fence)
            raise
        metrics.SESSIONS_ADOPTED.labels(how).inc()
        if (remote := self._remotes.pop(session_id)) is not None:
            self._sessions.arrived(remote, session)
        with contextlib.suppress(UnavailableError):
            await self._renew(session)
        return session

    async def _sweep(self) -> None:
        """Adopt what nobody owns, for ever."""
        while True:
            await asyncio.sleep(random.uniform(*SWEEP_S))  # not all gateways at once
            if self._draining or not self._is_settled:
                continue
            with contextlib.suppress(UnavailableError):  # Redis is away
                found = await self._store.expired(MOST_AT_ONCE)
                await asyncio.gather(*(self._adopt_free(each) for each in found))
                await self.adopt_of_silent()

    async def adopt_of_silent(self) -> None:
        """Adopt sessions of a gateway that has not renewed their leases for some beats and does not
        answer either: it is dead, or hangs. Raises UnavailableError."""
        left_s = self._config.lease_s - LATE_BEATS * self._beat_s
        late = await self._store.late(left_s, MOST_AT_ONCE)
        addresses = sorted({lease.address for lease in late})
        answers = await asyncio.gather(*(self._peers.answers(each) for each in addresses))
        silent = {each for each, answered in zip(addresses, answers, strict=True) if not answered}
        await asyncio.gather(
            *(
                self._adopt_free(lease.session, lease.fence)
                for lease in late
                if lease.address in silent
            )
        )

    async def _adopt_free(self, session_id: str, fence: int | None = None) -> None:
        if session_id in self._ended:
            return
        try:
            await self.adopt(session_id, "lease", fence)
        except SightlineError as error:
            log.warning(
                "session not adopted", extra={"session": session_id, "reason": error.message}
            )
        except Exception:  # one session's defect must not keep the others without an owner
            log.exception("session not adopted", extra={"session": session_id})

    # --- renewal ------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            try:
                await self._beat()
                self._heard(True)
            except UnavailableError:
                self._heard(False)
                await self._let_go_of_superseded()
            except Exception:
                log.exception("leases not renewed")
            await asyncio.sleep(self._beat_s)

    async def _beat(self) -> None:
        if not self._draining:
            await self._store.beat()
        await self.forget()
        outcomes = await asyncio.gather(
            *(self._renew(session) for session in self._sessions.all()), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def session_changed(self, session: AnySession) -> None:
        """A session that has moved is told of at once: viewers at other gateways ask its worker."""
        if not isinstance(session, Session):
            return
        worker = session.worker.address
        if self._told.get(session, worker) != worker:
            self._told[session] = worker
            spawn(self.tell(session), name=f"{session.id}:moved")

    def session_deleted(self, session: AnySession, reason: str) -> None:
        pass

    def session_replaced(self, before: AnySession, now: AnySession) -> None:
        pass

    async def tell(self, session: Session) -> None:
        """Let the other gateways know at once how a session is now."""
        with contextlib.suppress(UnavailableError):  # with the next renewal then
            await self._renew(session)

    async def _renew(self, session: Session) -> None:
        record = record_of(session)
        self._told[session] = record.worker
        used = await self._store.renew(session, record)
        if used is None:
            await self._let_go(session)
            return
        session.lease.note(time.monotonic() + self._config.lease_s)
        if used:
            session.touch()

    async def _let_go(self, session: Session) -> None:
        """The session is another gateway's, or was deleted by it."""
        if self._sessions.get(session.id) is not session:
            return
        metrics.SESSIONS_LOST.inc()
        lease = await self._store.get(session.id)
        remote = self._remotes.of(lease or self._lease_of(session))
        self._sessions.leave(session, remote)
        if lease is None:
            self._remotes.pop(session.id)
            self._sessions.lost(remote)

    async def _let_go_of_superseded(self) -> None:
        """Redis is away, and workers have the last word about who has a session."""
        for session in self._sessions.all():
            session.lease.note(float("inf"))
            if session.feed.placement.superseded:
                metrics.SESSIONS_LOST.inc()
                self._sessions.leave(session, self._remotes.of(self._lease_of(session)))

    def _heard(self, up: bool) -> None:
        metrics.LEASES_AWAY.inc(not up)
        if up and self._up_since_s is None:
            log.info("leases are kept")
            self._up_since_s = time.monotonic()
        elif not up and self._up_since_s is not None:
            log.warning("leases cannot be renewed: Redis is away; sessions go on")
            self._up_since_s = None

    def _lease_of(self, session: Session) -> Lease:
        """Lease of ours, as we last knew it."""
        return Lease(
            session=session.id,
            owner=self._store.owner,
            address=self._store.address,
            fence=session.feed.placement.fence,
            left_s=self._config.lease_s,
            record=record_of(session),
        )

    # --- handing over -------------------------------------------------------------------------

    async def hand_over(self, session: Session) -> int:
        """Give a session up to a gateway that is about to take it, by the number of its lease."""
        fence = session.feed.placement.fence
        await self._renew(session)  # with what it is like now
        self._sessions.leave(session, self._remotes.of(self._lease_of(session)))
        return fence

    async def drain(self) -> None:
        """Take no more sessions, and hand every one over to another gateway, or leave it to
        whichever comes. May be called again, for what was on its way here."""
        self._draining = True
        if self._adopting:
            await asyncio.wait(set(self._adopting.values()))
        others: list[str] = []
        try:
            await self._store.leave()
            others = await self._store.others()
        except UnavailableError:
            log.warning("sessions are not handed over: Redis is away")
        sessions = self._sessions.all()
        await asyncio.gather(*(self._hand_on(session, others) for session in sessions))

    async def _hand_on(self, session: Session, others: list[str]) -> None:
        try:
            fence = await self.hand_over(session)
        except UnavailableError:
            fence = session.feed.placement.fence
            self._sessions.leave(session, self._remotes.of(self._lease_of(session)))
        request = peer_pb2.AdoptRequest(session=session.id, fence=fence)
        for address in random.sample(others, len(others)):
            try:
                await self._peers.call(address, "Adopt", request, ADOPT_S)
            except SightlineError as error:
                log.warning("session not handed over", extra={"reason": error.message})
                continue
            metrics.SESSIONS_HANDED_OVER.inc()
            return
        try:
            await self._store.free(session.id, fence)
        except UnavailableError:  # then it runs out
            log.warning("lease not freed", extra={"session": session.id})
