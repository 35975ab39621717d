"""A thousand questions at once about one session: all answered, in order, frames undisturbed.

Twice: a worker by its own contract, with 30 frames a second of one session on a clock, and the
whole suite by its gateway, where a file plays. A process of its own makes the thousand calls.
Blocks without questions come before each burst. Everything has its default settings. Latency is
arrival at the engine to state updated; memory is resident, read every 50 ms.
"""

import asyncio
import contextlib
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import psutil

from benchmarks.clips import model_frames, write_h264
from benchmarks.crowd import Answers, Crowd
from benchmarks.processes import Running, running
from benchmarks.questions import SETTLE_S, Stream
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Latency, Ratio, percentile
from sightline.v1 import gateway_pb2, gateway_pb2_grpc, inference_pb2, inference_pb2_grpc

ASKERS = 1000
FPS = 30.0
MAX_RATIO = 2.0
MAX_GROWTH_MIB = 512.0
MAX_OVERTAKEN = 0.1  # of the askers, by 95 of 100
MEMORY_S = 0.05


@dataclass(slots=True)
class Burst:
    """A thousand questions. `grown_mib`: how much more memory a process had at most than before,
    by name."""

    answers: Answers
    grown_mib: dict[str, float]

    @property
    def overtaken(self) -> float:
        """Number of places by which 95 of 100 were answered sooner or later than asked, at most, as
        a share of all."""
        moved = [abs(place - number) for number, place in enumerate(self.answers.places)]
        return percentile(moved, 0.95) / len(moved) if moved else 1.0


@dataclass(slots=True)
class Measured:
    """Figures of one way of asking."""

    title: str
    asked: int
    without: list[Latency] = field(default_factory=list)
    with_questions: list[Latency] = field(default_factory=list)
    bursts: list[Burst] = field(default_factory=list)
    frames: dict[str, int] = field(default_factory=dict)  # sent and lost, with and without

    @property
    def ratio(self) -> Ratio:
        return Ratio.of(
            [latency.p95_ms for latency in self.with_questions],
            [latency.p95_ms for latency in self.without],
        )

    def count(self, asked: bool, sent: int, lost: int) -> None:
        """Frames of a block."""
        when = "with" if asked else "without"
        for what, number in (("sent", sent), ("lost", lost)):
            key = f"{what} {when}"
            self.frames[key] = self.frames.get(key, 0) + number

    def lost(self, when: str) -> float:
        """Share of the frames that were due. when: "with", "without" questions."""
        sent, lost = self.frames[f"sent {when}"], self.frames[f"lost {when}"]
        return lost / max(1, sent + lost)

    @property
    def answered(self) -> float:
        return min(burst.answers.answered for burst in self.bursts) / self.asked


def run(report: Report, *, quick: bool) -> Result:
    turns, block_s = (1, 1.5) if quick else (3, 6.0)
    askers = 200 if quick else ASKERS
    with tempfile.TemporaryDirectory(prefix="sightline-") as name:
        media, worker, suite = (Path(name, part) for part in ("media", "worker", "suite"))
        for folder in (media, worker, suite):
            folder.mkdir()
        write_h264(media / "shop.mp4", 25, 20.0)
        by_worker, model = asyncio.run(_by_worker(worker, askers, turns, block_s, report))
        with patch.dict(os.environ, GATEWAY_MEDIA_ROOT=str(media)):
            by_gateway = asyncio.run(_by_gateway(suite, askers, turns, block_s, report))
    return _result([by_worker, by_gateway], model)


async def _by_worker(
    folder: Path, askers: int, turns: int, block_s: float, report: Report
) -> tuple[Measured, inference_pb2.ModelDescription]:
    found = Measured(f"worker, {FPS:g} fps", askers)
    async with contextlib.AsyncExitStack() as stack:
        suite = await stack.enter_async_context(running(folder, worker_only=True))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(suite.worker))
        stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        model = await stub.Describe(inference_pb2.DescribeRequest(), timeout=10)
        stream = Stream(stub, "bench", model_frames(64), FPS, 0.0)
        gathered = Crowd.gathered("worker", suite.worker, "bench", askers)
        crowd = await stack.enter_async_context(gathered)
        streaming = asyncio.create_task(stream.run(), name="stream")
        await asyncio.sleep(model.window_segments / FPS + SETTLE_S)
        for turn in range(turns):
            report(f"{found.title}, turn {turn + 1} of {turns}", turn / turns / 2)
            for asked in (False, True):
                stream.latencies_ms.clear()
                stream.sent = stream.refused = 0
                if asked:
                    found.bursts.append(await _burst(crowd, suite))
                else:
                    await asyncio.sleep(block_s)
                latencies = found.with_questions if asked else found.without
                latencies.append(Latency.of_ms(stream.latencies_ms))
                found.count(asked, stream.sent, stream.refused)
            await asyncio.sleep(SETTLE_S)
        if streaming.done():
            streaming.result()
        streaming.cancel()
        await asyncio.gather(streaming, return_exceptions=True)
    return found, model


