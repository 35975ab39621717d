"""Whether ingest waits for answers: frame latency with 20 questions in flight and without.

A worker in its own process is fed and asked through its own contract, on a clock: frames are sent
when they are due, whatever the worker does. Twenty askers each ask again as soon as they have
their answer. Blocks with and without them take turns. Latency is what the worker acknowledges:
arrival at the engine to state updated.
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
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Latency, Ratio
from benchmarks.viewers import QUESTIONS
from sightline.v1 import gateway_pb2, inference_pb2, inference_pb2_grpc

IN_FLIGHT = 20
MAX_RATIO = 2.0
SETTLE_S = 0.5
SCENARIOS = ((1, 30), (10, 10))  # sessions, frames per second


@dataclass(slots=True)
class Stream:
    """A session's frames, on a clock. `latencies_ms` and the counts are for the caller to
    empty."""

    stub: Any  # InferenceServiceStub
    session: str
    frames: list[bytes]
    fps: float
    delay_s: float
    latencies_ms: list[float] = field(default_factory=list)
    sent: int = 0
    refused: int = 0  # frames that were due when the credit was used up
    _in_flight: int = 0

    async def run(self) -> None:
        """Run until cancelled."""
        call = self.stub.StreamFrames()
        opening = inference_pb2.OpenStream(session_id=self.session)
        await call.write(inference_pb2.StreamFramesRequest(open=opening))
        credit = (await call.read()).opened.credit
        reader = asyncio.create_task(self._read(call), name=f"{self.session}:acks")
        due_s = time.monotonic() + self.delay_s
        try:
            for number in itertools.count():
                await asyncio.sleep(due_s - time.monotonic())
                due_s += 1 / self.fps
                if self._in_flight >= credit:
                    self.refused += 1
                    continue
                self._in_flight += 1
                self.sent += 1
                frame = inference_pb2.Frame(
                    sequence=number,
                    capture_ns=time.time_ns(),
                    pixels=self.frames[number % len(self.frames)],
                )
                await call.write(inference_pb2.StreamFramesRequest(frame=frame))
        finally:
            reader.cancel()
            call.cancel()

    async def _read(self, call: Any) -> None:
        while (reply := await call.read()) is not grpc.aio.EOF:
            self._in_flight -= 1
            self.latencies_ms.append(reply.ack.latency_ms)


@dataclass(slots=True)
class Asker:
    """Keeps one question in flight."""

    stub: Any  # InferenceServiceStub
    session: str
    answers: int = 0
    tokens: int = 0

    async def run(self) -> None:
        """Ask until cancelled."""
        for text in itertools.cycle(QUESTIONS):
            question = gateway_pb2.Question(turn="bench", text=text)
            request = inference_pb2.AnswerRequest(session_id=self.session, question=question)
            async for event in self.stub.Answer(request, timeout=60):
                if event.WhichOneof("event") == "done":
                    self.answers += 1
                    self.tokens += event.done.answer_tokens


@dataclass(slots=True)
class Measured:
    """Figures of one scenario: each block's latencies; the rest is summed over blocks."""

    sessions: int
    fps: float
    without: list[Latency] = field(default_factory=list)
    with_questions: list[Latency] = field(default_factory=list)
    sent: int = 0
    refused: int = 0
    answers_per_s: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.sessions} session{'s' * (self.sessions > 1)} at {self.fps:g} fps"

    @property
    def ratio(self) -> Ratio:
        return Ratio.of(
            [latency.p95_ms for latency in self.with_questions],
            [latency.p95_ms for latency in self.without],
        )


def run(report: Report, *, quick: bool) -> Result:
    turns, block_s = (2, 1.5) if quick else (7, 6.0)
    with tempfile.TemporaryDirectory() as name:
        return asyncio.run(_measure_all(Path(name), turns, block_s, report))


