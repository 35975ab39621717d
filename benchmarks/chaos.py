"""Faults under load: whether anything that was asked, said or watched is ever lost.

Viewers ask without a pause, on lines of the SDK and by one-shot calls, and watch two videos, of
which one stands still; meanwhile one fault after the other befalls the workers, their links,
dialogue and Redis of a whole suite on this machine, each once everything before it is well again.
A question about each session, asked in the moment of the fault, tells how long it took until it
was answered; at the end every history is compared with what its viewer read. CHAOS_SEED and
CHAOS_FAULTS say which faults and how many, CHAOS_GATEWAY=1 that gateways are among the victims.
"""

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

from benchmarks import REPOSITORY
from benchmarks.chaos_faults import GATEWAY, KINDS, Kind, Stage
from benchmarks.chaos_load import Caller, Talker, Watcher
from benchmarks.chaos_result import CALM, Fault, Storm, result
from benchmarks.report import Report, Result
from services.common.config import EnvConfig, setting
from services.local.config import LocalConfig
from services.local.process import ProcessError
from sightline import aio
from sightline.errors import SightlineError
from sightline.types import Timeouts

SHAPES = REPOSITORY / "training" / "weights" / "shapes"  # small: its workers are back in seconds
QUICK_FAULTS = 10
PATIENCE_S = 90.0  # for whatever should be well again
HOLD_S = 1.5  # at most, that a fault lasts on when there are answers again


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosConfig(EnvConfig):
    """Faults that a storm is made of."""

    prefix: ClassVar[str] = "CHAOS_"

    seed: int = setting(16, "Of what is drawn.", minimum=0)
    faults: int = setting(200, "How many faults.", minimum=1, maximum=100_000)
    gateway: bool = setting(False, "Whether gateways die, too: sessions must outlive them.")
    talkers: int = setting(1, "Viewers of each session who talk.", minimum=1, maximum=100)


def run(report: Report, *, quick: bool) -> Result:
    config = ChaosConfig.from_env()
    faults = QUICK_FAULTS if quick else config.faults
    with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
        storm = asyncio.run(storm_over(Path(folder), config, faults, report))
    return result(storm)


def chosen_kinds(config: ChaosConfig) -> tuple[Kind, ...]:
    return (*KINDS, *GATEWAY) if config.gateway else KINDS


def drawn(config: ChaosConfig, count: int) -> list[Kind]:
    """So many faults: each kind by its share, in an order that the seed gives."""
    kinds = chosen_kinds(config)
    chance = random.Random(config.seed)
    deck: list[Kind] = []
    while len(deck) < count:
        hand = [kind for kind in kinds for _ in range(kind.share)]
        chance.shuffle(hand)
        deck += hand
    return deck[:count]


async def storm_over(
    folder: Path,
    config: ChaosConfig,
    count: int,
    report: Report,
    kinds: Sequence[Kind] | None = None,
) -> Storm:
    """So many faults, or these, over a suite of two workers; in `folder`, which is new."""
    media = folder / "media"
    media.mkdir()
    _write_clips(media)
    variables = {
        "WORKERS": "2",
        "WORKER_MODEL": str(SHAPES),
        "WORKER_KV_MEMORY_BYTES": str(256 << 20),
        "WORKER_DRAIN_S": "10",
        "GATEWAY_MEDIA_ROOT": str(media),
        "DIALOGUE_MAX_ROUNDS": "1000",
        "TMPDIR": str(folder),
    }
    with patch.dict(os.environ, variables):
        local = LocalConfig.from_env().on_free_ports().with_ports()
        stage = Stage(local, folder, media, two_gateways=config.gateway)
        try:
            await stage.start()
            kinds = drawn(config, count) if kinds is None else kinds
            storm = await _Chaos(stage, config, report).run(kinds)
        except ProcessError as error:
            error.add_note("\n".join(error.process.last_lines()))
            raise
        finally:
            await stage.aclose()
            if kept := os.environ.get("CHAOS_LOGS"):
                shutil.copytree(folder / "logs", kept, dirs_exist_ok=True)
    storm.complaints += stage.complaints
    return storm


