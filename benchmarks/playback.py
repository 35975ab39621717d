"""Watching live: how soon a picture shows, how late it is, what an audience costs the gateway.

A clock is filmed and published by RTMP and by WHIP, with a keyframe every four seconds. How late
the screen is, is read by a page in Chromium from the pictures that it shows: everything from the
camera's encoder to the browser's compositor lies in it, on one machine with one clock. An audience
of up to fifty watches one forwarded stream; what it costs is the gateway's own processor time. What
the viewers' process needs is told beside it: it shares the machine.
"""

import asyncio
import json
import math
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import REPOSITORY
from benchmarks.clock import FPS, READ_IN_PAGE
from benchmarks.machine import CpuMeter
from benchmarks.processes import Running, running
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import Latency
from sightline import aio
from sightline.aio import Session

CROWDS = (0, 10, 25, 50)
JOINS = 12
JOIN_EVERY_S = 0.37  # so that they fall anywhere between two keyframes
LIVE_TRIES = 300
RESULT = "the audience printed no result"


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many viewers at once. `shown`: share of the gateway's pictures that came to each, the
    least of all viewers and the mean; `filmed`: those that came to the gateway, a second."""

    viewers: int
    sound: bool
    gateway_cores: float
    viewers_cores: float
    others_cores: float
    shown_least: float
    shown_mean: float
    filmed: float
    joined: Latency


@dataclass(frozen=True, slots=True)
class Found:
    joins: list[float]
    crowds: list[Crowd]
    late_ms: dict[str, list[float]]


def run(report: Report, *, quick: bool) -> Result:
    with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
        found = asyncio.run(_run(report, Path(folder), quick))
    return _result(found)


async def _run(report: Report, folder: Path, quick: bool) -> Found:
    seconds = 2.0 if quick else 8.0
    crowds = []
    async with running(folder) as suite, aio.connect(suite.gateway) as client:
        page = f"http://127.0.0.1:{suite.suite.config.gateway_http_port}/"
        session = await client.open(push=True, name="clock")
        async with _filmed(session, session.rtmp_url) as camera:
            url = f"{page}whep/{session.id}"
            report("viewers join", 0.1)
            joins = await _told(await _audience(url, 3 if quick else JOINS, 0.5, JOIN_EVERY_S))
            sizes = [(n, False) for n in (CROWDS[:2] if quick else CROWDS)] + [(CROWDS[-1], True)]
            for place, (num, sound) in enumerate(sizes):
                report(f"{num} viewers", 0.2 + 0.5 * place / len(sizes))
                crowds.append(await _crowd(suite, session, camera, url, num, seconds, sound))
            report("the page, by RTMP", 0.75)
            late = {"RTMP": await _page(page, folder, seconds)}
        await session.delete()
        session = await client.open(push=True, name="clock")
        async with _filmed(session, session.whip_url):
            report("the page, by WHIP", 0.9)
            late["WHIP"] = await _page(page, folder, seconds)
    first_ms = [each["first_ms"] for each in joins if each["first_ms"] is not None]
    return Found(first_ms, crowds, {way: ages for way, ages in late.items() if ages})


@asynccontextmanager
async def _filmed(session: Session, url: str) -> AsyncIterator[int]:
    """Pid of a camera that publishes, live for as long as the context lasts."""
    command = [sys.executable, "-m", "benchmarks.clock", url]
    camera = await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY)
    try:
        for _ in range(LIVE_TRIES):
            if (await session.refresh()).state == "live":
                break
            await asyncio.sleep(0.1)
        yield camera.pid
    finally:
        camera.terminate()
        await camera.wait()


async def _audience(
    url: str, num: int, seconds: float, every_s: float = 0.05, sound: bool = False
) -> asyncio.subprocess.Process:
    """An audience that joins; it tells when it has, and when it has counted."""
    command = [sys.executable, "-m", "benchmarks.audience", url, str(num), str(seconds)]
    command += [f"--every={every_s}", *(["--sound"] if sound else [])]
    return await asyncio.create_subprocess_exec(
        *command, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )


async def _told(process: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(RESULT)
    return list(json.loads(output.splitlines()[-1]))


async def _crowd(
    suite: Running,
    session: Session,
    camera: int,
    url: str,
    num: int,
    seconds: float,
    sound: bool,
) -> Crowd:
    process = await _audience(url, num, seconds, sound=sound)
    assert process.stdout is not None
    named = [("viewers", process.pid), ("camera", camera), *suite.pids]
    meter = CpuMeter(named)
    await process.stdout.readline()  # joined
    meter.start()
    before = (await session.refresh()).stats.frames_received
    await process.stdout.readline()  # counted
    cores = meter.cores()
    filmed = (await session.refresh()).stats.frames_received - before
    seen = await _told(process)
    shown = [each["pictures"] / filmed for each in seen] or [1.0]
    first_ms = [each["first_ms"] for each in seen if each["first_ms"] is not None]
    return Crowd(
        num,
        sound,
        cores["gateway"],
        cores["viewers"],
        cores["others"],
        min(shown),
        sum(shown) / len(shown),
        filmed / seconds,
        Latency.of_ms(first_ms),
    )


async def _page(url: str, folder: Path, seconds: float) -> list[float]:
    """How late the page shows each picture, in milliseconds; nothing without Chromium."""
    from tests import tools
    from tests.e2e.browser import Driver

    if not all(tools.look_for(name).works for name in ("chromium", "chromedriver")):
        return []
    place = Path(tempfile.mkdtemp(dir=folder))
    driver = Driver(place)

    def look() -> None:
        driver.start()
        page = driver.page()
        page.goto(url)
        page.wait("return document.querySelector('#preview-video')?.videoWidth > 0")
        page.run(READ_IN_PAGE, "#preview-video")
        page.wait("return window.ages.length > 30")
        page.run("window.ages.length = 0")  # what came while the page was starting
        page.wait("return window.ages.length > arguments[0]", round(FPS * seconds * 0.8))
        ages.extend(page.run("return window.ages"))

    ages: list[float] = []
    try:
        await asyncio.to_thread(look)
    finally:
        await asyncio.to_thread(driver.stop)
    return ages


def _result(found: Found) -> Result:
    late = {way: Latency.of_ms(ages) for way, ages in found.late_ms.items()}
    joins = Latency.of_ms(found.joins)
    full = next((crowd for crowd in found.crowds if crowd.viewers == CROWDS[-1]), None)
    tables = [
        Table(
            "Milliseconds",
            ("", "count", "p50", "p95", "most"),
            [
                (
                    name,
                    str(one.count),
                    f"{one.p50_ms:.0f}",
                    f"{one.p95_ms:.0f}",
                    f"{one.max_ms:.0f}",
                )
                for name, one in (
                    ("from the offer to a picture", joins),
                    *((f"from the camera by {way} to the screen", late[way]) for way in late),
                )
            ],
        ),
        Table(
            f"Viewers of one forwarded stream, 640 × 360 at {FPS} fps and 1 Mbit/s",
            ("viewers", "gateway, cores", "viewers, cores", "others, cores", "fps in", "shown"),
            [
                (
                    f"{crowd.viewers}{' with sound' if crowd.sound else ''}",
                    f"{crowd.gateway_cores:.2f}",
                    f"{crowd.viewers_cores:.2f}",
                    f"{crowd.others_cores:.2f}",
                    f"{crowd.filmed:.1f}",
                    f"{100 * crowd.shown_mean:.1f} % (least {100 * crowd.shown_least:.1f} %)",
                )
                for crowd in found.crowds
            ],
        ),
    ]
    soonest = joins.p95_ms if joins.count else math.inf
    targets = [Target("a picture after joining, p95", soonest, 500.0, "ms")]
    limits = {"RTMP": 300.0, "WHIP": 150.0}
    targets += [
        Target(f"camera to screen by {way}, p50", one.p50_ms, limits[way], "ms")
        for way, one in late.items()
    ]
    if full is not None:
        targets += [
            Target("cores of the gateway with 50 viewers", full.gateway_cores, 2.0),
            Target("pictures shown to the worst of 50", full.shown_least, 0.95, at_least=True),
        ]
    return Result(
        name="playback",
        tables=tables,
        targets=targets,
        figures={"joins_ms": found.joins, "late_ms": found.late_ms, "crowds": found.crowds},
        draw=lambda figure: _draw(figure, found),
        dtype="",
        device="cpu",
        notes=[] if late else ["without Chromium the way to the screen is not measured"],
    )


def _draw(figure: Any, found: Found) -> None:
    left, right = figure.subplots(1, 2)
    for way, ages in found.late_ms.items():
        left.hist(ages, bins=40, alpha=0.6, label=f"{way} to the screen")
    left.hist(found.joins, bins=12, alpha=0.6, label="offer to picture")
    left.set_xlabel("milliseconds")
    left.set_ylabel("pictures")
    left.legend()
    plain = [crowd for crowd in found.crowds if not crowd.sound]
    sizes = [crowd.viewers for crowd in plain]
    right.plot(sizes, [crowd.gateway_cores for crowd in plain], "o-", label="gateway")
    right.plot(sizes, [crowd.viewers_cores for crowd in plain], "o--", label="the viewers' process")
    right.set_xlabel("viewers of one stream")
    right.set_ylabel("cores")
    right.set_ylim(bottom=0)
    right.legend()