async def _measure_all(folder: Path, turns: int, block_s: float, report: Report) -> Result:
    measured: list[Measured] = []
    frames = model_frames(64)
    async with contextlib.AsyncExitStack() as stack:
        suite = await stack.enter_async_context(running(folder, worker_only=True))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(suite.worker))
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        model = await stub.Describe(inference_pb2.DescribeRequest(), timeout=10)
        for index, (sessions, fps) in enumerate(SCENARIOS):
            found = Measured(sessions, fps)
            measured.append(found)
            names = [f"bench-{index}-{n}" for n in range(sessions)]
            streams = [
                Stream(stub, session, frames, fps, n / (fps * sessions))
                for n, session in enumerate(names)
            ]
            async with together(streams):
                await asyncio.sleep(model.window_segments / fps + SETTLE_S)
                for turn in range(turns):
                    done = (index + turn / turns) / len(SCENARIOS)
                    report(f"{found.title}, turn {turn + 1} of {turns}", done)
                    found.without.append(await _block(streams, found, block_s))
                    askers = [Asker(stub, names[n % sessions]) for n in range(IN_FLIGHT)]
                    async with together(askers):
                        found.with_questions.append(await _block(streams, found, block_s, askers))
            for session in names:
                release = inference_pb2.ReleaseSessionRequest(session_id=session)
                await stub.ReleaseSession(release, timeout=10)
    return _result(measured, model)


@contextlib.asynccontextmanager
async def together(runners: list[Any]) -> AsyncIterator[None]:
    """Run them for as long as the context lasts; raises what one of them did."""
    tasks = [asyncio.create_task(runner.run(), name=type(runner).__name__) for runner in runners]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _block(
    streams: list[Stream], found: Measured, block_s: float, askers: list[Asker] | None = None
) -> Latency:
    await asyncio.sleep(SETTLE_S)
    for stream in streams:
        stream.latencies_ms.clear()
        stream.sent = stream.refused = 0
    for asker in askers or ():
        asker.answers = asker.tokens = 0
    started_s = time.monotonic()
    await asyncio.sleep(block_s)
    elapsed_s = time.monotonic() - started_s
    found.sent += sum(stream.sent for stream in streams)
    found.refused += sum(stream.refused for stream in streams)
    if askers:
        found.answers_per_s.append(sum(asker.answers for asker in askers) / elapsed_s)
        found.tokens_per_s.append(sum(asker.tokens for asker in askers) / elapsed_s)
    return Latency.of_ms([ms for stream in streams for ms in stream.latencies_ms])


def _result(measured: list[Measured], model: inference_pb2.ModelDescription) -> Result:
    rows: list[tuple[str, ...]] = []
    targets: list[Target] = []
    for found in measured:
        for name, blocks in (
            ("no questions", found.without),
            (f"{IN_FLIGHT} in flight", found.with_questions),
        ):
            asked = blocks is found.with_questions
            rows.append(
                (
                    f"{found.title}, {name}",
                    f"{statistics.median(block.p50_ms for block in blocks):.1f}",
                    f"{statistics.median(block.p95_ms for block in blocks):.1f}",
                    str(found.ratio) if asked else "",
                    f"{statistics.median(found.answers_per_s):.0f}" if asked else "",
                    f"{statistics.median(found.tokens_per_s):.0f}" if asked else "",
                )
            )
        targets.append(
            Target(f"{found.title}: p95 with against without", found.ratio.median, MAX_RATIO)
        )
        refused = found.refused / max(1, found.sent + found.refused)
        targets.append(Target(f"{found.title}: frames the worker had no room for", refused, 0.001))
    headings = ("", "frame p50 ms", "p95 ms", "p95 ratio (least…most)", "answers/s", "tokens/s")
    return Result(
        name="questions",
        tables=[Table("Frame latency while questions are answered", headings, rows)],
        targets=targets,
        figures={
            "in_flight": IN_FLIGHT,
            "scenarios": [{"title": found.title, "ratio": found.ratio} for found in measured],
            "blocks": measured,
        },
        draw=lambda figure: _draw(figure, measured),
        dtype=model.dtype,
        device=model.device,
        notes=["medians of the blocks' own percentiles; ratios are those of adjacent blocks"],
    )


def _draw(figure: Any, measured: list[Measured]) -> None:
    for axes, found in zip(figure.subplots(1, len(measured)), measured, strict=True):
        turns = range(1, len(found.without) + 1)
        for blocks, label in (
            (found.with_questions, f"{IN_FLIGHT} questions in flight"),
            (found.without, "no questions"),
        ):
            axes.plot(turns, [block.p95_ms for block in blocks], marker="o", label=label)
        axes.set_title(found.title)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("turn")
        axes.set_ylabel("frame latency p95 (ms)")
        axes.legend(loc="lower right")
