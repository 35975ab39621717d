"""The workers a gateway knows: which of them answer, and how full they are."""

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Sequence

import grpc

from services.common.backoff import Backoff
from services.common.errors import RESTARTING_S, restarting
from services.common.identity import Identity
from services.common.progress import words_of
from services.common.protocol import PROTOCOL, protocol_of
from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.workers.discovery import Found
from services.gateway.workers.worker import Worker
from sightline.errors import ResourceExhaustedError, UnavailableError
from sightline.reasons import Reason
from sightline.v1 import inference_pb2

log = logging.getLogger(__name__)

MODEL = "the model"  # what a viewer hears a worker called
REPORT_INTERVAL_S = 1.0
REPORT_PATIENCE_S = 5.0  # a worker that is silent for longer counts as away
INCOMPATIBLE_S = 5.0  # between two looks at a worker of another version
LOADING_S = 0.5  # between two looks at a model that is not ready
FIRST_CONTACT_S = 2.0  # how long a placement waits while no worker has answered yet
LAST_ANSWERS_S = 600.0  # what calls under way get at a worker that is gone and has no session left


class Workers:
    """Every worker of this gateway: follows their load and orders them for a new session.

    Workers come and go by `set`. All methods belong to the event loop.
    """

    def __init__(self, addresses: Sequence[str] = (), identity: Identity | None = None) -> None:
        self._identity = identity
        self._workers: list[Worker] = []
        self._numbers = itertools.count(1)
        self._started = False
        self._following: dict[Worker, asyncio.Task[None]] = {}
        self._parting: dict[Worker, asyncio.Task[None]] = {}  # those that discovery names no more
        self._contact = asyncio.Event()
        self.set(Found(tuple(addresses)))

    def start(self) -> None:
        self._started = True
        for worker in self._workers:
            self._start_following(worker)

    def all(self) -> list[Worker]:
        return list(self._workers)

    def set(self, found: Found) -> None:
        """Know these workers from now on.

        One that is not among them gets no new session, its sessions move, and it is closed once
        none is left there. Until then it can come back, as the worker that it was.
        """
        gone = {worker.address: worker for worker in self._workers}
        for address in dict.fromkeys(found.addresses):
            worker = gone.pop(address, None)
            if worker is None:
                worker = self._add(address)
            elif (parting := self._parting.pop(worker, None)) is not None:
                parting.cancel()
            worker.leave(address in found.ending)
        for worker in gone.values():
            if worker not in self._parting:
                worker.leave(True)
                name = f"worker:{worker.address}:part"
                self._parting[worker] = spawn(self._part(worker), name=name)
        self._count()

    async def aclose(self) -> None:
        known = {*self._workers, *self._parting}
        await cancel_and_wait(*self._following.values(), *self._parting.values())
        for worker in known:
            await worker.channel.close()

    async def candidates(self) -> list[Worker]:
        """Workers with room, the emptiest first.

        Raises UnavailableError when none answers and ResourceExhaustedError when all are full.
        """
        if not self._answering() and not self.loading():
            self._contact.clear()
            try:
                async with asyncio.timeout(FIRST_CONTACT_S):
                    await self._contact.wait()
            except TimeoutError:
                pass
        answering = self._answering()
        if not answering and (loading := self.loading()):
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
        if not (free := self.with_room()):
            raise ResourceExhaustedError(
                "The model has no room for another session: delete one first",
                reason=Reason.MODEL_FULL,
            )
        return free

    def with_room(self) -> list[Worker]:
        """Workers that are ready and have room as far as is known, the emptiest first."""
        free = [worker for worker in self._workers if worker.is_ready and worker.free_sessions > 0]
        return sorted(free, key=lambda worker: worker.fullness)

    def descriptions(self) -> list[tuple[str, inference_pb2.ModelDescription]]:
        """(address, model) of every worker that answers."""
        return [
            (worker.address, worker.description)
            for worker in self._answering()
            if worker.description is not None
        ]

    def loading(self) -> list[inference_pb2.ModelDescription]:
        """Progress of every worker that is there and whose model is not ready."""
        return [
            worker.description
            for worker in self._workers
            if worker.description is not None and worker.description.HasField("loading")
            if not worker.leaving
        ]

    def _answering(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.answering]

    def _add(self, address: str) -> Worker:
        worker = Worker(address, f"worker {next(self._numbers)}", self._identity)
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
                    await asyncio.sleep(LOADING_S)
                    continue
                call = worker.stub.Load(inference_pb2.LoadRequest(interval_s=REPORT_INTERVAL_S))
                while True:
                    async with asyncio.timeout(REPORT_PATIENCE_S):
                        report = await call.read()
                    if report is grpc.aio.EOF:
                        break
                    if not worker.answering:
                        log.info("worker answers", extra={"worker": worker.address})
                    worker.report(report)
                    backoff.reset()
                    self._contact.set()
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
        conditions = Counter(_condition(worker) for worker in self._workers)
        for condition in ("ready", "draining", "leaving", "incompatible", "away"):
            metrics.WORKERS.labels(condition).set(conditions[condition])


def _condition(worker: Worker) -> str:
    if worker.leaving:
        return "leaving"
    if worker.answering:
        return "draining" if worker.load.draining else "ready"
    return "incompatible" if worker.incompatible else "away"


def version_mismatch() -> UnavailableError:
    """What is told of a worker that is refused for its protocol."""
    return UnavailableError(
        "The model's worker is of another version than this server: one of them is to be updated",
        reason=Reason.VERSION_MISMATCH,
    )