class _Chaos:
    """One storm: who asks and watches, and what happens meanwhile."""

    def __init__(self, stage: Stage, config: ChaosConfig, report: Report) -> None:
        self._stage = stage
        self._config = config
        self._report = report
        self._chance = random.Random(config.seed + 1)
        self._askers: list[Talker | Caller] = []
        self._probes: dict[str, Caller] = {}  # by session
        self._watchers: list[Watcher] = []
        self._sessions: list[aio.Session] = []

    async def run(self, kinds: Sequence[Kind]) -> Storm:
        storm = Storm(self._config.seed)
        timeouts = Timeouts(answer_s=60.0, reconnect_s=60.0, call_s=20.0)
        gateways = ",".join(gateway.address for gateway in self._stage.gateways)
        async with aio.connect(gateways, timeouts=timeouts) as client, asyncio.TaskGroup() as tasks:
            for clip in ("moving.mp4", "still.mp4"):
                session = await client.open(clip, on_server=True, loop=True)
                self._sessions.append(session)
                self._watchers.append(Watcher(session, still=clip == "still.mp4"))
                for _ in range(self._config.talkers):
                    self._askers.append(Talker(session, self._one_more()))
                self._askers.append(self._caller(session))
                self._probes[session.id] = self._caller(session)
            asking = [tasks.create_task(asker.run(), name="asker") for asker in self._askers]
            watching = [tasks.create_task(each.run(), name="watcher") for each in self._watchers]
            for number, kind in enumerate(kinds):
                left = f"{storm.questions} questions, {len(storm.unanswered)} lost"
                self._report(f"{kind.name} ({left})", number / len(kinds))
                storm.faults += await self._befall(client, kind)
                self._count(storm)
            await self._wait_well(client)
            for asker in self._askers:
                asker.finish()
            await asyncio.wait(asking)
            for watch in watching:
                watch.cancel()
            self._report("reading every history", 1.0)
            await self._sum_up(storm, client)
        return storm

    def _caller(self, session: aio.Session) -> Caller:
        addresses = [gateway.address for gateway in self._stage.gateways]
        return Caller(session, self._one_more(), addresses)

    def _one_more(self) -> random.Random:
        return random.Random(self._chance.random())

    async def _befall(self, client: aio.Client, kind: Kind) -> list[Fault]:
        """Seconds that answers take just before a fault, and in its moment."""
        await self._wait_well(client)
        await asyncio.sleep(self._chance.uniform(0.1, 0.8))
        infos = [await session.refresh() for session in self._sessions]
        victim = self._chance.choice(infos)
        number = int(victim.worker.removeprefix("worker ")) - 1
        befallen = [
            info.id for info in infos if kind.of != "worker" or info.worker == victim.worker
        ]
        calm = Fault(CALM, await self._answered_s(befallen, time.monotonic()))
        began_s = time.monotonic()
        async with kind.act(self._stage, number):
            fault = Fault(kind.name, await self._answered_s(befallen, began_s))
            await asyncio.sleep(self._chance.uniform(0.0, HOLD_S))
        return [calm, fault]

    async def _answered_s(self, sessions: Sequence[str], began_s: float) -> float:
        """Since then, until a question about each of these sessions has been answered."""
        await asyncio.gather(*(self._probes[session].ask() for session in sessions))
        return time.monotonic() - began_s

    async def _wait_well(self, client: aio.Client) -> None:
        """Until every worker stands ready, and no session is on its way."""
        end_s = time.monotonic() + PATIENCE_S
        wanted = len(self._stage.suite.workers)
        while time.monotonic() < end_s:
            try:
                models = (await client.info()).models
                moving = [(await session.refresh()).moving for session in self._sessions]
            except SightlineError:
                await asyncio.sleep(0.2)
                continue
            if sum(model.workers for model in models) == wanted and not any(moving):
                return
            await asyncio.sleep(0.05)

    def _count(self, storm: Storm) -> None:
        everybody = (*self._askers, *self._probes.values())
        asked = [each for asker in everybody for each in asker.asked if each.done_s]
        storm.questions = len(asked)
        storm.unanswered = [each.error for each in asked if each.error]
        storm.cancelled = sum(each.cancelled for each in asked)
        storm.restarted = sum(each.restarted for each in asked)
        storm.kept_later = sum(each.kept is False for each in asked)

    async def _sum_up(self, storm: Storm, client: aio.Client) -> None:
        self._count(storm)
        storm.events = sum(len(each.events) for each in self._watchers)
        storm.false_events = sum(each.false_events for each in self._watchers)
        storm.watches_gone = [each.error for each in self._watchers if each.error]
        there = {info.id for info in await client.sessions()}
        storm.sessions_gone = sum(session.id not in there for session in self._sessions)
        for asker in (*self._askers, *self._probes.values()):
            storm.differences.add(await asker.differences(client))
            await asker.aclose()


def _write_clips(media: Path) -> None:
    """Shapes that come, move and go, and one picture that stays."""
    import av

    from training.clips import write_sample

    write_sample(media / "moving.mp4", 5, 12.0)
    with av.open(str(media / "moving.mp4")) as source:
        picture = next(frame for number, frame in enumerate(source.decode(video=0)) if number == 90)
    with av.open(str(media / "still.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"crf": "18", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
        for number in range(24 * 10):
            still = picture.reformat(format="yuv420p")
            still.pts = number
            output.mux(stream.encode(still))
        output.mux(stream.encode())
