"""The article's four rows, measured on the whole suite as real processes with real H.264 streams.

Frame latency is the gateway's own histogram (chosen by its sampler to the worker's word that it is
understood, by one clock), over all frames of the measured time. The article calls its figures end
to end, so the way from the camera is measured too, in a phase of its own after that: one session
after the other is asked as often as possible which frame it has understood, and a frame's latency
is the first time it was seen to be, minus its capture time; that can only be too high.
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.clips import write_h264
from benchmarks.machine import CpuMeter
from benchmarks.processes import Running, running
from benchmarks.publisher import Publisher, Sent
from benchmarks.report import Report, Result
from benchmarks.rows_result import ASK_EVERY_S, PROBE_EVERY_S, ROWS, Answers, Measured, Row, result
from benchmarks.samples import Histogram, Latency
from benchmarks.viewers import Viewer
from sightline.v1 import gateway_pb2, gateway_pb2_grpc, inference_pb2, inference_pb2_grpc

LIVE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds. `probe_s` is divided among the sessions."""

    warm_up_s: float
    measure_s: float
    probe_s: float


FULL = Durations(8, 40, 12)
QUICK = Durations(2, 4, 2)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    at_s: float
    latency: Histogram
    queue: Histogram
    step: Histogram
    sessions: dict[str, gateway_pb2.SessionStats]


def run(report: Report, *, quick: bool) -> Result:
    durations = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report("rendering clips", 0.0)
        for fps in sorted({row.fps for row in ROWS}):
            write_h264(_clip(folder, fps), fps, 4 if quick else 16)
        return asyncio.run(_measure_all(folder, durations, report))


def _clip(folder: Path, fps: int) -> Path:
    return folder / f"{fps}.mp4"


async def _measure_all(folder: Path, durations: Durations, report: Report) -> Result:
    rows: list[Measured] = []
    report("starting the suite", 0.0)
    async with contextlib.AsyncExitStack() as stack:
        suite = await stack.enter_async_context(running(folder))
        gateway = await stack.enter_async_context(grpc.aio.insecure_channel(suite.gateway))
        worker = await stack.enter_async_context(grpc.aio.insecure_channel(suite.worker))
        stub = gateway_pb2_grpc.SightlineServiceStub(gateway)
        for index, row in enumerate(ROWS):
            report(row.title, index / len(ROWS))
            rows.append(await _RowRun(suite, stub, row, durations).run(_clip(folder, row.fps)))
        description = inference_pb2_grpc.InferenceServiceStub(worker).Describe
        model = await description(inference_pb2.DescribeRequest(), timeout=10)
    return result(rows, model)


