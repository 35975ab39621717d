"""Whether the frame rate follows the load: four live sessions of 30 frames a second on a worker
that suddenly manages a quarter of them, and later all of them again.

The gateway's own sessions, samplers, feeds and rate control, in real time and over gRPC. The worker
is paced (`PacedWorker`): it has no model, so that the load is what is said here on any machine.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import av
import numpy as np

from benchmarks.paced_worker import SIDE, PacedWorker, Understood
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import percentile
from services.gateway.config import GatewayConfig
from services.gateway.frames.rate_control import PERIODS
from services.gateway.sessions.session import Session
from services.gateway.sessions.session_spec import SessionSpec
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.source import DecodedFrame, FrameSink, Source
from services.gateway.workers.workers import Workers
from sightline.v1 import gateway_pb2

SESSIONS, FPS = 4, 30.0
OVERLOAD = 4.0  # frames that come to frames that the worker manages
LOADED_STEP_S = OVERLOAD / (SESSIONS * FPS)
EASY_STEP_S = 0.75 / (SESSIONS * FPS)
SETTLING_S = 3.0  # of an overload, in which the rate finds its place
LOOK_S = 0.1
MOST_TRIES = 4  # in an overload: each waits twice as long as the one before


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of each phase."""

    easy_s: float = 10.0
    loaded_s: float = 50.0
    easy_again_s: float = 55.0

    @property
    def all_s(self) -> float:
        return self.easy_s + self.loaded_s + self.easy_again_s


@dataclass(slots=True)
class Measured:
    """What a run showed. Times are seconds since it began. `rates`: of each session, whenever it
    changed; `unaccounted`: sampled frames that are neither understood nor dropped nor waiting."""

    phases: Phases
    frames: list[Understood] = field(default_factory=list)
    began_ns: int = 0
    rates: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    sampled: int = 0
    processed: int = 0
    unaccounted: int = 0

    def at_s(self, frame: Understood) -> float:
        return (frame.at_ns - self.began_ns) / 1e9

    def within(self, from_s: float, to_s: float) -> list[Understood]:
        return [frame for frame in self.frames if from_s <= self.at_s(frame) < to_s]

    def rate(self, session: str, at_s: float) -> float:
        return [fps for since_s, fps in self.rates[session] if since_s <= at_s][-1]

    def excess(self, frame: Understood) -> float:
        """Age of a frame in the most that it may be: two intervals of its rate and a step."""
        fps = self.rate(frame.session, self.at_s(frame))
        return frame.age_s / (PERIODS / fps + LOADED_STEP_S)

    def falls(self, from_s: float, to_s: float) -> dict[str, int]:
        """Of each session, how often a rate that had been raised was left again."""
        return {
            session: sum(
                from_s <= at_s < to_s and later < fps and number > 0 and fps > rates[number - 1][1]
                for number, ((_, fps), (at_s, later)) in enumerate(pairwise(rates))
            )
            for session, rates in self.rates.items()
        }


def run(report: Report, *, quick: bool) -> Result:
    phases = Phases(2, 6, 2) if quick else Phases()
    return _result(asyncio.run(_measure(phases, report)))


async def _measure(phases: Phases, report: Report) -> Measured:
    worker = PacedWorker(EASY_STEP_S)
    await worker.start()
    config = GatewayConfig(workers=(worker.address,))
    workers = Workers(config.workers)
    sessions = Sessions(config, workers, _no_source)
    workers.start()
    sessions.start()
    measured = Measured(phases)
    try:
        request = gateway_pb2.CreateSessionRequest(push=gateway_pb2.Push())
        request.options.fps = FPS
        made = [await sessions.create(request) for _ in range(SESSIONS)]
        live = [session for session in made if isinstance(session, Session)]
        measured.began_ns = time.time_ns()
        async with asyncio.TaskGroup() as group:
            for number, session in enumerate(live):
                group.create_task(_publish(session, number, phases.all_s), name="publish")
            group.create_task(_watch(worker, live, measured, report), name="watch")
        for session in live:
            counts = session.counts.copy()
            measured.dropped += counts.dropped
            measured.sampled += counts.sampled
            measured.processed += counts.processed
            gone = counts.processed + counts.dropped.total() + session.waiting_frames
            measured.unaccounted += abs(counts.sampled - gone)
        measured.frames = worker.understood
        return measured
    finally:
        await sessions.aclose()
        await workers.aclose()
        await worker.stop()


async def _publish(session: Session, number: int, seconds: float) -> None:
    """Show pictures at 30 a second, each captured when it is shown; sessions take turns."""
    noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, "rgb24")
    begin_s = time.monotonic() + number / (SESSIONS * FPS)
    with session.admit("push") as publisher:
        for picture in range(round(seconds * FPS)):
            await asyncio.sleep(begin_s + picture / FPS - time.monotonic())
            publisher.sink.take(DecodedFrame(frame, time.time_ns(), "arrival"))


