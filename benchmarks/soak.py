"""Whether a session can go on for ever: real footage by every road, then twenty loops of it.

First each clip plays once in real time by file, RTMP and push at once, shown to the model at the
clip's own frame rate: no frame may be lost. Then it is pushed twenty times into one lossless
session as fast as the model takes it, with a question after every loop; resident memory of gateway
and worker is read after each. Without the footage a generated clip takes its place.
"""

import asyncio
import contextlib
import gc
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import psutil

from benchmarks import REPOSITORY
from benchmarks.clips import write_h264
from benchmarks.processes import Running, running
from benchmarks.report import Report, Result, Table, Target
from services.inference_worker.config import WorkerConfig
from sightline import aio

FOOTAGE = REPOSITORY.parent / "shared" / "media"
NAMES = ("bottle-detection.mp4", "car-detection.mp4")
LOOPS = 20
MAX_GROWTH_MIB = 16.0
QUESTION = "What is in the scene?"
ROADS = ("file", "rtmp", "push")


@dataclass(slots=True)
class Soaked:
    """Figures of one clip. `lost` by road; memory in MiB after each loop, by process."""

    clip: str
    fps: float
    seconds: float
    sampled: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    rss_mib: dict[str, list[float]] = field(default_factory=dict)

    def growth_mib(self, process: str) -> float:
        """Growth from the end of the first quarter, when allocators have settled, to the end."""
        rss = self.rss_mib[process]
        settled = rss[len(rss) // 4 : len(rss) // 4 + 3]
        return statistics.median(rss[-3:]) - statistics.median(settled)


def run(report: Report, *, quick: bool) -> Result:
    with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
        media = Path(folder, "media")
        # For this suite alone: benchmarks that follow in this process have other folders.
        with patch.dict(os.environ, GATEWAY_MEDIA_ROOT=str(media)):
            clips = _clips(media, quick)
            soaked = asyncio.run(_run(clips, 3 if quick else LOOPS, report, Path(folder)))
    return _result(soaked)


def _clips(media: Path, quick: bool) -> list[Path]:
    media.mkdir()
    for name in NAMES[: 1 if quick else None]:
        if (FOOTAGE / name).exists():
            shutil.copy(FOOTAGE / name, media)
    if not list(media.iterdir()):
        write_h264(media / "generated.mp4", 25, 20.0)
    return sorted(media.iterdir())


async def _run(clips: list[Path], loops: int, report: Report, folder: Path) -> list[Soaked]:
    soaked = []
    async with running(folder) as suite, aio.connect(suite.gateway) as client:
        for number, path in enumerate(clips):
            share = number / len(clips)
            packets, fps, seconds = _shape(path)
            one = Soaked(path.name, fps, seconds)
            report(f"{path.name} by file, RTMP and push", share)
            await _every_road(client, path, one)
            async for loop in _loops(client, suite, path, one, packets, loops):
                report(f"{path.name}, loop {loop} of {loops}", share + loop / loops / len(clips))
            soaked.append(one)
    return soaked


def _shape(path: Path) -> tuple[int, float, float]:
    """Packets, frames per second and seconds of a clip."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        packets = sum(packet.size > 0 for packet in container.demux(video))
        fps = float(video.average_rate or 25)
    return packets, fps, packets / fps


async def _every_road(client: aio.Client, path: Path, one: Soaked) -> None:
    """The clip once, three times at the same time, in real time."""
    sessions = {
        "file": await client.open(path.name, on_server=True, fps=one.fps),
        "rtmp": await client.open(push=True, fps=one.fps),
        "push": await client.open(path, fps=one.fps),
    }
    command = [sys.executable, "-m", "services.local.publish", str(path)]
    publisher = await asyncio.create_subprocess_exec(
        *command, sessions["rtmp"].rtmp_url, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await asyncio.sleep(one.seconds)
        for road, session in sessions.items():
            stats = (await session.refresh()).stats
            one.sampled[road] = stats.frames_sampled
            one.lost[road] = sum(stats.dropped.values())
    finally:
        publisher.kill()
        await publisher.wait()
        for session in sessions.values():
            await session.delete()


async def _loops(
    client: aio.Client, suite: Running, path: Path, one: Soaked, packets: int, loops: int
) -> AsyncIterator[int]:
    """The number of each loop that is through."""
    watched = {name: psutil.Process(pid) for name, pid in suite.pids if name != "redis"}
    one.rss_mib = {name: [] for name in watched}
    session = await client.open(path, realtime=False, loop=True)
    try:
        for loop in range(1, loops + 1):
            while session.played.received < loop * packets:  # noqa: ASYNC110 - another process counts
                await asyncio.sleep(0.1)
            await session.ask(QUESTION).result()
            gc.collect()
            for name, process in watched.items():
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.rss_mib[name].append(process.memory_info().rss / 2**20)
            yield loop
        one.frames = (await session.refresh()).stats.frames_processed
        one.lost["lossless"] = sum(session.stats.dropped.values())
    finally:
        await session.delete()


def _result(soaked: list[Soaked]) -> Result:
    roads = [
        (
            f"{one.clip}, {one.fps:.3g} fps",
            *(f"{one.lost[road]} of {one.sampled[road]}" for road in ROADS),
        )
        for one in soaked
    ]
    memory = [
        (
            f"{one.clip}: {name}",
            f"{one.frames:,}",
            f"{rss[0]:.0f}",
            f"{rss[len(rss) // 4]:.0f}",
            f"{rss[-1]:.0f}",
            f"{one.growth_mib(name):+.1f}",
        )
        for one in soaked
        for name, rss in one.rss_mib.items()
    ]
    grown = [one.growth_mib(name) for one in soaked for name in one.rss_mib]
    lost = [sum(one.lost.values()) for one in soaked]
    return Result(
        name="soak",
        tables=[
            Table("Real time at the clip's own rate: frames lost", ("clip", *ROADS), roads),
            Table(
                "Loops without an end: resident memory, MiB",
                ("process", "frames seen", "loop 1", "first quarter", "end", "grown"),
                memory,
            ),
        ],
        targets=[
            Target("frames lost", float(sum(lost)), 0.0),
            Target("memory grown by one process", max(grown), MAX_GROWTH_MIB, "MiB"),
        ],
        figures={"clips": soaked},
        draw=lambda figure: _draw(figure, soaked),
        dtype=WorkerConfig.from_env().dtype,
        device=WorkerConfig.from_env().device,
        notes=["memory: from the end of the first quarter of the loops"],
    )


def _draw(figure: Any, soaked: list[Soaked]) -> None:
    for axes, one in zip(figure.subplots(1, len(soaked), squeeze=False)[0], soaked, strict=True):
        for name, rss in one.rss_mib.items():
            axes.plot(range(1, len(rss) + 1), rss, label=name)
        axes.set_title(one.clip)
        axes.set_xlabel("loop")
        axes.set_ylabel("resident memory (MiB)")
        axes.set_ylim(bottom=0)
        axes.legend()
