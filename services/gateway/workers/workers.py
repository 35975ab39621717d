"""Where sessions are placed: the workers the gateway knows, how full they are, who comes first."""

import asyncio
import logging
import random
from collections.abc import Sequence

import grpc

from services.common.errors import RESTARTING_S
from services.common.progress import RESTART, words_of
from services.common.protocol import PROTOCOL, protocol_of
from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from sightline.errors import ResourceExhaustedError, UnavailableError
from sightline.reasons import Reason
from sightline.v1 import inference_pb2, inference_pb2_grpc

log = logging.getLogger(__name__)

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # in truth: how long one connect() may take
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
MODEL = "the model"  # what a viewer hears a worker called
REPORT_INTERVAL_S = 1.0
REPORT_PATIENCE_S = 5.0  # a worker that is silent for longer counts as away
DESCRIBE_TIMEOUT_S = 3.0
INCOMPATIBLE_S = 5.0  # between two looks at a worker of another version
LOADING_S = 0.5  # between two looks at a model that is not ready
FIRST_CONTACT_S = 2.0  # how long a placement waits while no worker has answered yet


class Backoff:
    """Waits that double from `first_s` to `most_s`, with jitter, until `reset`."""

    def __init__(self, first_s: float = 0.1, most_s: float = 2.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def reset(self) -> None:
        self._next_s = self._first_s

    def next_s(self) -> float:
        """Seconds to wait now; half fixed, half random, so that many callers spread out."""
        wait_s = self._next_s
        self._next_s = min(self._most_s, self._next_s * 2)
        return wait_s * random.uniform(0.5, 1.0)  # spreading, not a secret


class Worker:
    """One inference worker: its channel, its model and its newest load report.

    `name` is what viewers hear of it; its address is for operators. `description` is None and
    `load` stale while `answering` is False. `incompatible`: it speaks another protocol, and is left
    alone until it is replaced.
    """

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self.name = name
        self.channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.description: inference_pb2.ModelDescription | None = None
        self.load = inference_pb2.LoadReport()
        self.answering = False
        self.incompatible = False
        self._placed_since_report = 0

    @property
    def free_sessions(self) -> int:
        """Sessions that probably fit; the worker itself has the last word."""
        if not self.answering or self.description is None:
            return 0
        most = self.load.max_sessions or self.description.max_sessions
        return max(0, most - self.load.sessions - self._placed_since_report)

    @property
    def fullness(self) -> tuple[float, float, float]:
        """Sorts workers: share of sessions taken, then queue delay, then device time."""
        most = self.load.max_sessions or (self.description and self.description.max_sessions) or 1
        taken = (self.load.sessions + self._placed_since_report) / most
        return (taken, self.load.queue_delay_ms, self.load.device_busy)

    def placed(self) -> None:
        """Count a session that the next load report will show."""
        self._placed_since_report += 1

    async def describe(self) -> inference_pb2.ModelDescription:
        self.description = await self.stub.Describe(
            inference_pb2.DescribeRequest(), timeout=DESCRIBE_TIMEOUT_S
        )
        return self.description

    def report(self, load: inference_pb2.LoadReport) -> None:
        self.load = load
        self.answering = True
        self._placed_since_report = 0


class Router:
    """Follows every worker's load and orders them for a new session.

    The list of workers is fixed. All methods belong to the event loop.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.workers = [
            Worker(address, f"worker {number}")
            for number, address in enumerate(dict.fromkeys(addresses), 1)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._contact = asyncio.Event()

    def start(self) -> None:
        for worker in self.workers:
            name = f"router:{worker.address}"
            self._tasks.append(spawn(self._follow(worker), name=name))

    async def aclose(self) -> None:
        await cancel_and_wait(*self._tasks)
        for worker in self.workers:
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
        if not answering and any(worker.incompatible for worker in self.workers):
            raise version_mismatch()
        if not answering:
            raise UnavailableError(
                f"the model is restarting, {RESTART}",
                reason=Reason.MODEL_AWAY,
                retry_after_s=RESTARTING_S,
            )
        ready = [worker for worker in answering if not worker.load.draining]
        if not ready:
            raise UnavailableError(
                "The model is about to restart: try again in some seconds",
                reason=Reason.MODEL_AWAY,
                retry_after_s=RESTARTING_S,
            )
        free = [worker for worker in ready if worker.free_sessions > 0]
        if not free:
            raise ResourceExhaustedError(
                "The model has no room for another session: delete one first",
                reason=Reason.MODEL_FULL,
            )
        return sorted(free, key=lambda worker: worker.fullness)

    def descriptions(self) -> list[tuple[str, inference_pb2.ModelDescription]]:
        """(address, model) of every worker that answers."""
        return [
            (worker.address, worker.description)
            for worker in self._answering()
            if worker.description is not None
        ]

    def loading(self) -> list[inference_pb2.ModelDescription]:
        """Of every worker that is there and whose model is not ready."""
        return [
            worker.description
            for worker in self.workers
            if worker.description is not None and worker.description.HasField("loading")
        ]

    def _answering(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.answering]

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
                worker.answering = False
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
        answering = self._answering()
        draining = sum(worker.load.draining for worker in answering)
        metrics.WORKERS.labels("draining").set(draining)
        metrics.WORKERS.labels("ready").set(len(answering) - draining)
        incompatible = sum(worker.incompatible for worker in self.workers)
        metrics.WORKERS.labels("incompatible").set(incompatible)
        metrics.WORKERS.labels("away").set(len(self.workers) - len(answering) - incompatible)


def version_mismatch() -> UnavailableError:
    """What is told of a worker that is refused for its protocol."""
    return UnavailableError(
        "The model's worker is of another version than this server: one of them is to be updated",
        reason=Reason.VERSION_MISMATCH,
    )
