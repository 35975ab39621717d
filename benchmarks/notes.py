"""What lines of memory cost the frames: latency and throughput while they are written, and without.

A worker in its own process is fed and asked through its own contract. Blocks with and without lines
take turns. On a clock, every session asks for a line as often as its longest moments end; as fast
as may be, after as many frames. A block with lines ends when all of them are written.
"""

import asyncio
import contextlib
import itertools
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.clips import model_frames
from benchmarks.processes import running
from benchmarks.questions import SETTLE_S, Stream, together
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Latency, Ratio
from sightline.v1 import inference_pb2, inference_pb2_grpc

MOMENT_S, MODEL_FPS = 15.0, 8
SCENARIOS = ((1, 30), (10, 15))  # sessions, frames per second: the article's
RUSHING = 8  # sessions that are read as fast as may be
LINE_S = 30.0  # that a line may take
MOST_LATER, MOST_SLOWER = 1.02, 1.02


@dataclass(slots=True)
class Lines:
    """Asker for one session's lines, every so often."""

    stub: Any  # InferenceServiceStub
    session: str
    every_s: float
    delay_s: float
    written: list[float] = field(default_factory=list)
    late: int = 0  # that were not written in time: frames and answers go first

    async def run(self) -> None:
        """Ask until cancelled; a line is not waited for before the next is asked for."""
        async with asyncio.TaskGroup() as tasks:
            await asyncio.sleep(self.delay_s)
            while True:
                tasks.create_task(self.one(), name=f"{self.session}:line")
                await asyncio.sleep(self.every_s)

    async def one(self) -> None:
        started_s = time.monotonic()
        request = inference_pb2.NoteRequest(session_id=self.session)
        try:
            reply = await self.stub.Note(request, timeout=LINE_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            self.late += 1
            return
        if reply.line:
            self.written.append(time.monotonic() - started_s)


@dataclass(slots=True)
class Rush:
    """A session's frames, as fast as its credit lets. `count`: those that were understood."""

    stub: Any
    session: str
    frames: list[bytes]
    lines: Lines
    noting: bool = False
    count: int = 0

    async def run(self) -> None:
        """Run until cancelled."""
        call = self.stub.StreamFrames()
        opening = inference_pb2.OpenStream(session_id=self.session)
        await call.write(inference_pb2.StreamFramesRequest(open=opening))
        credit, sent, got = (await call.read()).opened.credit, 0, 0
        async with asyncio.TaskGroup() as tasks:
            try:
                for number in itertools.count():
                    while sent - got >= credit:
                        await call.read()
                        got += 1
                        self.count += 1
                    sent += 1
                    frame = inference_pb2.Frame(
                        sequence=number,
                        capture_ns=number * 1_000_000_000 // MODEL_FPS,
                        pixels=self.frames[number % len(self.frames)],
                    )
                    await call.write(inference_pb2.StreamFramesRequest(frame=frame))
                    if self.noting and number % round(MOMENT_S * MODEL_FPS) == 0:
                        tasks.create_task(self.lines.one(), name=f"{self.session}:line")
            finally:
                call.cancel()


@dataclass(slots=True)
class Found:
    """Figures: each block's latencies by scenario, frames a second, and seconds of lines."""

    without: dict[str, list[Latency]] = field(default_factory=dict)
    lines: dict[str, list[Latency]] = field(default_factory=dict)
    rushed: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    written_s: list[float] = field(default_factory=list)
    late: int = 0

    def add(self, lines: Lines) -> None:
        self.written_s += lines.written
        self.late += lines.late


def run(report: Report, *, quick: bool) -> Result:
    turns, block_s = (1, 3.0) if quick else (3, 2 * MOMENT_S)
    with tempfile.TemporaryDirectory() as name:
        return asyncio.run(_measure(Path(name), turns, block_s, report))


async def _measure(folder: Path, turns: int, block_s: float, report: Report) -> Result:
    found, frames = Found(), model_frames(64)
    async with contextlib.AsyncExitStack() as stack:
        suite = await stack.enter_async_context(running(folder, worker_only=True))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(suite.worker))
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        model = await stub.Describe(inference_pb2.DescribeRequest(), timeout=10)
        for index, (sessions, fps) in enumerate(SCENARIOS):
            title = f"{sessions} session{'s' * (sessions > 1)} at {fps} fps"
            names = [f"notes-{index}-{n}" for n in range(sessions)]
            streams = [
                Stream(stub, name, frames, fps, n / (fps * sessions))
                for n, name in enumerate(names)
            ]
            async with together(streams):
                await asyncio.sleep(model.window_segments / fps + SETTLE_S)
                for turn in range(turns):
                    report(f"{title}, turn {turn + 1}", (index + turn / turns) / 3)
                    found.without.setdefault(title, []).append(await _block(streams, block_s))
                    lines = [
                        Lines(stub, name, MOMENT_S, n * MOMENT_S / sessions)
                        for n, name in enumerate(names)
                    ]
                    async with together(lines):
                        found.lines.setdefault(title, []).append(await _block(streams, block_s))
                    for line in lines:
                        found.add(line)
            await _release(stub, names)
        names = [f"rush-{n}" for n in range(RUSHING)]
        rushes = [Rush(stub, name, frames, Lines(stub, name, MOMENT_S, 0)) for name in names]
        async with together(rushes):
            await asyncio.sleep(SETTLE_S)
            for turn in range(2 * turns):
                report(f"as fast as may be, turn {turn + 1}", (2 + turn / turns / 2) / 3)
                for noting in (False, True):
                    found.rushed[noting].append(await _rushed(rushes, noting, block_s / 3))
        for rush in rushes:
            found.add(rush.lines)
        await _release(stub, names)
    return _result(found, model)


