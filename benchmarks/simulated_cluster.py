"""A simulated cluster: gateways with the product's own placement, simulated workers, and sessions
that come, are moved, and go; all in virtual time."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

from benchmarks.simulated_worker import TRIP_S, Machine, SimulatedChannel, SimulatedWorker
from benchmarks.virtual_time import VirtualLoop, clock_of
from services.common.backoff import Backoff
from services.common.tasks import cancel_and_wait, spawn
from services.gateway.workers import placement as placement_module
from services.gateway.workers import worker as worker_module
from services.gateway.workers import workers as workers_module
from services.gateway.workers.choice import Choice
from services.gateway.workers.lookup import Found
from services.gateway.workers.placement import Placement
from services.gateway.workers.worker import Worker
from services.gateway.workers.worker_stream import WorkerStream
from services.gateway.workers.workers import Workers
from sightline.errors import SightlineError

HEARD_S = (0.05, 0.5)  # after which a gateway hears of a change in the cluster
AGAIN_S = 1.0  # after which somebody who found no room asks again


@dataclass(slots=True)
class Moment:
    """The cluster at one time: the share of promised pages, over the workers that take sessions."""

    at_s: float
    placed: int
    mean: float
    fullest: float


@dataclass(slots=True)
class Account:
    """Account of what happened to sessions, in seconds. `lost_s`: how long each one that a fault
    met had no worker that knew its window; `moves`: to another worker, in good order."""

    placed_s: list[float] = field(default_factory=list)
    lost_s: list[float] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)  # ids of those that are without one
    left_waiting: int = 0  # at the end
    moves: int = 0
    turned_away: int = 0
    moments: list[Moment] = field(default_factory=list)
    arrived: int = 0  # number of moments until all had come, and before anything happened


class Cluster:
    """Gateways and workers. Every method belongs to the virtual loop."""

    def __init__(
        self,
        machine: Machine,
        *,
        gateways: int,
        workers: int,
        zones: int,
        choice: type,
        rng: random.Random,
    ) -> None:
        self.machine = machine
        self.account = Account()
        self.workers: dict[str, SimulatedWorker] = {}
        self._rng = rng
        self._zones = zones
        self._numbers = iter(range(1, 1_000_000))
        choices: list[Choice] = [choice(random.Random(rng.random())) for _ in range(gateways)]
        self._gateways = [Workers(choice=each, make_worker=self._worker) for each in choices]
        self._tasks: set[asyncio.Task[None]] = set()
        self._sessions: dict[str, asyncio.Task[None]] = {}
        for gateway in self._gateways:
            gateway.start()
        self.add(workers)

    def add(self, count: int) -> list[SimulatedWorker]:
        """Further workers, spread over the zones, that are ready."""
        added = []
        for _ in range(count):
            number = next(self._numbers)
            address = f"10.{number % self._zones}.{number // 250}.{number % 250}:50060"
            seed = random.Random(self._rng.random())
            worker = SimulatedWorker(address, number % self._zones, self.machine, seed)
            self.workers[address] = worker
            added.append(worker)
        self.announce()
        return added

    def remove(self, workers: Iterable[SimulatedWorker]) -> None:
        """These are over, and the cluster says so."""
        for worker in workers:
            self.workers.pop(worker.address, None)
            worker.kill()
        self.announce()

    def announce(self) -> None:
        """Tell every gateway which workers there are, each a little later."""
        found = Found(tuple(self.workers))
        for gateway in self._gateways:
            self._later(self._hear(gateway, found))

    def open(self, count: int, over_s: float, stay_s: float | None = None) -> None:
        """So many sessions arrive over a time, each at some gateway; `stay_s`: for how long they
        stay, on average, where they do not stay for good."""
        for number in range(count):
            gateway = self._gateways[number % len(self._gateways)]
            wait_s = self._rng.uniform(0, over_s)
            stays_s = None if stay_s is None else self._rng.expovariate(1 / stay_s)
            session_id = f"{self._rng.getrandbits(64):016x}"
            task = spawn(self._live(gateway, session_id, wait_s, stays_s), name=session_id)
            self._sessions[session_id] = task
            task.add_done_callback(partial(self._left, session_id))

    def _left(self, session_id: str, task: asyncio.Task[None]) -> None:
        self._sessions.pop(session_id, None)

    async def watch(self, for_s: float) -> None:
        """Let time pass, and write down how full workers are, once a second."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + for_s
        while loop.time() < end_s:
            await asyncio.sleep(min(1.0, end_s - loop.time()))
            there = [each for each in self.workers.values() if each.alive and each.hung_s is None]
            shares = [each.share for each in there if not each.draining] or [0.0]
            held = sum(len(each.sessions) for each in there)
            mean = sum(shares) / len(shares)
            self.account.moments.append(Moment(loop.time(), held, mean, max(shares)))

    async def aclose(self) -> None:
        await cancel_and_wait(*self._sessions.values(), *self._tasks)
        for gateway in self._gateways:
            await gateway.aclose()

    # --- inside ---------------------------------------------------------------------------------

    def _worker(self, address: str, name: str) -> Worker:
        channel = SimulatedChannel(self.workers[address])
        return Worker(address, name, channel)  # type: ignore[arg-type]

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = spawn(work, name="cluster")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hear(self, gateway: Workers, found: Found) -> None:
        await asyncio.sleep(self._rng.uniform(*HEARD_S))
        known = tuple(each for each in found.addresses if each in self.workers)
        gateway.set(Found(known))

    async def _live(
        self, gateway: Workers, session_id: str, wait_s: float, stays_s: float | None
    ) -> None:
        """One session from its arrival on: what `FrameFeed` does with a placement, but frames."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(wait_s)
        asked_s = loop.time()
        placement = Placement(
            gateway,
            session_id,
            window_segments=0,
            max_pixels=0,
            grace_s=30.0,
            open_timeout_s=10.0,
        )
        while True:
            try:
                stream = await placement.open()
                break
            except SightlineError:
                self.account.turned_away += 1
                await asyncio.sleep(AGAIN_S)
        self.account.placed_s.append(loop.time() - asked_s)
        end_s = float("inf") if stays_s is None else loop.time() + stays_s
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(None if stays_s is None else end_s):
                    while True:
                        stream = await self._carry(placement, stream)
        finally:
            self.account.waiting.discard(session_id)
        await placement.release()

    async def _carry(self, placement: Placement, stream: WorkerStream) -> WorkerStream:
        """Stay until the stream is over or another worker has taken the session; the next one."""
        loop = asyncio.get_running_loop()
        reader = asyncio.ensure_future(stream.read())
        leaver = asyncio.ensure_future(placement.open_elsewhere(lambda: self.machine.window))
        try:
            await asyncio.wait({reader, leaver}, return_when=asyncio.FIRST_COMPLETED)
            if leaver.done():
                successor = leaver.result()
                left = self.workers.get(stream.worker.address)
                placement.moved(successor)
                understood_s = self._replayed(successor)
                if left is None or left.hung_s is None:
                    self.account.moves += 1
                else:
                    self.account.lost_s.append(understood_s - left.hung_s)
                return successor
        finally:
            stream.cancel()
            await cancel_and_wait(reader, leaver)
        broke_s, session_id = loop.time(), placement.session_id
        self.account.waiting.add(session_id)
        backoff = Backoff()
        while True:
            await asyncio.sleep(backoff.next_s())
            try:
                successor = await placement.reopen(self.machine.window)
            except SightlineError:
                continue
            await asyncio.sleep(self._replayed(successor) - loop.time() + TRIP_S)
            self.account.lost_s.append(loop.time() - broke_s)
            self.account.waiting.discard(session_id)
            return successor

    def _replayed(self, stream: WorkerStream) -> float:
        """Time at which the stream's worker will have understood the window."""
        now_s = asyncio.get_running_loop().time()
        if stream.resumed:
            return now_s
        worker = self.workers.get(stream.worker.address)
        return now_s if worker is None else worker.understood_s(self.machine.window)


@contextlib.contextmanager
def virtual(seed: int) -> Iterator[VirtualLoop]:
    """A virtual loop on which the gateway's code, and all chance, is the same for the same seed."""
    loop = VirtualLoop()
    chance = random.Random(seed)
    asyncio.set_event_loop(loop)
    modules = (placement_module, worker_module, workers_module)
    logging.disable(logging.CRITICAL)  # of thousands of sessions that lose their worker
    with contextlib.ExitStack() as stack:
        stack.callback(logging.disable, logging.NOTSET)
        stack.enter_context(clock_of(loop, modules))
        stack.enter_context(mock.patch("services.common.backoff.random", chance))
        try:
            yield loop
        finally:
            loop.close()
            asyncio.set_event_loop(None)
