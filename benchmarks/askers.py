"""A thousand questions at once about one session: all answered, in order, frames undisturbed.

Twice: a worker by its own contract, with 30 frames a second of one session on a clock, and the
whole suite by its gateway, where a file plays and one client makes a thousand one-shot calls.
Blocks without questions come before each burst. Everything has its default settings. Latency is
arrival at the engine to state updated; memory is resident, read every 50 ms.
"""

import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import psutil

from benchmarks.clips import model_frames, write_h264
from benchmarks.processes import Running, running
from benchmarks.questions import SETTLE_S, Stream
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Latency, Ratio, percentile
from benchmarks.viewers import QUESTIONS
from sightline.v1 import gateway_pb2, gateway_pb2_grpc, inference_pb2, inference_pb2_grpc

ASKERS = 1000
FPS = 30.0
MAX_RATIO = 2.0
MAX_GROWTH_MIB = 512.0
MAX_OVERTAKEN = 0.1  # of the askers, by 95 of 100
TIMEOUT_S = 110.0
MEMORY_S = 0.05

Ask = Callable[[str], Awaitable[gateway_pb2.AnswerDone]]


@dataclass(slots=True)
class Burst:
    """A thousand questions. `places`: in which order those asked first to last were answered;
    `grown_mib`: how much more memory a process had at most than before, by name."""

    seconds: float = 0.0
    answered: int = 0
    degraded: int = 0
    first_s: float = 0.0
    places: list[int] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
    grown_mib: dict[str, float] = field(default_factory=dict)

    @property
    def overtaken(self) -> float:
        """Number of places by which 95 of 100 were answered sooner or later than asked, at most, as
        a share of all."""
        moved = [abs(place - number) for number, place in enumerate(self.places)]
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
        return min(burst.answered for burst in self.bursts) / self.asked


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
        streaming = asyncio.create_task(stream.run(), name="stream")

        async def ask(text: str) -> gateway_pb2.AnswerDone:
            question = gateway_pb2.Question(turn="bench", text=text)
            request = inference_pb2.AnswerRequest(session_id="bench", question=question)
            done = gateway_pb2.AnswerDone()
            async for event in stub.Answer(request, timeout=TIMEOUT_S):
                done = event.done
            return done

        await asyncio.sleep(model.window_segments / FPS + SETTLE_S)
        for turn in range(turns):
            report(f"{found.title}, turn {turn + 1} of {turns}", turn / turns / 2)
            for asked in (False, True):
                stream.latencies_ms.clear()
                stream.sent = stream.refused = 0
                if asked:
                    found.bursts.append(await _burst(ask, askers, suite))
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

        async def ask(text: str) -> gateway_pb2.AnswerDone:
            question = gateway_pb2.Question(text=text)
            request = gateway_pb2.AskRequest(session=session.id, question=question)
            return (await stub.Ask(request, timeout=TIMEOUT_S)).answer  # type: ignore[no-any-return]

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
                    found.bursts.append(await _burst(ask, askers, suite))
                else:
                    await asyncio.sleep(block_s)
                since, (sampled_then, lost_then) = await histogram() - before, await stats()
                quantiles = [1000 * since.quantile(share) for share in (0.5, 0.95, 1.0)]
                latencies = found.with_questions if asked else found.without
                latencies.append(Latency(since.total, *quantiles))
                found.count(asked, sampled_then - sampled, lost_then - lost)
            await asyncio.sleep(SETTLE_S)
    return found


async def _burst(ask: Ask, askers: int, suite: Running) -> Burst:
    """All at once; returns when everybody has an answer or was refused."""
    burst = Burst()
    ended: list[int] = []
    started_s = time.monotonic()

    async def one(number: int, text: str) -> None:
        try:
            done = await ask(text)
        except grpc.aio.AioRpcError as error:
            why = f"{error.code().name}: {error.details()}"
            burst.refusals[why] = burst.refusals.get(why, 0) + 1
            return
        if done.finish_reason in (
            gateway_pb2.FINISH_REASON_STOP,
            gateway_pb2.FINISH_REASON_LENGTH,
        ):
            ended.append(number)
            burst.first_s = burst.first_s or time.monotonic() - started_s
        burst.degraded += bool(done.degraded)

    async with _memory(suite, burst):
        texts = cycle(QUESTIONS)
        asking = [
            asyncio.create_task(one(number, next(texts)), name=f"ask:{number}")
            for number in range(askers)
        ]
        await asyncio.gather(*asking)
    burst.seconds = time.monotonic() - started_s
    burst.answered = len(ended)
    places = {number: place for place, number in enumerate(ended)}
    burst.places = [places[number] for number in sorted(places)]
    return burst


@contextlib.asynccontextmanager
async def _memory(suite: Running, burst: Burst) -> AsyncIterator[None]:
    """Notes how far memory grew while the context lasts."""
    processes = {name: psutil.Process(pid) for name, pid in suite.pids}
    before = {name: process.memory_info().rss for name, process in processes.items()}
    burst.grown_mib = dict.fromkeys(processes, 0.0)

    async def watch() -> None:
        while True:
            for name, process in processes.items():
                grown = (process.memory_info().rss - before[name]) / 2**20
                burst.grown_mib[name] = max(burst.grown_mib[name], grown)
            await asyncio.sleep(MEMORY_S)

    watching = asyncio.create_task(watch(), name="memory")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _result(measured: list[Measured], model: inference_pb2.ModelDescription) -> Result:
    rows: list[tuple[str, ...]] = []
    targets: list[Target] = []
    for found in measured:
        grown = max(max(burst.grown_mib.values()) for burst in found.bursts)
        seconds = statistics.median(burst.seconds for burst in found.bursts)
        overtaken = max(burst.overtaken for burst in found.bursts)
        rows.append(
            (
                found.title,
                f"{min(burst.answered for burst in found.bursts)} of {found.asked}",
                f"{seconds:.1f}",
                f"{statistics.median(burst.first_s for burst in found.bursts):.2f}",
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
            refusals.update(burst.refusals)
    return Result(
        name="askers",
        tables=[Table(f"{measured[0].asked} questions at once about one session", headings, rows)],
        targets=targets,
        figures={"askers": measured[0].asked, "ways": measured},
        draw=lambda figure: _draw(figure, measured),
        dtype=model.dtype,
        device=model.device,
        notes=[
            "default settings; the client is a process of the same machine",
            "frame latencies of the gateway's row are read off the gateway's histogram",
            *(f"{count} × {what}" for what, count in refusals.most_common(5)),
        ],
    )


def _draw(figure: Any, measured: list[Measured]) -> None:
    for axes, found in zip(figure.subplots(1, len(measured)), measured, strict=True):
        places = found.bursts[-1].places
        axes.plot(range(len(places)), places, ".", markersize=2)
        axes.set_title(found.title)
        axes.set_xlabel("asked as number")
        axes.set_ylabel("answered as number")