async def _block(streams: list[Stream], block_s: float) -> Latency:
    await asyncio.sleep(SETTLE_S)
    for stream in streams:
        stream.latencies_ms.clear()
    await asyncio.sleep(block_s)
    return Latency.of_ms([ms for stream in streams for ms in stream.latencies_ms])


async def _rushed(rushes: list[Rush], noting: bool, block_s: float) -> float:
    """Frames a second of a block; the lines of one before are written by then, or cost it."""
    for rush in rushes:
        rush.noting = noting
    await asyncio.sleep(SETTLE_S)
    before, started_s = sum(rush.count for rush in rushes), time.monotonic()
    await asyncio.sleep(block_s)
    return (sum(rush.count for rush in rushes) - before) / (time.monotonic() - started_s)


async def _release(stub: Any, names: list[str]) -> None:
    for name in names:
        request = inference_pb2.ReleaseSessionRequest(session_id=name)
        await stub.ReleaseSession(request, timeout=10)


def _result(found: Found, model: inference_pb2.ModelDescription) -> Result:
    later = {
        title: Ratio.of(
            [block.p95_ms for block in found.lines[title]],
            [block.p95_ms for block in found.without[title]],
        )
        for title in found.without
    }
    slower = Ratio.of(found.rushed[False], found.rushed[True])
    line = Latency.of_ms([1000 * each for each in found.written_s])
    rows = [(title, f"{ratio}") for title, ratio in later.items()]
    return Result(
        name="notes",
        tables=[
            Table("Frames' p95 with lines against without", ("", "ratio (least…most)"), rows),
            Table(
                "As fast as may be",
                ("", ""),
                [
                    (f"{RUSHING} sessions, without lines", f"{max(found.rushed[False]):.0f} fps"),
                    ("time of a frame with lines against without", f"{slower}"),
                    ("lines written, and not in time", f"{line.count}, {found.late}"),
                    (
                        "a line, p50 and p95 with its wait",
                        f"{line.p50_ms:.0f}, {line.p95_ms:.0f} ms",
                    ),
                ],
            ),
        ],
        targets=[
            *(
                Target(f"p95 of {title} with lines", each.median, MOST_LATER, "×")
                for title, each in later.items()
            ),
            Target("a frame with lines, as fast as may be", slower.median, MOST_SLOWER, "×"),
        ],
        figures={
            "later": later,
            "slower": slower,
            "frames_per_s": {str(key): each for key, each in found.rushed.items()},
            "line_ms": line,
            "late": found.late,
            "blocks": {"without": found.without, "lines": found.lines},
        },
        draw=lambda figure: _draw(figure, found),
        dtype=model.dtype,
        device=model.device,
        notes=["ratios are those of adjacent blocks; a line is of 15 s of video"],
    )


def _draw(figure: Any, found: Found) -> None:
    for axes, title in zip(figure.subplots(1, len(found.without)), found.without, strict=True):
        for blocks, label in ((found.lines, "with lines"), (found.without, "without")):
            axes.plot([block.p95_ms for block in blocks[title]], marker="o", label=label)
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("frame latency p95 (ms)")
        axes.legend(loc="lower right")
