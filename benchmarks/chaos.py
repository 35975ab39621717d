"""Faults under load: whether anything that was asked, said or watched is ever lost.

Viewers ask without a pause, on lines of the SDK and by one-shot calls, and watch two videos, of
which one stands still; meanwhile one fault after the other befalls the workers, their links,
dialogue and Redis of a whole suite on this machine, each once everything before it is well again.
After a fault the next questions tell how long it took until everybody had answers again; at the
end every history is compared with what its viewer read. CHAOS_SEED and CHAOS_FAULTS say which
faults and how many, CHAOS_GATEWAY=1 that the gateway is one of the victims.
"""

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

from benchmarks import REPOSITORY
from benchmarks.chaos_faults import GATEWAY, KINDS, Kind, Stage
from benchmarks.chaos_load import Asker, Caller, Differences, Talker, Watcher
from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import percentile
from services.common.config import EnvConfig, setting
from services.inference_worker.config import WorkerConfig
from services.local.config import LocalConfig
from services.local.process import ProcessError
from sightline import aio
from sightline.errors import SightlineError
from sightline.types import SessionInfo, Timeouts

SHAPES = REPOSITORY / "training" / "weights" / "shapes"  # small: its workers are back in seconds
QUICK_FAULTS = 10
PATIENCE_S = 90.0  # for whatever should be well again
HOLD_S = 1.5  # at most, that a fault lasts on when everybody has answers again
WORKER_S, GATEWAY_S = 2.0, 5.0  # until everybody has answers again, by 95 of 100 faults


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosConfig(EnvConfig):
    """Which faults."""

    prefix: ClassVar[str] = "CHAOS_"

    seed: int = setting(16, "Of what is drawn.", minimum=0)
    faults: int = setting(200, "How many faults.", minimum=1, maximum=100_000)
    gateway: bool = setting(False, "Whether gateways die, too: sessions must outlive them.")
    talkers: int = setting(2, "Viewers of each session who talk.", minimum=1, maximum=100)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `recovery_s`: until everybody whom it befell had an answer to a question asked
    after it; None: somebody had none in time."""

    kind: str
    recovery_s: float | None


@dataclass(slots=True)
class Storm:
    """Findings."""

    seed: int
    faults: list[Fault] = field(default_factory=list)
    questions: int = 0
    cancelled: int = 0
    restarted: int = 0
    kept_later: int = 0
    unanswered: list[str] = field(default_factory=list)
    differences: Differences = field(default_factory=Differences)
    sessions_gone: int = 0
    watches_gone: list[str] = field(default_factory=list)
    events: int = 0
    false_events: int = 0
    complaints: list[str] = field(default_factory=list)

    def recoveries_s(self, kind: str) -> list[float]:
        return [
            PATIENCE_S if fault.recovery_s is None else fault.recovery_s
            for fault in self.faults
            if fault.kind == kind
        ]

    @property
    def counts(self) -> dict[str, int]:
        """What must be zero."""
        return {
            "questions without an answer": len(self.unanswered),
            "turns lost": self.differences.lost,
            "turns doubled": self.differences.doubled,
            "histories that differ from what viewers read": self.differences.different,
            "sessions gone": self.sessions_gone,
            "watches gone": len(self.watches_gone),
            "false events of watches": self.false_events,
            "services that did not end in order": len(self.complaints),
        }


def run(report: Report, *, quick: bool) -> Result:
    config = ChaosConfig.from_env()
    faults = QUICK_FAULTS if quick else config.faults
    with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
        storm = asyncio.run(storm_over(Path(folder), config, faults, report))
    return _result(storm)


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
        stage = Stage(LocalConfig.from_env().on_free_ports().with_ports(), folder, media)
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
        self._watchers: list[Watcher] = []
        self._sessions: list[aio.Session] = []

    async def run(self, kinds: Sequence[Kind]) -> Storm:
        storm = Storm(self._config.seed)
        timeouts = Timeouts(answer_s=60.0, reconnect_s=60.0, call_s=20.0)
        gateway = self._stage.suite.gateway.address
        async with aio.connect(gateway, timeouts=timeouts) as client, asyncio.TaskGroup() as tasks:
            for clip in ("moving.mp4", "still.mp4"):
                session = await client.open(clip, on_server=True, loop=True)
                self._sessions.append(session)
                self._watchers.append(Watcher(session, still=clip == "still.mp4"))
                for _ in range(self._config.talkers):
                    self._askers.append(Talker(session, self._one_more()))
                self._askers.append(Caller(session, self._one_more(), gateway))
            asking = [tasks.create_task(asker.run(), name="asker") for asker in self._askers]
            watching = [tasks.create_task(each.run(), name="watcher") for each in self._watchers]
            for number, kind in enumerate(kinds):
                left = f"{storm.questions} questions, {len(storm.unanswered)} lost"
                self._report(f"{kind.name} ({left})", number / len(kinds))
                storm.faults.append(await self._befall(client, kind))
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

    def _one_more(self) -> random.Random:
        return random.Random(self._chance.random())

    async def _befall(self, client: aio.Client, kind: Kind) -> Fault:
        await self._wait_well(client)
        await asyncio.sleep(self._chance.uniform(0.1, 0.8))
        infos = [await session.refresh() for session in self._sessions]
        victim = self._chance.choice(infos)
        number = int(victim.worker.removeprefix("worker ")) - 1
        befallen = [
            asker
            for asker in self._askers
            if kind.of != "worker" or _info_of(asker, infos).worker == victim.worker
        ]
        began_s = time.monotonic()
        async with kind.act(self._stage, number):
            recovery_s = await self._recovery_s(befallen, began_s)
            await asyncio.sleep(self._chance.uniform(0.0, HOLD_S))
        return Fault(kind.name, recovery_s)

    async def _recovery_s(self, befallen: Sequence[Asker], began_s: float) -> float | None:
        while time.monotonic() - began_s < PATIENCE_S:
            answered = [asker.answered_since(began_s) for asker in befallen]
            if all(answered):
                return max(each for each in answered if each is not None) - began_s
            await asyncio.sleep(0.01)
        return None

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
        asked = [each for asker in self._askers for each in asker.asked if each.done_s]
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
        for asker in self._askers:
            storm.differences.add(await asker.differences(client))
            await asker.aclose()


def _info_of(asker: Asker, infos: Sequence[SessionInfo]) -> SessionInfo:
    return next(info for info in infos if info.id == asker.session.id)


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


# --- the report -------------------------------------------------------------------------------


def _result(storm: Storm) -> Result:
    names = list(dict.fromkeys(kind.name for kind in (*KINDS, *GATEWAY)))
    drawn_names = Counter(fault.kind for fault in storm.faults)
    rows = []
    targets = [Target(what, float(count), 0.0) for what, count in storm.counts.items()]
    moving = {kind.name for kind in KINDS if kind.moves}
    for name in names:
        if not (recoveries := storm.recoveries_s(name)):
            continue
        p50_s, p95_s = percentile(recoveries, 0.5), percentile(recoveries, 0.95)
        figures = (f"{p50_s:.2f}", f"{p95_s:.2f}", f"{max(recoveries):.2f}")
        rows.append((name, str(drawn_names[name]), *figures))
        if name in moving:
            targets.append(Target(f"{name}: answers again, p95", p95_s, WORKER_S, "s"))
        if name.startswith("gateway"):
            targets.append(Target(f"{name}: answers again, p95", p95_s, GATEWAY_S, "s"))
    totals = {
        "questions": storm.questions,
        "cancelled by their viewers": storm.cancelled,
        "begun anew after words were shown": storm.restarted,
        "stored after their end": storm.kept_later,
        "events of watches": storm.events,
        **storm.counts,
    }
    worker = WorkerConfig.from_env()
    return Result(
        name="chaos",
        tables=[
            Table(
                f"{len(storm.faults)} faults, seed {storm.seed}: everybody has answers again after",
                ("fault", "times", "p50 s", "p95 s", "most s"),
                rows,
            ),
            Table("Of all that was said", ("", ""), [(what, str(n)) for what, n in totals.items()]),
        ],
        targets=targets,
        figures=asdict(storm),
        draw=lambda figure: _draw(figure, storm, [row[0] for row in rows]),
        dtype=worker.dtype,
        device=worker.device,
        notes=[
            f"{count} × {what}"
            for what, count in Counter([*storm.unanswered, *storm.watches_gone]).most_common(8)
        ]
        + storm.complaints,
    )


def _draw(figure: Any, storm: Storm, names: Sequence[str]) -> None:
    axes = figure.subplots()
    for place, name in enumerate(names):
        recoveries = sorted(storm.recoveries_s(name))
        axes.plot(recoveries, [place] * len(recoveries), "|", markersize=12)
    axes.axvline(WORKER_S, color="grey", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("seconds until everybody has answers again")
    axes.set_xlim(left=0)
