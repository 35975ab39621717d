"""Questions about a stream that a lossy network carries: a WHIP publisher behind address
translation, which loses, delays and reorders what passes, on the whole suite.

The built-in story plays in real time. Each question is about something that holds when it is asked
and a while longer, so that its right answer is known; a watcher notes when frames were understood,
and the longest time without one is how long the stream took to recover from a loss.
"""

import asyncio
import contextlib
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from aiohttp import ClientSession
from aioice.ice import get_host_addresses
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer

from benchmarks import REPOSITORY
from benchmarks.lossy_link import Address, Conditions, LossyLink
from benchmarks.processes import running
from benchmarks.report import Report, Result, Table, Target
from services.local.clip import STORY, Clip, sample_clip
from sightline import aio

LINKS = {
    "no loss": Conditions(),
    "1 %": Conditions(0.01, 0.02, 0.05),
    "5 %": Conditions(0.05, 0.02, 0.05),
    "10 %": Conditions(0.10, 0.02, 0.05),
}
MEASURE_S, QUICK_S = 60.0, 8.0
ASK_EVERY_S = 1.0
ASKED = ("held", "price", "scene", "before", "presence", "count")
POLL_S = 0.01
CONNECT_S = 20.0
WINDOW_S = 5.0  # of the story, before questions about it are fair
HELD_S, LEFT_S = 1.0, 1.0  # a fact holds so long before and after it is asked about
MIN_RIGHT, MAX_GAP_S = 0.9, 1.0


@dataclass(slots=True)
class Measured:
    """Figures of one link. `gaps_s`: between one frame understood and the next."""

    link: str
    fps: float
    carried: int = 0
    lost: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def share_right(self) -> float:
        return self.right / max(1, self.right + len(self.wrong))

    @property
    def longest_gap_s(self) -> float:
        return max(self.gaps_s, default=float("inf"))

    @property
    def frames_per_s(self) -> float:
        return len(self.gaps_s) / max(1e-9, sum(self.gaps_s))


def run(report: Report, *, quick: bool) -> Result:
    with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
        measured = asyncio.run(_run(report, Path(folder), QUICK_S if quick else MEASURE_S))
    return _result(measured)


async def _run(report: Report, folder: Path, seconds: float) -> list[Measured]:
    report("painting the story", 0.0)
    clip = await sample_clip(REPOSITORY / ".cache" / "clips", STORY)
    link = LossyLink(Conditions())
    at = host, port = await link.start(get_host_addresses(True, False)[0])
    measured = []
    try:
        with patch.dict(os.environ, GATEWAY_WEBRTC_ADDRESSES=f"{host}:{port}"):
            async with running(folder) as suite, aio.connect(suite.gateway) as client:
                link.target = (host, suite.suite.config.gateway_webrtc_port)
                for number, name in enumerate(LINKS):
                    report(f"a link with {name}", number / len(LINKS))
                    measured.append(await _measure(name, link, at, client, clip, seconds))
    finally:
        await link.aclose()
    return measured


async def _measure(
    name: str, link: LossyLink, at: Address, client: aio.Client, clip: Clip, seconds: float
) -> Measured:
    session = await client.open(push=True)
    found = Measured(name, session.info.fps)
    link.conditions = LINKS[name]
    try:
        async with _published(clip.path, session.whip_url, at) as started:
            async with asyncio.timeout(CONNECT_S):
                while not session.stats.frames_processed:
                    await asyncio.sleep(POLL_S)
                    await session.refresh()
            await asyncio.sleep(WINDOW_S)
            carried, lost = link.carried, link.lost
            async with asyncio.TaskGroup() as group:
                group.create_task(_note_frames(session.id, client, found, seconds))
                group.create_task(_ask(session, clip, started, found, seconds))
            found.carried, found.lost = link.carried - carried, link.lost - lost
            found.dropped = dict((await session.refresh()).stats.dropped)
    finally:
        await session.delete()
    return found


