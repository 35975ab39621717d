"""Two gateways and two workers in containers: the part of `make compose-test` about what is lost.

Viewers talk without a pause and watch while a gateway and a worker are killed, and then while every
container is replaced by another, one after the other, as a rollout does. Every question is
answered, every history is what its viewer read, session and watch are there all the time.
"""

import asyncio
import contextlib
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from benchmarks.chaos_load import Caller, Differences, Talker, Watcher
from sightline import aio
from sightline.types import Timeouts
from tools.docker_engine import run

log = logging.getLogger("compose-test")

SEED = 16
TALKERS = 2
MORE = 6  # answers of every viewer between two things that happen
MORE_S = 120.0  # for those
ROUNDS = 80  # of a conversation: fewer than dialogue keeps
GATEWAYS, WORKERS = ("gateway", "gateway-2"), 2
SERVICES = (*GATEWAYS, "redis-leases", "worker", "dialogue", "tts", "redis")
END_S = "25"  # longer than any service drains


class Suite(Protocol):
    """What is needed of compose_test's."""

    environment: dict[str, str]
    ports: dict[str, int]
    services: tuple[str, ...]

    def __call__(self, *arguments: str, timeout_s: float = 300) -> str: ...

    def wait_until_healthy(self, timeout_s: float = 180) -> None: ...


def check_gateways(suite: Suite, clip: Path) -> None:
    """Everything above; the suite is as it was afterwards."""
    with _more_of_everything(suite):
        asyncio.run(_Storm(suite).run(clip))


@contextlib.contextmanager
def _more_of_everything(suite: Suite) -> Iterator[None]:
    """Two of what there may be several of, within it."""
    before, services = dict(suite.environment), suite.services
    secret = secrets.token_hex(32)
    more = {
        "COMPOSE_PROFILES": "cpu,gateways",
        "GATEWAY_CLUSTER_SECRET": secret,
        "GATEWAY_REDIS_URL": f"redis://:{secret}@redis-leases:6379/0",
        **{f"GATEWAY_2_{kind}_PORT": str(_free_port()) for kind in ("GRPC", "HTTP", "RTMP")},
        "GATEWAY_2_WEBRTC_PORT": str(_free_port()),
    }
    suite.environment.update(more)
    suite.services = SERVICES
    try:
        _up(suite)
        suite.wait_until_healthy()
        log.info("two gateways and two workers are healthy")
        yield
        suite("rm", "--stop", "--force", "gateway-2", "redis-leases")
    finally:
        suite.services = services
        suite.environment.clear()
        suite.environment.update(before)
        for name in more:
            os.environ.pop(name, None)
    suite("up", "--detach", "--no-build", "--scale", "worker=1")
    suite.wait_until_healthy()


def _up(suite: Suite, *options: str) -> None:
    suite("up", "--detach", "--no-build", *options, "--scale", f"worker={WORKERS}")


@dataclass(slots=True)
class _Storm:
    """Viewers of one session, and what happens meanwhile."""

    suite: Suite

    async def run(self, clip: Path) -> None:
        ports = (self.suite.ports["GRPC"], int(self.suite.environment["GATEWAY_2_GRPC_PORT"]))
        addresses = [f"127.0.0.1:{port}" for port in ports]
        timeouts = Timeouts(answer_s=60.0, reconnect_s=60.0, call_s=20.0)
        chance = random.Random(SEED)
        async with aio.connect(",".join(addresses), timeouts=timeouts) as client:
            session = await client.open(clip, loop=True, name="gateways")
            talkers: list[Talker | Caller] = [
                Talker(session, random.Random(chance.random())) for _ in range(TALKERS)
            ]
            talkers.append(Caller(session, random.Random(chance.random()), addresses))
            for each in talkers:
                each.rounds = ROUNDS
            watcher = Watcher(session, still=False)
            asking = [asyncio.create_task(each.run(), name="talker") for each in talkers]
            watching = asyncio.create_task(watcher.run(), name="watcher")
            try:
                await _more_answers(talkers)
                for what, act in self._events():
                    began_s = time.monotonic()
                    await asyncio.to_thread(act)
                    await _more_answers(talkers)
                    log.info("%s: %.0f s, nothing lost", what, time.monotonic() - began_s)
            finally:
                for each in talkers:
                    each.finish()
                await asyncio.wait(asking)
                watching.cancel()
            await self._sum_up(client, session, talkers, watcher)

    def _events(self) -> list[tuple[str, Callable[[], None]]]:
        """Kills, and then the replacement of every container."""
        events: list[tuple[str, Callable[[], None]]] = [
            ("a gateway killed", partial(self._kill, "gateway")),
            ("a worker killed", partial(self._kill, "worker")),
        ]
        for service in SERVICES:
            count = WORKERS if service == "worker" else 1
            events += [(f"{service} replaced", partial(self._replace, service))] * count
        return events

    def _containers(self, service: str) -> list[str]:
        return sorted(self.suite("ps", "-q", service).split())

    def _kill(self, service: str) -> None:
        container = self._containers(service)[0]
        run("docker", "kill", "--signal", "KILL", container)
        time.sleep(2)
        run("docker", "start", container)
        self.suite.wait_until_healthy()

    def _replace(self, service: str) -> None:
        """End a container in order, of several the oldest, and put another in its place."""
        ages = {
            each: run("docker", "inspect", "--format", "{{.Created}}", each)
            for each in self._containers(service)
        }
        container = min(ages, key=lambda each: ages[each])
        run("docker", "stop", "--time", END_S, container)
        code = run("docker", "inspect", "--format", "{{.State.ExitCode}}", container).strip()
        if code != "0":
            raise AssertionError(f"{service} ended with {code} when it was told to")
        run("docker", "rm", container)
        _up(self.suite, "--no-deps", "--no-recreate")
        self.suite.wait_until_healthy()

    async def _sum_up(
        self,
        client: aio.Client,
        session: aio.Session,
        talkers: list[Talker | Caller],
        watcher: Watcher,
    ) -> None:
        differences, asked = Differences(), 0
        for each in talkers:
            differences.add(await each.differences(client))
            asked += len(each.asked)
            await each.aclose()
        there = {info.id for info in await client.sessions()}
        log.info("%d questions, %d events, %s", asked, len(watcher.events), differences)
        if differences != Differences():
            raise AssertionError(f"histories are not what was read: {differences}")
        if session.id not in there:
            raise AssertionError("the session is gone")
        if watcher.error or not watcher.events:
            raise AssertionError(f"the watch: {watcher.error or 'it never fired'}")


async def _more_answers(talkers: list[Talker | Caller]) -> None:
    """Wait until every viewer has read so many more. Raises AssertionError for a question that has
    none."""
    wanted = {each: len(each.asked) + MORE for each in talkers}
    end_s = time.monotonic() + MORE_S
    while True:
        lost = [asked.error for each in talkers for asked in each.asked if asked.error]
        if lost:
            raise AssertionError(f"questions without an answer: {lost}")
        if all(len(each.asked) > wanted[each] for each in talkers):
            return
        if time.monotonic() > end_s:
            raise AssertionError("no more answers")
        await asyncio.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
