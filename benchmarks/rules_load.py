"""Many standing rules under load: real processes, real time, real H.264 streams.

Rules are due once a second; how often each of them is checked is counted, and what the frames of
their sessions pay for that.
"""

import asyncio
import contextlib
import os
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

from google.protobuf import json_format

from benchmarks.clips import write_h264
from benchmarks.machine import CpuMeter
from benchmarks.processes import Running, running
from benchmarks.publisher import Publisher
from benchmarks.report import Report
from benchmarks.rules_shop import RealTime, play_stories
from benchmarks.rules_stories import PROHIBITED, shop
from benchmarks.samples import Histogram, total_of
from services.gateway.frames.sampler import RATE_LOWERED
from services.gateway.rules.kinds import asked_of
from sightline import aio
from sightline.errors import SightlineError

FPS = 4
LOOKS, FRAMES = "sightline_rule_look_seconds", "sightline_frame_latency_seconds"
CHECKS, SAVED = "sightline_rule_checks_total", "sightline_rule_checks_saved_total"
EVENTS, DROPPED = "sightline_rule_events_total", "sightline_frames_dropped_total"
TEMPLATES = (
    *("{} is there", "{} is moving", "{} is at the left", "{} is at the right"),
    *("{} is at the top", "{} is at the bottom", "the hand is holding {}", "{} is for sale"),
    *("{} is in the middle", "{} was there before"),
)
LIVE_S, WARM_UP_S = 120.0, 5.0


@dataclass(frozen=True, slots=True)
class Case:
    """Sessions, and rules of each, every one of which is due once a second."""

    title: str
    sessions: int
    rules: int


CASES = (Case("500 rules on one session", 1, 500), Case("51 sessions, 4 rules each", 51, 4))


@dataclass(frozen=True, slots=True)
class Load:
    """Figures of a case. A check that a hint spared is one; `every_s`: from one check of a rule to
    the next, on average. Of the frames, `thinned` were left out by a rate that follows the load,
    and `dropped` otherwise."""

    case: Case
    seconds: float
    checks_per_s: float
    every_s: float
    look_p50_ms: float
    look_p95_ms: float
    frame_p50_ms: float
    frame_p95_ms: float
    frames_per_s: float
    thinned: float
    dropped: float
    events: int
    cores: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    at_s: float
    looks: Histogram
    frames: Histogram
    checks: float
    thinned: float
    lost: float
    events: float


async def measure_load(
    folder: Path, seconds: float, violations: int, story_s: float, report: Report
) -> tuple[list[Load], RealTime]:
    """Every case for so many seconds, and then stories of a shop in real time, until they had so
    many violations."""
    clip = folder / "clip.mp4"
    report("rendering a clip", 0.5)
    await asyncio.to_thread(write_h264, clip, FPS, 16)
    most = str(max(case.rules for case in CASES))
    with patch.dict(os.environ, GATEWAY_SESSION_RULES=most, GATEWAY_MAX_SESSIONS="64"):
        async with running(folder) as suite, aio.connect(suite.gateway) as client:
            loads = []
            for number, case in enumerate(CASES):
                report(case.title, 0.55 + 0.1 * number)
                loads.append(await _load(suite, client, case, clip, seconds))
            report("a shop in real time", 0.8)
            return loads, await play_stories(client, folder, violations, story_s)


async def _load(suite: Running, client: aio.Client, case: Case, clip: Path, seconds: float) -> Load:
    async with contextlib.AsyncExitStack() as stack:
        sessions = []
        for number in range(case.sessions):
            session = await client.open(push=True, name=f"rules-{number}", fps=FPS)
            stack.push_async_callback(session.delete, events=True)
            sessions.append(session)
        publisher = Publisher(clip, [session.rtmp_url for session in sessions])
        stack.push_async_callback(asyncio.to_thread, publisher.stop)
        async with asyncio.timeout(LIVE_S):
            for session in sessions:
                while not session.stats.frames_processed:
                    with contextlib.suppress(SightlineError):  # of a machine that is busy
                        await session.wait_for_picture()
        for session in sessions:
            for name, rule in islice(rules_of(case), case.rules):
                wanted = {"name": f"{session.info.name}: {name}", "interval_s": 1.0, **rule}
                await client.rules.create(session.id, wanted)
        await asyncio.sleep(WARM_UP_S)
        meter = CpuMeter([*suite.pids, ("publisher", publisher.pid)])
        before = await asyncio.to_thread(_look, suite)
        meter.start()
        await asyncio.sleep(seconds)
        cores = meter.cores()
        after = await asyncio.to_thread(_look, suite)
    return _figures(case, before, after, cores)


def rules_of(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rules of a session, by name: many predicates, or those of a shop."""
    goods = [text.removeprefix("the hand is holding ") for text in asked_of(shop())]
    if case.rules <= 4:
        product = json_format.MessageToDict(shop().product, preserving_proto_field_name=True)
        yield "shown", {"product": product, "debounce_s": 0.2}
        yield "prohibited", {"predicate": {"condition": PROHIBITED}, "debounce_s": 0.4}
    for template in TEMPLATES:
        for name in goods:
            condition = template.format(name)
            yield condition[:60], {"predicate": {"condition": condition}}


def _look(suite: Running) -> _Snapshot:
    port = suite.suite.config.gateway_metrics_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        page = reply.read().decode()
    return _Snapshot(
        at_s=time.monotonic(),
        looks=Histogram.read(page, LOOKS),
        frames=Histogram.read(page, FRAMES),
        checks=total_of(page, CHECKS) + total_of(page, SAVED),
        thinned=total_of(page, DROPPED, reason=RATE_LOWERED),
        lost=total_of(page, DROPPED),
        events=total_of(page, EVENTS),
    )


def _figures(case: Case, before: _Snapshot, after: _Snapshot, cores: dict[str, float]) -> Load:
    seconds = after.at_s - before.at_s
    looks, frames = after.looks - before.looks, after.frames - before.frames
    checks_per_s = (after.checks - before.checks) / seconds
    thinned, lost = after.thinned - before.thinned, after.lost - before.lost
    sampled = max(1.0, lost + frames.total)
    return Load(
        case=case,
        seconds=seconds,
        checks_per_s=checks_per_s,
        every_s=case.sessions * case.rules / checks_per_s if checks_per_s else float("inf"),
        look_p50_ms=1000 * looks.quantile(0.5),
        look_p95_ms=1000 * looks.quantile(0.95),
        frame_p50_ms=1000 * frames.quantile(0.5),
        frame_p95_ms=1000 * frames.quantile(0.95),
        frames_per_s=frames.total / seconds,
        thinned=thinned / sampled,
        dropped=(lost - thinned) / sampled,
        events=round(after.events - before.events),
        cores=cores,
    )
