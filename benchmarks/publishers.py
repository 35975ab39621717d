"""Twenty RTMP and ten WHIP publishers of one gateway: what receiving and decoding them costs.

The gateway is a process of its own; its worker is paced (`PacedWorker`) and has no model, so that
what is measured is the way from the wire to frames for a model, eight of them a second. Publishers
are two light processes that send what was encoded before; what they take is told beside.
"""

import asyncio
import os
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import REPOSITORY
from benchmarks.browsers import Browsers
from benchmarks.clips import write_h264
from benchmarks.machine import CpuMeter
from benchmarks.paced_worker import PacedWorker
from benchmarks.processes import model_ready
from benchmarks.publisher import Publisher
from benchmarks.report import Report, Result, Table, Target
from services.local.process import Process, is_serving
from sightline import aio
from sightline.aio import Session
from sightline.errors import NotFoundError
from sightline.types import SessionStats

RTMP, WHIP, FPS = 20, 10, 30
MODEL_FPS = 8.0
CLIP_S = 10.0
SECONDS, QUICK_SECONDS = 600.0, 10.0
LOOK_S = 5.0
SETTLED = 0.25  # share of the run after which memory has found its size
READY_S = 60.0
LIVE_TRIES = 600
SETTLE_S, SETTLE_TRIES = 0.5, 20  # until what was sent has been decoded
BEFORE_DECODING = ("packet_lost", "no_keyframe", "decoder_overrun", "corrupt")


@dataclass(frozen=True, slots=True)
class Look:
    """The gateway at a moment: seconds of the run, cores since the look before, memory."""

    at_s: float
    cores: float
    rss_mib: float


@dataclass(slots=True)
class Way:
    """What came of publishers of one kind. `shares`: pictures decoded of each, of what it sent;
    `lost`: those that were not, by reason; `untold`: those that no reason was told of."""

    shares: list[float] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    untold: int = 0
    sent: int = 0

    @property
    def least(self) -> float:
        return min(self.shares, default=0.0)

    @property
    def mean(self) -> float:
        return sum(self.shares) / len(self.shares) if self.shares else 0.0


@dataclass(slots=True)
class Measured:
    """What a run showed. `dropped`: sampled frames by reason."""

    seconds: float = 0.0
    cores: dict[str, float] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    ways: dict[str, Way] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    sampled: int = 0
    processed: int = 0
    broken: int = 0  # publishers whose connection ended, and sessions that did

    @property
    def grown_mib(self) -> float:
        """From the first quarter to the end."""
        settled = [look for look in self.looks if look.at_s >= SETTLED * self.seconds]
        return settled[-1].rss_mib - settled[0].rss_mib if settled else 0.0

    @property
    def lost(self) -> float:
        """Share of the sampled frames that were dropped."""
        return self.dropped.total() / self.sampled if self.sampled else 1.0


def run(report: Report, *, quick: bool) -> Result:
    with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
        seconds = QUICK_SECONDS if quick else SECONDS
        return _result(asyncio.run(_measure(Path(folder), seconds, report)))


async def _measure(folder: Path, seconds: float, report: Report) -> Measured:
    report("a clip", 0.0)
    clip = folder / "clip.mp4"
    await asyncio.to_thread(write_h264, clip, FPS, CLIP_S)
    worker = PacedWorker(0.0)
    await worker.start()
    ports = [_free_port() for _ in range(4)]
    names = ("GRPC", "HTTP", "METRICS", "RTMP")
    listening = zip(names, ports, strict=True)
    address = f"127.0.0.1:{ports[0]}"
    gateway = Process(
        "gateway",
        [sys.executable, "-m", "services.gateway"],
        folder / "gateway.log",
        {f"GATEWAY_{name}_PORT": str(port) for name, port in listening}
        | {
            "GATEWAY_WORKERS": worker.address,
            "GATEWAY_WEBRTC_PORT": "0",
            "GATEWAY_MAX_SESSIONS": str(RTMP + WHIP),
            "GATEWAY_ADAPTIVE_RATE": "false",
        },
        ready=lambda: is_serving(address),
        address=address,
    )
    await gateway.start()
    try:
        await gateway.wait_ready(READY_S)
        await model_ready(address)
        return await _published(clip, gateway, seconds, report)
    finally:
        await gateway.stop()
        await worker.stop()


async def _published(clip: Path, gateway: Process, seconds: float, report: Report) -> Measured:
    async with aio.connect(gateway.address) as client:
        sessions = [
            await client.open(push=True, name=f"camera {number}", fps=MODEL_FPS)
            for number in range(RTMP + WHIP)
        ]
        cameras = Publisher(clip, [session.rtmp_url for session in sessions[:RTMP]])
        browsers = await Browsers.start(
            clip, [session.whip_url for session in sessions[RTMP:]], REPOSITORY
        )
        try:
            await _live(sessions)
            assert gateway.pid is not None
            named = [
                ("gateway", gateway.pid),
                ("RTMP publishers", cameras.pid),
                ("WHIP publishers", browsers.pid),
                ("worker and benchmark", os.getpid()),
            ]
            measured = await _watched(named, seconds, report)
        finally:
            sent = await asyncio.to_thread(cameras.stop)
            shown = await browsers.stop()
        await _settled(client)
        measured.broken = sum(bool(each.error) for each in sent)
        by_rtmp = [each.packets for each in sent]
        measured.ways["RTMP"] = await _what_came(sessions[:RTMP], by_rtmp, measured)
        measured.ways["WHIP"] = await _what_came(sessions[RTMP:], shown, measured)
    return measured


