"""A session that another gateway owns, as viewers of this one see it."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from services.common.in_flight import InFlight
from services.gateway.config import GatewayConfig
from services.gateway.sessions.lease import SECOND_NS, Lease
from services.gateway.sessions.question_queue import QuestionQueue
from services.gateway.sessions.session import Session
from services.gateway.sessions.session_spec import NEVER
from services.gateway.voice.transcript import lines_of
from services.gateway.workers.worker import Worker
from services.gateway.workers.workers import Workers
from sightline.errors import FailedPreconditionError, SightlineError
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2

REFRESH_S = 0.3  # between two looks at whose worker it is, while questions come


class RemoteSession:
    """Questions and watches go straight to the session's worker, wherever frames come in: they wait
    for no other gateway, and outlive it. What it is like comes from its lease.

    `hear` tells what is new of it, and `settle` that this gateway owns it now: what is under way
    then goes on with that. `refresh` looks the lease up and hears it. One event loop.
    """

    def __init__(
        self,
        lease: Lease,
        workers: Workers,
        config: GatewayConfig,
        refresh: Callable[["RemoteSession"], Awaitable[object]],
    ) -> None:
        self.id = lease.session
        self.key = ""  # as its publishers say it, where its creator asked here again
        self.alive = True
        self.viewers = 0
        self.used_s = time.monotonic()
        self.moved_on = asyncio.Event()
        self.questions = QuestionQueue(config.session_answers)
        self.watches = InFlight(
            "watches",
            owner="the session",
            most=config.session_watches,
            reason=Reason.TOO_MANY_WATCHES,
        )
        self.lease = lease
        self._workers = workers
        self._lease_s = config.lease_s
        self._refresh = refresh
        self._home: Session | None = None
        self._written_s = 0.0
        self._heard_s = 0.0
        self._spare: Worker | None = None
        self.hear(lease)

    @property
    def name(self) -> str:
        return self.lease.record.session.name

    @property
    def tenant(self) -> str:
        return self.lease.record.tenant

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.lease.record.session.labels)

    @property
    def created_ns(self) -> int:
        return self.lease.record.session.created_ns

    @property
    def key_digest(self) -> str:
        """Digest that its publishing key is kept as; "" where nobody publishes to it."""
        return self.lease.record.key_digest

    def message(self) -> gateway_pb2.Session:
        return self.lease.record.session

    def touch(self) -> None:
        self.used_s = time.monotonic()

    def hear(self, lease: Lease) -> None:
        """This is its lease now."""
        before, self.lease = self.lease, lease
        self._heard_s = time.monotonic()
        self._written_s = self._heard_s - max(0.0, self._lease_s - lease.left_s)
        if lease.record.worker != before.record.worker:
            self._left()

    def settle(self, session: Session) -> None:
        """This gateway owns it now."""
        self._home = session
        self._left()

    # --- what questions and watches need ----------------------------------------------------

    @property
    def worker(self) -> Worker:
        """The worker that answers about the session."""
        if self._home is not None:
            return self._home.worker
        address = self.lease.record.worker
        worker = self._workers.at(address) or self._spare
        if worker is None or worker.address != address:  # its owner knew of it first
            worker = self._spare = self._workers.stranger(address)
        return worker

    @property
    def moving(self) -> bool:
        """Whether the session is on its way to another worker, or back; questions wait then."""
        if self._home is not None:
            return self._home.moving
        return self.lease.record.session.moving or self.is_leaving

    @property
    def is_leaving(self) -> bool:
        """Whether its owner is about to move it: its worker hangs, and another has room."""
        worker = self._workers.at(self.lease.record.worker)
        if worker is None or not worker.hung.is_set():
            return False
        return any(not other.hung.is_set() for other in self._workers.with_room())

    async def wait_placed(self, timeout_s: float) -> bool:
        """Wait while the session has no worker; False when none took it in time."""
        end_s = time.monotonic() + timeout_s
        while self._home is None and self.alive:
            if time.monotonic() - self._heard_s > REFRESH_S:
                with contextlib.suppress(SightlineError):  # what is known must do
                    await self._refresh(self)
            if not self.moving or not self.alive:
                return self.alive
            if time.monotonic() >= end_s:
                return False
            await asyncio.sleep(REFRESH_S)
        left_s = max(0.0, end_s - time.monotonic())
        return self._home is not None and await self._home.wait_placed(left_s)

    def check_answerable(self) -> None:
        """Raises FailedPreconditionError where no frame has come that could be asked about, and
        none is on its way."""
        record = self.lease.record
        if not (record.session.stats.frames_processed or record.published):
            raise FailedPreconditionError(
                "no frame has been understood yet", reason=Reason.NO_FRAME_YET
            )

    @property
    def shown_again(self) -> bool:
        """Whether a worker that has none of its frames will have some in a moment."""
        record = self.lease.record
        return bool(record.session.stats.frames_processed and record.published)

    def frame_age_s(self, capture_ns: int) -> float | None:
        """Seconds since its owner sampled the frame of this capture time, by what it said of the
        newest one a moment ago."""
        if self._home is not None:
            return self._home.frame_age_s(capture_ns)
        stats = self.lease.record.session.stats
        if not stats.last_capture_ns or not capture_ns:
            return None
        newest_s = self.lease.record.newest_age_ns / SECOND_NS + time.monotonic() - self._written_s
        return max(0.0, newest_s - (capture_ns - stats.last_capture_ns) / SECOND_NS)

    def said_lines(self) -> str:
        """What was said in it lately, as its owner heard it, for a question."""
        if self._home is not None:
            return self._home.said_lines()
        return lines_of(self.lease.record.said, time.time_ns())

    @property
    def delegation(self) -> tuple[gateway_pb2.DelegateMode, str]:
        """Which questions another model answers, and which model or pool that is."""
        if self._home is not None:
            return self._home.delegation
        told = self.lease.record.session
        return told.delegate or NEVER, told.delegate_to

    def note_degraded(self, flags: list[str]) -> None:
        """Its owner tells what it goes without."""

    def _left(self) -> None:
        self.moved_on.set()
        self.moved_on = asyncio.Event()


AnySession = Session | RemoteSession