@contextlib.asynccontextmanager
async def _published(path: Path, url: str, at: Address) -> AsyncIterator[int]:
    """A publisher of the clip, looped, that knows the gateway by the link's address alone, as the
    gateway knows it. Gives the Unix ns at which the clip begins."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    video = MediaPlayer(str(path), loop=True).video
    assert video is not None
    sender = peer.addTransceiver(video, direction="sendonly")
    known = RTCRtpSender.getCapabilities("video").codecs
    sender.setCodecPreferences([item for item in known if item.mimeType == "video/H264"])
    kind = {"Content-Type": "application/sdp"}
    connected: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @peer.on("connectionstatechange")
    def note() -> None:
        if peer.connectionState == "connected" and not connected.done():
            connected.set_result(time.time_ns())  # now the clip begins, however long that took

    try:
        await peer.setLocalDescription(await peer.createOffer())
        offer = _candidates(peer.localDescription.sdp, None)
        async with ClientSession() as http, http.post(url, data=offer, headers=kind) as reply:
            answer = _candidates(await reply.text(), at)
            reply.raise_for_status()
        await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        async with asyncio.timeout(CONNECT_S):
            began_ns = await connected
        yield began_ns
    finally:
        video.stop()
        await peer.close()


def _candidates(sdp: str, only: Address | None) -> str:
    """A description without candidates but that of an address."""
    return "".join(
        line
        for line in sdp.splitlines(keepends=True)
        if not line.startswith("a=candidate")
        or (only is not None and f" {only[0]} {only[1]} " in line)
    )


async def _note_frames(
    session_id: str, client: aio.Client, found: Measured, seconds: float
) -> None:
    """Look which frame is the newest that was understood, as often as possible."""
    session = await client.session(session_id)
    end_s = time.monotonic() + seconds
    newest_ns, seen_s = session.stats.last_capture_ns, time.monotonic()
    while (now_s := time.monotonic()) < end_s:
        stats = (await session.refresh()).stats
        if stats.last_capture_ns != newest_ns:
            newest_ns = stats.last_capture_ns
            found.gaps_s.append(now_s - seen_s)
            seen_s = now_s
        await asyncio.sleep(POLL_S)
    found.gaps_s.append(time.monotonic() - seen_s)


async def _ask(
    session: aio.Session, clip: Clip, began_ns: int, found: Measured, seconds: float
) -> None:
    """Ask about what holds, once a second."""
    chance = random.Random(1)
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        due_s = time.monotonic() + ASK_EVERY_S
        at_s = ((await session.refresh()).stats.last_capture_ns - began_ns) / 1e9 % clip.seconds
        holding = [
            fact
            for fact in clip.facts
            if fact.kind in ASKED and fact.time_s + HELD_S <= at_s <= fact.until_s - LEFT_S
        ]
        if holding:
            fact = chance.choice(holding)
            answer = (await session.ask(fact.question).result()).text.strip()
            if answer == fact.answer:
                found.right += 1
            else:
                found.wrong.append(f"{at_s:.1f} s: {fact.question} {answer!r}, not {fact.answer!r}")
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))


def _result(measured: list[Measured]) -> Result:
    lossy = [each for each in measured if each.link != "no loss"]
    return Result(
        name="loss",
        tables=[
            Table(
                "A WHIP publisher behind a link that loses packets both ways",
                ("link", "packets lost", "answers right", "frames/s", "longest gap, s", "dropped"),
                [
                    (
                        each.link,
                        f"{each.lost} of {each.lost + each.carried}",
                        f"{each.right} of {each.right + len(each.wrong)}",
                        f"{each.frames_per_s:.1f}",
                        f"{each.longest_gap_s:.2f}",
                        ", ".join(f"{why} {n}" for why, n in each.dropped.items()) or "0",
                    )
                    for each in measured
                ],
            )
        ],
        targets=[
            *(
                Target(f"{each.link}: answers right", each.share_right, MIN_RIGHT, at_least=True)
                for each in measured
            ),
            *(
                Target(f"{each.link}: longest time without a frame", each.longest_gap_s, MAX_GAP_S)
                for each in lossy
            ),
        ],
        figures={"links": measured},
        draw=lambda figure: _draw(figure, measured),
        dtype="auto",
        device="auto",
        notes=[
            "with loss: 20 ms more each way, and up to 50 ms of jitter, so that packets overtake "
            "each other; the publisher's address is translated",
            "a frame counts when a poll sees it understood, at most 10 ms and a call later",
        ],
    )


def _draw(figure: Any, measured: list[Measured]) -> None:
    axes = figure.add_subplot()
    for each in measured:
        times = [sum(each.gaps_s[: index + 1]) for index in range(len(each.gaps_s))]
        axes.plot(times, [1000 * gap for gap in each.gaps_s], label=each.link, linewidth=0.9)
    axes.set_xlabel("s")
    axes.set_ylabel("from one understood frame to the next, ms")
    axes.legend(loc="upper right")
