"""Whether a suite stays as it is while publishers and viewers come and go: `make soak`.

Publishers open sessions, push some seconds of generated video and leave, now and then without a
goodbye; viewers come, ask, watch and leave. Resident memory, descriptors, threads and asyncio tasks
of every process are read every few seconds; what they were in the run's second quarter they must
be in its last. SOAK_S says how long, 1800 by default.
"""

import asyncio
import contextlib
import os
import random
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil

from benchmarks.processes import Running, running
from benchmarks.report import Report, Result, Table, Target
from services.inference_worker.config import WorkerConfig
from sightline import aio
from sightline.errors import SightlineError

SECONDS, QUICK_S = 1800.0, 30.0
PUBLISHERS, VIEWERS = 3, 4
SAMPLE_S = 5.0
FPS = 4
QUESTIONS = ("What is in the scene?", "What do you see?", "Is there anything red?")
# What has ended is forgotten within seconds, so that its number is soon what it stays.
ENVIRONMENT = {"GATEWAY_ENDED_S": "10", "GATEWAY_RESUME_S": "10"}
SERVICES = ("gateway", "dialogue", "tts", "worker")
LIMITS = {"memory (MiB)": 24.0, "descriptors": 8.0, "threads": 8.0, "tasks": 16.0}


@dataclass(slots=True)
class Watched:
    """Holdings of one process, sample by sample, by kind."""

    name: str
    had: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in LIMITS})

    def growth(self, kind: str) -> float:
        """From the second quarter of the run to its last."""
        had = self.had[kind]
        quarter = max(1, len(had) // 4)
        return statistics.median(had[-quarter:]) - statistics.median(had[quarter : 2 * quarter])


@dataclass(slots=True)
class Traffic:
    """Traffic that was made, and what it was made to."""

    seconds: float
    watched: list[Watched] = field(default_factory=list)
    sessions: int = 0
    frames: int = 0
    viewers: int = 0
    answers: int = 0
    refused: int = 0


def run(report: Report, *, quick: bool) -> Result:
    seconds = QUICK_S if quick else float(os.environ.get("SOAK_S", SECONDS))
    with (
        tempfile.TemporaryDirectory(prefix="sightline-") as folder,
        patch.dict(os.environ, ENVIRONMENT),
    ):
        traffic = asyncio.run(_run(seconds, report, Path(folder)))
    return _result(traffic)


async def _run(seconds: float, report: Report, folder: Path) -> Traffic:
    traffic = Traffic(seconds)
    async with running(folder) as suite:
        end_s = time.monotonic() + seconds
        rng = random.Random(16)
        sessions: set[str] = set()
        async with asyncio.TaskGroup() as group:
            for number in range(PUBLISHERS):
                publish = _again_and_again(_publish, suite, traffic, sessions, rng, end_s)
                group.create_task(publish, name=f"publisher {number}")
            for number in range(VIEWERS):
                view = _again_and_again(_view, suite, traffic, sessions, rng, end_s)
                group.create_task(view, name=f"viewer {number}")
            group.create_task(_watch(suite, traffic, end_s, report), name="samples")
    return traffic


Visit = Callable[[aio.Client, Traffic, set[str], random.Random], Awaitable[None]]


async def _again_and_again(
    visit: Visit,
    suite: Running,
    traffic: Traffic,
    sessions: set[str],
    rng: random.Random,
    end_s: float,
) -> None:
    while time.monotonic() < end_s:
        try:
            async with aio.connect(suite.gateway) as client:
                await visit(client, traffic, sessions, rng)
        except SightlineError:  # a session that was ended meanwhile, or no room just now
            traffic.refused += 1
        await asyncio.sleep(rng.uniform(0.2, 1.5))


async def _publish(
    client: aio.Client, traffic: Traffic, sessions: set[str], rng: random.Random
) -> None:
    """One session from its first picture to its end; one in four leaves it to the grace time."""
    session = await client.open(push=True, grace_s=5.0)
    traffic.sessions += 1
    sessions.add(session.id)
    try:
        picture = np.random.default_rng(rng.randrange(2**31)).integers(
            0, 255, (96, 128, 3), np.uint8
        )
        async with session.pusher() as pusher:
            for number in range(int(FPS * rng.uniform(4, 12))):
                await pusher.send(np.roll(picture, 4 * number, axis=1))
                traffic.frames += 1
                await asyncio.sleep(1 / FPS)
    finally:
        sessions.discard(session.id)
    if rng.random() < 0.75:
        await session.delete()


async def _view(
    client: aio.Client, traffic: Traffic, sessions: set[str], rng: random.Random
) -> None:
    """One viewer: some questions, a watch, and away."""
    if not sessions:
        return
    session = await client.session(rng.choice(sorted(sessions)))
    traffic.viewers += 1
    talk = session.conversation(speech=rng.random() < 0.3)
    for _ in range(rng.randint(1, 3)):
        await talk.ask(rng.choice(QUESTIONS)).result()
        traffic.answers += 1
    if rng.random() < 0.5:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                async for _ in session.watch("something is red"):
                    break


async def _watch(suite: Running, traffic: Traffic, end_s: float, report: Report) -> None:
    """Sample every process until the end."""
    config = suite.suite.config
    ports = dict(
        zip(
            SERVICES,
            (
                config.gateway_metrics_port,
                config.dialogue_metrics_port,
                config.tts_metrics_port,
                config.worker_metrics_port,
            ),
            strict=True,
        )
    )
    found = {name: psutil.Process(pid) for name, pid in suite.pids}
    traffic.watched = [Watched(name) for name in found]
    begun_s = time.monotonic()
    while time.monotonic() < end_s:
        await asyncio.sleep(SAMPLE_S)
        for each in traffic.watched:
            process = found[each.name]
            each.had["memory (MiB)"].append(process.memory_info().rss / 2**20)
            each.had["descriptors"].append(process.num_fds())
            each.had["threads"].append(process.num_threads())
            service = next((name for name in SERVICES if each.name.startswith(name)), "")
            if service:
                each.had["tasks"].append(await asyncio.to_thread(_tasks, ports[service]))
        done = (time.monotonic() - begun_s) / traffic.seconds
        report(f"{traffic.sessions} sessions, {traffic.answers} answers", min(1.0, done))


def _tasks(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        for line in reply.read().decode().splitlines():
            if line.startswith("sightline_tasks "):
                return float(line.split()[1])
    raise RuntimeError("no sightline_tasks")


def _result(traffic: Traffic) -> Result:
    rows = [
        (each.name, kind, f"{had[0]:.0f}", f"{max(had):.0f}", f"{each.growth(kind):+.1f}")
        for each in traffic.watched
        for kind, had in each.had.items()
        if had
    ]
    growths = {
        kind: max(each.growth(kind) for each in traffic.watched if each.had[kind])
        for kind in LIMITS
    }
    return Result(
        name="traffic",
        tables=[
            Table(
                f"{traffic.seconds / 60:.0f} minutes: {traffic.sessions} sessions, "
                f"{traffic.frames} frames, {traffic.viewers} viewers, {traffic.answers} answers",
                ("process", "of", "first", "most", "grown"),
                rows,
            )
        ],
        targets=[
            Target(f"{kind} grown by one process", growths[kind], limit)
            for kind, limit in LIMITS.items()
        ],
        figures={"traffic": traffic},
        draw=lambda figure: _draw(figure, traffic),
        dtype=WorkerConfig.from_env().dtype,
        device=WorkerConfig.from_env().device,
        notes=["grown: from the median of the second quarter to that of the last"],
    )


def _draw(figure: Any, traffic: Traffic) -> None:
    for axes, kind in zip(figure.subplots(2, 2).flat, LIMITS, strict=True):
        for each in traffic.watched:
            had = each.had[kind]
            minutes = [SAMPLE_S * number / 60 for number in range(len(had))]
            if had:
                axes.plot(minutes, had, label=each.name)
        axes.set_ylabel(kind)
        axes.set_xlabel("minutes")
        axes.set_ylim(bottom=0)
    figure.axes[0].legend()