@dataclass(slots=True)
class _RowRun:
    """The run of one row, from its sessions' creation to their deletion."""

    suite: Running
    stub: Any  # SightlineServiceStub
    row: Row
    durations: Durations

    async def run(self, clip: Path) -> Measured:
        async with contextlib.AsyncExitStack() as stack:
            sessions = [await self._open(index, stack) for index in range(self.row.users)]
            urls = [session.rtmp_url for session in sessions]
            ids = [session.id for session in sessions]
            publisher = Publisher(clip, urls)
            sent: list[Sent] = []
            try:
                await self._wait_live(ids)
                viewers = await stack.enter_async_context(self._viewers(ids))
                await asyncio.sleep(self.durations.warm_up_s)
                load = [("publisher", publisher.pid), ("viewers", os.getpid())]
                meter = CpuMeter([*self.suite.pids, *load])
                before = await self._snapshot(ids)
                meter.start()
                await asyncio.sleep(self.durations.measure_s)
                cores, rss = meter.cores(), meter.rss_mib()
                after = await self._snapshot(ids)
                end_to_end = await self._probe(ids)
            finally:
                sent = publisher.stop()
            answers = _answers(viewers, before.at_s, after.at_s) if viewers else None
            return self._figures(before, after, end_to_end, answers, cores, rss, sent)

    async def _open(self, index: int, stack: contextlib.AsyncExitStack) -> gateway_pb2.Session:
        options = gateway_pb2.SessionOptions(name=f"bench-{index}", fps=self.row.fps)
        request = gateway_pb2.CreateSessionRequest(push=gateway_pb2.Push(), options=options)
        session: gateway_pb2.Session = await self.stub.CreateSession(request, timeout=30)
        stack.push_async_callback(
            self.stub.DeleteSession, gateway_pb2.DeleteSessionRequest(session=session.id)
        )
        return session

    async def _wait_live(self, ids: list[str]) -> None:
        """Wait until every session has a full window."""
        async with asyncio.timeout(LIVE_TIMEOUT_S):
            for session in ids:
                found = await self._get(session)
                while found.stats.frames_processed < found.window:
                    await asyncio.sleep(0.1)
                    found = await self._get(session)

    @contextlib.asynccontextmanager
    async def _viewers(self, ids: list[str]) -> AsyncIterator[list[Viewer]]:
        if not self.row.dialogue:
            yield []
            return
        apart_s = ASK_EVERY_S / len(ids)
        viewers = [
            Viewer(self.stub, session, ASK_EVERY_S, index * apart_s)
            for index, session in enumerate(ids)
        ]
        tasks = [asyncio.create_task(viewer.run(), name="viewer") for viewer in viewers]
        try:
            yield viewers
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if not isinstance(error, asyncio.CancelledError) and error is not None:
                raise error

    async def _get(self, session: str) -> gateway_pb2.Session:
        request = gateway_pb2.GetSessionRequest(session=session)
        found: gateway_pb2.Session = await self.stub.GetSession(request, timeout=10)
        return found

    async def _snapshot(self, ids: list[str]) -> _Snapshot:
        latency, queue, step = await asyncio.gather(
            asyncio.to_thread(self.suite.gateway_histogram, "sightline_frame_latency_seconds"),
            *(
                asyncio.to_thread(self.suite.worker_histogram, f"sightline_{name}_seconds")
                for name in ("frame_queue", "step")
            ),
        )
        sessions = {session: (await self._get(session)).stats for session in ids}
        return _Snapshot(time.monotonic(), latency, queue, step, sessions)

    async def _probe(self, ids: list[str]) -> Latency:
        """Capture to understood of the frames of every session in turn."""
        found_ms: list[float] = []
        for session in ids:
            newest_ns = (await self._get(session)).stats.last_capture_ns
            end_s = time.monotonic() + self.durations.probe_s / len(ids)
            while time.monotonic() < end_s:
                stats = (await self._get(session)).stats
                if stats.last_capture_ns != newest_ns:
                    newest_ns = stats.last_capture_ns
                    found_ms.append((time.time_ns() - newest_ns) / 1e6)
                await asyncio.sleep(PROBE_EVERY_S)
        return Latency.of_ms(found_ms)

    def _figures(
        self,
        before: _Snapshot,
        after: _Snapshot,
        end_to_end: Latency,
        answers: Answers | None,
        cores: dict[str, float],
        rss: dict[str, float],
        sent: list[Sent],
    ) -> Measured:
        seconds = after.at_s - before.at_s
        latency = after.latency - before.latency
        step = after.step - before.step
        pairs = [(before.sessions[session], now) for session, now in after.sessions.items()]
        dropped: Counter[str] = Counter()
        for then, now in pairs:
            for reason, number in now.dropped.items():
                dropped[reason] += number - then.dropped.get(reason, 0)
        processed = sum(now.frames_processed - then.frames_processed for then, now in pairs)
        return Measured(
            row=self.row,
            seconds=seconds,
            frames=latency.total,
            frame_p50_ms=1000 * latency.quantile(0.50),
            frame_p95_ms=1000 * latency.quantile(0.95),
            frame_share_within_article=latency.share_within(self.row.article_ms / 1000),
            worst_session_p95_ms=max(now.frame_latency_p95_ms for _, now in pairs),
            queue_p95_ms=1000 * (after.queue - before.queue).quantile(0.95),
            step_p50_ms=1000 * step.quantile(0.50),
            steps_per_s=step.total / seconds,
            capture_to_understood=end_to_end,
            fps_offered=self.row.fps,
            fps_processed=processed / seconds / self.row.users,
            sampled=sum(now.frames_sampled - then.frames_sampled for then, now in pairs),
            dropped={reason: number for reason, number in dropped.items() if number},
            kv_hit_ratio=min(now.kv_hit_ratio for _, now in pairs),
            answers=answers,
            cores=cores,
            rss_mib=rss,
            sent=sent,
        )


def _answers(viewers: list[Viewer], from_s: float, to_s: float) -> Answers:
    mine = [a for viewer in viewers for a in viewer.answered if from_s <= a.asked_s < to_s]
    number = max(1, len(mine))
    return Answers(
        first_token=Latency.of_ms([a.first_ms for a in mine]),
        whole=Latency.of_ms([a.whole_ms for a in mine]),
        frame_age=Latency.of_ms([a.saw_ms for a in mine]),
        mean_tokens=sum(a.tokens for a in mine) / number,
        mean_history_rounds=sum(a.history_rounds for a in mine) / number,
        failures=[failure for viewer in viewers for failure in viewer.failures],
        late_questions=sum(viewer.late for viewer in viewers),
    )