async def _settled(client: aio.Client) -> None:
    """Wait until everything that came has been decoded: sessions outlive their publishers."""
    before = -1
    for _ in range(SETTLE_TRIES):
        count = sum(one.stats.frames_received for one in await client.sessions())
        if count == before:
            return
        before = count
        await asyncio.sleep(SETTLE_S)


async def _what_came(sessions: list[Session], sent: list[int], measured: Measured) -> Way:
    way = Way()
    for session, count in zip(sessions, sent, strict=True):
        try:
            stats = (await session.refresh()).stats
        except NotFoundError:  # its publisher broke off, long before the others
            measured.broken += 1
            stats = SessionStats()
        lost = Counter({reason: stats.dropped.get(reason, 0) for reason in BEFORE_DECODING})
        way.shares.append(min(1.0, stats.frames_received / count) if count else 0.0)
        way.sent += count
        way.lost += lost
        way.untold += max(0, count - stats.frames_received - lost.total())
        measured.sampled += stats.frames_sampled
        measured.processed += stats.frames_processed
        measured.dropped.update(
            {why: num for why, num in stats.dropped.items() if why not in BEFORE_DECODING}
        )
    return way


async def _watched(named: list[tuple[str, int]], seconds: float, report: Report) -> Measured:
    """Look every few seconds."""
    measured = Measured(seconds=seconds)
    whole, part = CpuMeter(named), CpuMeter(named)
    whole.start()
    began_s = time.monotonic()
    while (left_s := began_s + seconds - time.monotonic()) > 0:
        part.start()
        await asyncio.sleep(min(LOOK_S, left_s))
        at_s = time.monotonic() - began_s
        measured.looks.append(Look(at_s, part.cores()["gateway"], part.rss_mib()["gateway"]))
        report(f"{RTMP + WHIP} publishers", 0.1 + 0.85 * min(1.0, at_s / seconds))
    measured.cores = whole.cores()
    return measured


async def _live(sessions: list[Session]) -> None:
    """Wait until every publisher's pictures come. Raises RuntimeError."""
    waiting = list(sessions)
    for _ in range(LIVE_TRIES):
        waiting = [one for one in waiting if (await one.refresh()).state != "live"]
        if not waiting:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"of {len(waiting)} publishers nothing comes")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _result(measured: Measured) -> Result:
    last = measured.looks[-1]
    rows = [(name, f"{cores:.2f}") for name, cores in measured.cores.items()]
    dropped = _told(measured.dropped)
    return Result(
        name="publishers",
        tables=[
            Table(
                f"{RTMP} RTMP and {WHIP} WHIP publishers, 640 × 360 at {FPS} fps, "
                f"for {measured.seconds:.0f} s",
                ("", "cores"),
                rows,
            ),
            Table(
                "What came",
                ("", "decoded of what was sent", "the least of one", "lost, told", "untold"),
                [
                    (
                        name,
                        f"{100 * way.mean:.2f} %",
                        f"{100 * way.least:.2f} %",
                        _told(way.lost) or "none",
                        str(way.untold),
                    )
                    for name, way in measured.ways.items()
                ],
            ),
            Table(
                "The gateway",
                ("", ""),
                [
                    ("memory at the end", f"{last.rss_mib:.0f} MiB"),
                    ("grown after the first quarter", f"{measured.grown_mib:.1f} MiB"),
                    ("frames for the model", f"{measured.processed} of {measured.sampled}"),
                    ("dropped", dropped or "none"),
                    ("connections that broke", str(measured.broken)),
                ],
            ),
        ],
        targets=[
            Target("cores of the gateway", measured.cores["gateway"], 2.0),
            Target("sampled frames dropped", measured.lost, 0.001),
            Target("memory grown", measured.grown_mib, 16.0, "MiB"),
            Target("connections that broke", measured.broken, 0.0),
            *(
                Target(f"{name}: pictures lost untold", way.untold / max(1, way.sent), 0.01)
                for name, way in measured.ways.items()
            ),
        ],
        figures={
            "cores": measured.cores,
            "looks": measured.looks,
            "ways": measured.ways,
            "dropped": dict(measured.dropped),
            "sampled": measured.sampled,
            "processed": measured.processed,
        },
        draw=lambda figure: _draw(figure, measured),
        dtype="",
        device="cpu",
    )


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


def _draw(figure: Any, measured: Measured) -> None:
    cores, memory = figure.subplots(1, 2)
    times = [look.at_s for look in measured.looks]
    cores.plot(times, [look.cores for look in measured.looks])
    cores.set_ylabel("cores of the gateway")
    memory.plot(times, [look.rss_mib for look in measured.looks])
    memory.set_ylabel("its memory, MiB")
    for axes in (cores, memory):
        axes.set_xlabel("seconds")
        axes.set_ylim(bottom=0)