async def _watch(
    worker: PacedWorker, sessions: list[Session], measured: Measured, report: Report
) -> None:
    """Change the load, and note the rates."""
    phases = measured.phases
    while (at_s := (time.time_ns() - measured.began_ns) / 1e9) < phases.all_s:
        loaded = 0 <= at_s - phases.easy_s < phases.loaded_s
        worker.step_s = LOADED_STEP_S if loaded else EASY_STEP_S
        for session in sessions:
            fps = session.message().stats.fps_allowed
            noted = measured.rates.setdefault(session.id, [(0.0, FPS)])
            if noted[-1][1] != fps:
                noted.append((at_s, fps))
        report("overload" if loaded else "room", at_s / phases.all_s)
        await asyncio.sleep(LOOK_S)


def _no_source(spec: SessionSpec, sink: FrameSink) -> Source:
    raise NotImplementedError("frames are pushed")


def _result(measured: Measured) -> Result:
    phases = measured.phases
    end_s = phases.easy_s + phases.loaded_s
    settled = measured.within(phases.easy_s + SETTLING_S, end_s)
    spans = {
        "room": measured.within(0, phases.easy_s),
        f"overload, first {SETTLING_S:g} s": measured.within(
            phases.easy_s, phases.easy_s + SETTLING_S
        ),
        "overload": settled,
        "room again": measured.within(end_s, phases.all_s),
    }
    falls = measured.falls(phases.easy_s + SETTLING_S, end_s)
    order = Counter(
        session
        for session in measured.rates
        for one, other in pairwise(f for f in measured.frames if f.session == session)
        if other.capture_ns <= one.capture_ns
    )
    lost = measured.dropped.total()
    back = [rates[-1] for rates in measured.rates.values()]
    return Result(
        name="overload",
        tables=[
            Table(
                f"{SESSIONS} sessions of {FPS:g} fps; overload: {OVERLOAD:g}× what is managed",
                ("", "frames understood", "age p50 ms", "age p95 ms", "age max ms"),
                [_cells(name, frames) for name, frames in spans.items()],
            ),
            Table(
                "Frames by what became of them",
                ("", "frames"),
                [
                    ("sampled", str(measured.sampled)),
                    ("understood", str(measured.processed)),
                    *(
                        (f"dropped, {reason}", str(count))
                        for reason, count in measured.dropped.items()
                    ),
                ],
            ),
        ],
        targets=[
            Target(
                "age p95 under overload, in two frame intervals and a step",
                percentile([measured.excess(frame) for frame in settled], 0.95),
                1.0,
            ),
            Target("frames of which nobody knows", measured.unaccounted, 0),
            Target("frames older than one before", order.total(), 0),
            Target(
                "rates tried under overload and left again, the most of a session",
                max(falls.values()),
                MOST_TRIES,
            ),
        ],
        figures={
            "ages_ms": {
                name: [1000 * frame.age_s for frame in frames] for name, frames in spans.items()
            },
            "rates": list(measured.rates.values()),
            "dropped": dict(measured.dropped),
            "dropped_share": lost / measured.sampled,
            "tried_and_left": list(falls.values()),
            "last_rates": [fps for _, fps in back],
        },
        draw=lambda figure: _draw(figure, measured),
        dtype="none",
        device="a paced worker",
        notes=[
            f"the worker takes {1000 * LOADED_STEP_S:.0f} ms for a frame under overload and "
            f"{1000 * EASY_STEP_S:.1f} ms otherwise; it has no model",
            "age: from capture, which is here the moment of publishing, to the end of the step",
        ],
    )


def _cells(name: str, frames: list[Understood]) -> tuple[str, ...]:
    ages_ms = [1000 * frame.age_s for frame in frames]
    shown = (percentile(ages_ms, 0.5), percentile(ages_ms, 0.95), max(ages_ms))
    return (name, str(len(frames)), *(f"{age_ms:.0f}" for age_ms in shown))


def _draw(figure: Any, measured: Measured) -> None:
    above, below = figure.subplots(2, 1, sharex=True)
    for rates in measured.rates.values():
        times_s = [at_s for at_s, _ in rates] + [measured.phases.all_s]
        fps = [fps for _, fps in rates]
        above.step(times_s, [*fps, fps[-1]], where="post")
    above.set_ylabel("rate (fps)")
    below.plot(
        [measured.at_s(frame) for frame in measured.frames],
        [1000 * frame.age_s for frame in measured.frames],
        ".",
        markersize=2,
    )
    below.set_ylabel("age when understood (ms)")
    below.set_xlabel("seconds")
    begin_s = measured.phases.easy_s
    for axes in (above, below):
        axes.axvspan(begin_s, begin_s + measured.phases.loaded_s, alpha=0.1, color="red")
        axes.set_ylim(bottom=0)