async def _by_gateway(
    folder: Path, askers: int, turns: int, block_s: float, report: Report
) -> Measured:
    found = Measured("gateway, file at the model's rate", askers)
    async with contextlib.AsyncExitStack() as stack:
        suite = await stack.enter_async_context(running(folder))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(suite.gateway))
        stub: Any = gateway_pb2_grpc.SightlineServiceStub(channel)
        session = await stub.CreateSession(
            gateway_pb2.CreateSessionRequest(
                source="shop.mp4", options=gateway_pb2.SessionOptions(loop=True)
            ),
            timeout=30,
        )
        gathered = Crowd.gathered("gateway", suite.gateway, session.id, askers)
        crowd = await stack.enter_async_context(gathered)

        async def histogram() -> Any:
            return await asyncio.to_thread(
                suite.gateway_histogram, "sightline_frame_latency_seconds"
            )

        async def stats() -> tuple[int, int]:
            request = gateway_pb2.GetSessionRequest(session=session.id)
            stats = (await stub.GetSession(request, timeout=10)).stats
            return stats.frames_sampled, sum(stats.dropped.values())

        await asyncio.sleep(4.0 + SETTLE_S)
        for turn in range(turns):
            report(f"{found.title}, turn {turn + 1} of {turns}", 0.5 + turn / turns / 2)
            for asked in (False, True):
                before, (sampled, lost) = await histogram(), await stats()
                if asked:
                    found.bursts.append(await _burst(crowd, suite))
                else:
                    await asyncio.sleep(block_s)
                since, (sampled_then, lost_then) = await histogram() - before, await stats()
                quantiles = [1000 * since.quantile(share) for share in (0.5, 0.95, 1.0)]
                latencies = found.with_questions if asked else found.without
                latencies.append(Latency(since.total, *quantiles))
                found.count(asked, sampled_then - sampled, lost_then - lost)
            await asyncio.sleep(SETTLE_S)
    return found


async def _burst(crowd: Crowd, suite: Running) -> Burst:
    async with _memory(suite) as grown_mib:
        answers = await crowd.ask()
    return Burst(answers, grown_mib)


@contextlib.asynccontextmanager
async def _memory(suite: Running) -> AsyncIterator[dict[str, float]]:
    """Growth of every process's memory, at most, while the context lasts, in MiB."""
    processes = {name: psutil.Process(pid) for name, pid in suite.pids}
    before = {name: process.memory_info().rss for name, process in processes.items()}
    most = dict.fromkeys(processes, 0.0)

    async def watch() -> None:
        while True:
            for name, process in processes.items():
                grown = (process.memory_info().rss - before[name]) / 2**20
                most[name] = max(most[name], grown)
            await asyncio.sleep(MEMORY_S)

    watching = asyncio.create_task(watch(), name="memory")
    try:
        yield most
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _result(measured: list[Measured], model: inference_pb2.ModelDescription) -> Result:
    rows: list[tuple[str, ...]] = []
    targets: list[Target] = []
    for found in measured:
        grown = max(max(burst.grown_mib.values()) for burst in found.bursts)
        seconds = statistics.median(burst.answers.seconds for burst in found.bursts)
        overtaken = max(burst.overtaken for burst in found.bursts)
        rows.append(
            (
                found.title,
                f"{min(burst.answers.answered for burst in found.bursts)} of {found.asked}",
                f"{seconds:.1f}",
                f"{statistics.median(burst.answers.first_s for burst in found.bursts):.2f}",
                f"{100 * overtaken:.1f} %",
                f"{grown:.0f}",
                f"{statistics.median(block.p95_ms for block in found.without):.1f}",
                f"{statistics.median(block.p95_ms for block in found.with_questions):.1f}",
                str(found.ratio),
            )
        )
        lost = found.lost("with") - found.lost("without")
        targets += [
            Target(f"{found.title}: answered", found.answered, 1.0, at_least=True),
            Target(f"{found.title}: frame p95 with against without", found.ratio.median, MAX_RATIO),
            Target(f"{found.title}: frames lost, beyond those without", lost, 0.001),
            Target(f"{found.title}: out of order, 95 of 100 within", overtaken, MAX_OVERTAKEN),
            Target(f"{found.title}: memory grown", grown, MAX_GROWTH_MIB, "MiB"),
        ]
    headings = (
        "",
        "answered",
        "last after s",
        "first after s",
        "out of order",
        "grown MiB",
        "frame p95 ms without",
        "with",
        "ratio (least…most)",
    )
    refusals = Counter[str]()
    for found in measured:
        for burst in found.bursts:
            refusals.update(burst.answers.refusals)
    return Result(
        name="askers",
        tables=[Table(f"{measured[0].asked} questions at once about one session", headings, rows)],
        targets=targets,
        figures={"askers": measured[0].asked, "ways": measured},
        draw=lambda figure: _draw(figure, measured),
        dtype=model.dtype,
        device=model.device,
        notes=[
            "default settings; the askers are a process of the same machine, of lower priority",
            "frame latencies of the gateway's row are read off the gateway's histogram",
            *(f"{count} × {what}" for what, count in refusals.most_common(5)),
        ],
    )


def _draw(figure: Any, measured: list[Measured]) -> None:
    for axes, found in zip(figure.subplots(1, len(measured)), measured, strict=True):
        places = found.bursts[-1].answers.places
        axes.plot(range(len(places)), places, ".", markersize=2)
        axes.set_title(found.title)
        axes.set_xlabel("asked as number")
        axes.set_ylabel("answered as number")
