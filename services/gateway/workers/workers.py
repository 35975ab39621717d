"""The workers a gateway knows: which of them answer, and how full they are."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import grpc

from services.common.backoff import Backoff
from services.common.errors import RESTARTING_S, restarting
from services.common.identity import Identity
from services.common.progress import words_of
from services.common.protocol import PROTOCOL, protocol_of
from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.workers.choice import Choice, TwoChoices
from services.gateway.workers.lookup import Found
from services.gateway.workers.pulse import QUICK_S, Pulse, Silence
from services.gateway.workers.worker import Worker
from sightline.errors import NotFoundError, ResourceExhaustedError, UnavailableError
from sightline.reasons import Reason
from sightline.v1 import inference_pb2

log = logging.getLogger(__name__)

MODEL = "the model"  # what a viewer hears a worker called
REPORT_INTERVAL_S = 0.25
PATIENCE_S = 1.0  # a worker that is silent for longer hangs: others are better
PING_S = 0.25  # that one which is suspected has for a reply
LOOK_S = 0.05  # between two looks at one whose report is due
REPORT_PATIENCE_S = 5.0  # … and after so much more it counts as away
INCOMPATIBLE_S = 5.0  # between two looks at a worker of another version
LOADING_S = 0.5  # between two looks at a model that is not ready
FIRST_CONTACT_S = 2.0  # how long a placement waits while no worker has answered yet
LAST_ANSWERS_S = 600.0  # what calls under way get at a worker that is gone and has no session left


class Workers:
    """Every worker of this gateway: follows their load and orders them for a new session.

    Workers come and go by `set`. All methods belong to the event loop.
    """

    def __init__(
        self,
        addresses: Sequence[str] = (),
        *,
        default_model: str = "",
        choice: Choice | None = None,
        make_worker: Callable[[str, str], Worker] | None = None,
        patience_s: float = PATIENCE_S,
        identity: Identity | None = None,
    ) -> None:
        """`default_model`: the model or pool of sessions that name none; empty: that of the first
        worker, as discovery names them, that answers. `choice` orders workers for a session."""
        self._patience_s = patience_s
        self._identity = identity
        self._workers: list[Worker] = []
        self._default_model = default_model
        self._choice = choice or TwoChoices()
        self._make_worker = make_worker or self._connected
        self._numbers = itertools.count(1)
        self._started = False
        self._following: dict[Worker, asyncio.Task[None]] = {}
        self._parting: dict[Worker, asyncio.Task[None]] = {}  # those that discovery names no more
        self._chores: set[asyncio.Task[None]] = set()
        self._contact = asyncio.Event()
        self._heard_s = float("-inf")  # when a worker was last there
        self._told_away: set[str] = set()  # by a metric
        self.set(Found(tuple(addresses)))

    def start(self) -> None:
        self._started = True
        for worker in self._workers:
            self._start_following(worker)

    def silent_s(self) -> float:
        """Seconds that there has been no worker at all that answers or loads its model."""
        return time.monotonic() - self._heard_s

    def all(self) -> list[Worker]:
        return list(self._workers)

    def set(self, found: Found) -> None:
        """Know these workers from now on.

        One that is not among them gets no new session, its sessions move, and it is closed once
        none is left there. Until then it can come back, as the worker that it was.
        """
        gone = {worker.address: worker for worker in self._workers}
        for rank, address in enumerate(dict.fromkeys(found.addresses)):
            worker = gone.pop(address, None)
            if worker is None:
                worker = self._add(address)
            elif (parting := self._parting.pop(worker, None)) is not None:
                parting.cancel()
            worker.rank = rank
            worker.leave(address in found.ending)
        for worker in gone.values():
            if worker not in self._parting:
                worker.leave(True)
                name = f"worker:{worker.address}:part"
                self._parting[worker] = spawn(self._part(worker), name=name)
        self._count()

    async def aclose(self) -> None:
        known = {*self._workers, *self._parting}
        await cancel_and_wait(*self._following.values(), *self._parting.values(), *self._chores)
        for address in self._told_away:
            metrics.WORKER_AWAY.remove(address)
        self._told_away = set()
        for worker in known:
            await worker.channel.close()

    def later(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do something with a worker for which nobody waits."""
        chore = spawn(work, name=name)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def at(self, address: str) -> Worker | None:
        """The worker at an address, if it is known."""
        return next((worker for worker in self._workers if worker.address == address), None)

    async def candidates(self, model: str = "") -> Iterator[Worker]:
        """Workers of a model or a pool with room, in the order in which to ask them.

        Raises NotFoundError when there is no such model or pool, UnavailableError when no worker
        of it answers and ResourceExhaustedError when all are full.
        """
        wanted = model or self._default_model
        await self._first_contact(wanted)
        workers = self._pool(wanted)
        if not workers and (there := self._names()):
            raise NotFoundError(
                f"there is no model or pool {wanted!r}: there is {', '.join(there)}",
                reason=Reason.MODEL_NOT_FOUND,
            )
        answering = [worker for worker in workers if worker.answering]
        if not answering and (loading := _loading(workers)):
            raise UnavailableError(
                f"the model is not ready. {words_of(loading[0])}",
                reason=Reason.MODEL_LOADING,
                retry_after_s=loading[0].loading.eta_s or RESTARTING_S,
            )
        if not answering and any(worker.incompatible for worker in self._workers):
            raise version_mismatch()
        if not answering:
            raise restarting(MODEL, Reason.MODEL_AWAY)
        if not any(worker.is_ready for worker in answering):
            raise UnavailableError(
                "The model is about to restart: try again in some seconds",
                reason=Reason.MODEL_AWAY,
                retry_after_s=RESTARTING_S,
            )
        if not (free := [worker for worker in workers if worker.has_room]):
            raise ResourceExhaustedError(
                "The model has no room for another session: delete one first",
                reason=Reason.MODEL_FULL,
            )
        return self._choice(free)

    def with_room(self) -> list[Worker]:
        """Workers that are ready and have room as far as is known."""
        return [worker for worker in self._workers if worker.has_room]

    def ordered(self, workers: Sequence[Worker]) -> Iterator[Worker]:
        """These, in the order in which a session should ask them."""
        return self._choice(workers)

    def descriptions(self) -> list[tuple[str, inference_pb2.ModelDescription]]:
        """(address, model) of every worker that answers."""
        return [
            (worker.address, worker.description)
            for worker in self._answering()
            if worker.description is not None
        ]

    def loading(self) -> list[inference_pb2.ModelDescription]:
        """Progress of every worker that is there and whose model is not ready."""
        return _loading(self._workers)

    def _answering(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.answering]

    def _pool(self, wanted: str) -> list[Worker]:
        """The workers of a model or a pool. Without a name: of the pool, or else the model, of the
        first worker that is ready, or loads, or has once answered; all while none has."""
        if wanted:
            return [worker for worker in self._workers if worker.serves(wanted)]
        heard = [worker for worker in self._workers if worker.names]
        if not heard:
            return self.all()
        first = min(heard, key=lambda each: (not each.is_ready, not each.is_loading, each.rank))
        return [worker for worker in heard if worker.serves(first.names[0])]

    def _names(self) -> list[str]:
        """Names that sessions may ask for."""
        found: dict[str, None] = {}
        for worker in sorted(self._workers, key=lambda worker: worker.rank):
            *pool, model = worker.names or ("",)
            if model:
                found.setdefault(f"{model} (pool {pool[0]})" if pool else model)
        return list(found)

    async def _first_contact(self, wanted: str) -> None:
        """Wait a moment for a worker that could be of this model or pool and was never heard."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_CONTACT_S):
                while True:
                    workers = self._pool(wanted)
                    if any(worker.answering or worker.is_loading for worker in workers):
                        return
                    if not workers and self._workers and all(w.names for w in self._workers):
                        return
                    self._contact.clear()
                    await self._contact.wait()

    def stranger(self, address: str) -> Worker:
        """A worker that another gateway was told of first; its channel is the caller's."""
        return self._make_worker(address, "")

    def _connected(self, address: str, name: str) -> Worker:
        return Worker(address, name, identity=self._identity)

    def _add(self, address: str) -> Worker:
        worker = self._make_worker(address, f"worker {next(self._numbers)}")
        worker.pulse = Pulse(self._patience_s)
        self._workers.append(worker)
        metrics.WORKERS_CHANGED.labels("found").inc()
        log.info("worker found", extra={"worker": address, "shown_as": worker.name})
        if self._started:
            self._start_following(worker)
        return worker

    def _start_following(self, worker: Worker) -> None:
        name = f"worker:{worker.address}:follow"
        self._following[worker] = spawn(self._follow(worker), name=name)

    async def _part(self, worker: Worker) -> None:
        """Forget a worker once no session holds it. Calls that are under way there may end."""
        while not worker.unheld.is_set():
            await worker.unheld.wait()
        worker.closed_s = time.monotonic()
        self._workers.remove(worker)  # from here on its address would be another worker's
        following = self._following.pop(worker, None)
        metrics.WORKERS_CHANGED.labels("gone").inc()
        log.info("worker is gone", extra={"worker": worker.address, "shown_as": worker.name})
        await cancel_and_wait(following)
        self._count()
        await worker.channel.close(LAST_ANSWERS_S)
        self._parting.pop(worker, None)

    async def _follow(self, worker: Worker) -> None:
        backoff = Backoff()
        while True:
            call = None
            try:
                description = await worker.describe()
                if not self._speaks_ours(worker, description):
                    await asyncio.sleep(INCOMPATIBLE_S)
                    continue
                if description.HasField("loading"):
                    backoff.reset()
                    self._contact.set()
                    self._count()
                    await asyncio.sleep(LOADING_S)
                    continue
                call = worker.stub.Load(inference_pb2.LoadRequest(interval_s=REPORT_INTERVAL_S))
                while True:
                    report = await self._next_report(worker, call)
                    if report is grpc.aio.EOF:
                        break
                    if not worker.answering:
                        log.info("worker answers", extra={"worker": worker.address})
                    before = _condition(worker)
                    worker.report(report)
                    backoff.reset()
                    self._contact.set()
                    self._heard_s = time.monotonic()
                    if _condition(worker) != before:  # of hundreds, each reports every second
                        self._count()
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                worker.description = None
                reason = error.code().name if isinstance(error, grpc.aio.AioRpcError) else "SILENT"
                if worker.answering:
                    log.warning(
                        "worker is away", extra={"worker": worker.address, "reason": reason}
                    )
            finally:
                if call is not None:
                    call.cancel()
                worker.silent()
                self._count()
            await asyncio.sleep(backoff.next_s())

    async def _next_report(self, worker: Worker, call: Any) -> Any:
        """A report, or the end of all. Raises AioRpcError, and TimeoutError for none in time."""
        reading = asyncio.ensure_future(call.read())
        try:
            if await self._is_quiet(worker, reading):
                worker.hang()
                log.warning("worker hangs", extra={"worker": worker.address})
                self._count()
            async with asyncio.timeout(REPORT_PATIENCE_S):
                return await reading
        finally:
            reading.cancel()

    async def _is_quiet(self, worker: Worker, reading: asyncio.Future[Any]) -> bool:
        """Whether a worker hangs. It does where no report comes in all the patience there is, and
        sooner where neither a report nor an acknowledgement of frames comes when it is due, and it
        does not reply to a question either, which it is asked meanwhile. A gateway that has no time
        to listen finds nobody hanging: it would only make itself more work."""
        began_s = asked_s = time.monotonic()
        silence = Silence(began_s)
        due_s = min(worker.pulse.patience_s, self._patience_s)
        wait_s = min(QUICK_S, due_s)
        asking: asyncio.Task[bool] | None = None
        try:
            while True:
                next_s = time.monotonic() + wait_s
                await asyncio.wait({reading}, timeout=wait_s)
                if reading.done():
                    return False
                now_s = time.monotonic()
                asked_s += silence.looked(now_s, next_s)
                quiet_s = silence.quiet_s(now_s)
                sure = silence.is_sure(now_s)
                if sure and quiet_s >= self._patience_s:
                    return True
                if now_s - began_s >= REPORT_PATIENCE_S:
                    return False
                waited = now_s - asked_s >= PING_S
                overdue = worker.pulse.is_overdue and not worker.hung.is_set()
                if asking is None or (asking.done() and waited):
                    asking = spawn(worker.replies(self._patience_s), name="worker:ping")
                    asked_s = now_s
                elif not asking.done() and waited and quiet_s >= due_s and overdue and sure:
                    return True
                left_s = self._patience_s - quiet_s
                wait_s = min(LOOK_S, left_s) if left_s > 0 else LOOK_S
        finally:
            if asking is not None:
                asking.cancel()

    def _speaks_ours(self, worker: Worker, description: inference_pb2.ModelDescription) -> bool:
        """Whether a worker's protocol is one that this gateway speaks; one that is not is told to
        operators once, and not used."""
        theirs = protocol_of(description)
        if theirs[0] == PROTOCOL[0]:
            worker.incompatible = False
            return True
        worker.description = None
        if not worker.incompatible:
            worker.incompatible = True
            log.error(
                "worker refused: it speaks another version of the protocol",
                extra={
                    "worker": worker.address,
                    "theirs": "{}.{}".format(*theirs),
                    "ours": "{}.{}".format(*PROTOCOL),
                },
            )
        self._count()
        return False

    def _count(self) -> None:
        if any(worker.answering or worker.is_loading for worker in self._workers):
            self._heard_s = time.monotonic()
        conditions = Counter(_condition(worker) for worker in self._workers)
        away = {each.address for each in self._workers if _condition(each) == "away"}
        for address in self._told_away - away:
            metrics.WORKER_AWAY.remove(address)
        for address in away - self._told_away:
            metrics.WORKER_AWAY.labels(address).set(1)
        self._told_away = away
        for condition in ("ready", "hung", "draining", "leaving", "incompatible", "away"):
            metrics.WORKERS.labels(condition).set(conditions[condition])


def _loading(workers: Sequence[Worker]) -> list[inference_pb2.ModelDescription]:
    return [
        worker.description
        for worker in workers
        if worker.description is not None and worker.is_loading
    ]


def _condition(worker: Worker) -> str:
    if worker.leaving:
        return "leaving"
    if worker.answering and worker.hung.is_set():
        return "hung"
    if worker.answering:
        return "draining" if worker.load.draining else "ready"
    return "incompatible" if worker.incompatible else "away"


def version_mismatch() -> UnavailableError:
    """Words for a worker that is refused for its protocol."""
    return UnavailableError(
        "The model's worker is of another version than this server: one of them is to be updated",
        reason=Reason.VERSION_MISMATCH,
    )
