"""What a decision costs: many statements about one live session in a call, against one at a time.

A worker in its own process watches a session at ten frames a second and scores statements through
its own contract. Every statement is another, so that none is spared.
"""

import asyncio
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.clips import model_frames
from benchmarks.processes import running
from benchmarks.questions import Stream
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Latency
from sightline.v1 import inference_pb2, inference_pb2_grpc

SIZES = (1, 10, 100, 400)
FPS = 10.0
SESSION = "decisions"
SETTLE_S = 0.5
MAX_SHARE = 0.5  # of what one at a time takes
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "grey", "pink", "brown", "orange")
THINGS = ("shirt", "cup", "bag", "phone", "box", "hat", "shoe", "book", "bottle", "hand")
PLACES = ("there", "on the left", "on the right", "in the middle", "held")


@dataclass(slots=True)
class Measured:
    """Milliseconds of calls by how many statements they had, and of frames meanwhile."""

    calls_ms: dict[int, list[float]] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    resting: Latency | None = None
    deciding: Latency | None = None

    def each_ms(self, size: int) -> float:
        """Median milliseconds of one statement."""
        return statistics.median(self.calls_ms[size]) / size


def run(report: Report, *, quick: bool) -> Result:
    turns, block_s = (2, 1.0) if quick else (9, 5.0)
    with tempfile.TemporaryDirectory() as name:
        return asyncio.run(_measure(Path(name), turns, block_s, report))


def statements() -> list[str]:
    """Five hundred statements, each another."""
    found = itertools.product(COLOURS, THINGS, PLACES)
    return [f"a {colour} {thing} is {place}" for colour, thing, place in found]


async def _measure(folder: Path, turns: int, block_s: float, report: Report) -> Result:
    found = Measured()
    texts = statements()
    async with contextlib.AsyncExitStack() as stack:
        suite = await stack.enter_async_context(running(folder, worker_only=True))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(suite.worker))
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        model = await stub.Describe(inference_pb2.DescribeRequest(), timeout=10)
        stream = Stream(stub, SESSION, model_frames(64), FPS, 0.0)
        await stack.enter_async_context(_task(stream.run()))
        await asyncio.sleep(model.window_segments / FPS + SETTLE_S)
        for index, size in enumerate(SIZES):
            report(f"{size} statements", index / (len(SIZES) + 2))
            found.calls_ms[size] = []
            for turn in range(turns + 1):
                began_s = time.monotonic()
                reply = await _score(stub, texts[:size])
                if turn:  # the first one warms up
                    found.calls_ms[size].append(1000 * (time.monotonic() - began_s))
                found.tokens[size] = reply.prompt_tokens
        report("frames", len(SIZES) / (len(SIZES) + 2))
        found.resting = await _frames(stream, block_s)

        async def decide() -> None:
            while True:
                await _score(stub, texts[: SIZES[-1]])

        async with _task(decide()):
            found.deciding = await _frames(stream, block_s)
    return _result(found, model)


async def _score(stub: Any, texts: list[str]) -> inference_pb2.ScoreStatementsResponse:
    request = inference_pb2.ScoreStatementsRequest(session_id=SESSION, statements=texts)
    reply: inference_pb2.ScoreStatementsResponse = await stub.ScoreStatements(request, timeout=60)
    return reply


async def _frames(stream: Stream, block_s: float) -> Latency:
    await asyncio.sleep(SETTLE_S)
    stream.latencies_ms.clear()
    await asyncio.sleep(block_s)
    return Latency.of_ms(stream.latencies_ms)


@contextlib.asynccontextmanager
async def _task(work: Any) -> AsyncIterator[None]:
    """Work for as long as the context lasts; raises what it did."""
    task = asyncio.create_task(work, name="benchmark")
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _result(found: Measured, model: inference_pb2.ModelDescription) -> Result:
    assert found.resting is not None
    assert found.deciding is not None
    most, one = SIZES[-1], SIZES[0]
    rows = [
        (
            str(size),
            f"{statistics.median(found.calls_ms[size]):.1f}",
            f"{found.each_ms(size):.2f}",
            f"{found.tokens[size] / size:.1f}",
        )
        for size in SIZES
    ]
    frames = [
        (name, f"{latency.p50_ms:.1f}", f"{latency.p95_ms:.1f}")
        for name, latency in (
            ("no decisions", found.resting),
            (f"{most} again and again", found.deciding),
        )
    ]
    return Result(
        name="decisions",
        tables=[
            Table(
                "Decisions about one session at 10 fps",
                ("statements", "call ms", "each ms", "tokens each"),
                rows,
            ),
            Table("Frames meanwhile", ("", "p50 ms", "p95 ms"), frames),
        ],
        targets=[
            Target(
                f"one of {most} against one alone",
                found.each_ms(most) / found.each_ms(one),
                MAX_SHARE,
            )
        ],
        figures={
            "calls_ms": found.calls_ms,
            "resting": found.resting,
            "deciding": found.deciding,
        },
        draw=lambda figure: _draw(figure, found),
        dtype=model.dtype,
        device=model.device,
        notes=["medians of calls straight at a worker; every statement is another"],
    )


def _draw(figure: Any, found: Measured) -> None:
    axes = figure.subplots()
    axes.plot(SIZES, [found.each_ms(size) for size in SIZES], marker="o")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("statements in a call")
    axes.set_ylabel("milliseconds each")
