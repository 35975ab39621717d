"""Capacity: ten thousand sessions on simulated workers, placed by the gateway's own code in virtual
time; what a zone's loss, a rollout and new workers do, by three ways to choose a worker."""

import math
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.report import Report, Result, Table, Target
from benchmarks.samples import percentile
from benchmarks.simulated_cluster import Account, Cluster, virtual
from benchmarks.simulated_worker import Machine
from services.gateway.workers.choice import TwoChoices
from services.gateway.workers.worker import Worker

SESSIONS = 10_000
GATEWAYS = 5
ZONES = 3
SEED = 1
# Measured here, of the built-in model on two CPU cores (benchmarks/README.md): a frame takes 1.3 ms
# of the engine in steps of ten sessions. The model prefers 8 frames a second and keeps 30;
# 64 sessions are WORKER_MAX_SESSIONS, and keep the engine busy for two thirds of its time.
MACHINE = Machine(sessions=64, frame_s=0.0013, fps=8.0, window=30)
START_S = 4.0  # a worker's pod, deleted on a real cluster, was ready again after so long
WORKERS = 264  # of 64 sessions: with a zone less, 10,000 fill 89 %
PLAN = (200, 237, 300)  # besides WORKERS


class LeastLoaded:
    """Always the emptiest, as far as is known."""

    def __init__(self, rng: random.Random) -> None:
        pass

    def __call__(self, workers: Sequence[Worker]) -> Iterator[Worker]:
        return iter(sorted(workers, key=lambda worker: worker.fullness))


class AtRandom:
    """Any that has room, as far as is known."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def __call__(self, workers: Sequence[Worker]) -> Iterator[Worker]:
        return iter(self._rng.sample(list(workers), len(workers)))


CHOICES: dict[str, type] = {
    "two choices": TwoChoices,
    "random": AtRandom,
    "least loaded": LeastLoaded,
}


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of the simulation."""

    sessions: int
    workers: int

    @property
    def arrive_s(self) -> float:
        return 30.0


async def _arrive(cluster: Cluster, scale: Scale) -> None:
    """All arrive within half a minute."""
    cluster.open(scale.sessions, scale.arrive_s)
    await cluster.watch(scale.arrive_s + 5)
    cluster.account.arrived = len(cluster.account.moments)


async def zone_lost(cluster: Cluster, scale: Scale) -> None:
    """Every worker of a zone dies at once; the cluster says so within seconds."""
    await _arrive(cluster, scale)
    lost = [worker for worker in cluster.workers.values() if worker.zone == 0]
    for worker in lost:
        worker.kill()
    await cluster.watch(5)
    cluster.remove(lost)
    await cluster.watch(25)


async def zone_silent(cluster: Cluster, scale: Scale) -> None:
    """A zone is cut off: its workers say nothing any more, and nobody says that they are gone."""
    await _arrive(cluster, scale)
    for worker in cluster.workers.values():
        if worker.zone == 0:
            worker.hang()
    await cluster.watch(25)


async def rollout(cluster: Cluster, scale: Scale) -> None:
    """Every worker is replaced, a tenth at a time: new ones first, then the old drain."""
    await _arrive(cluster, scale)
    old = list(cluster.workers.values())
    batch = max(1, len(old) // 10)
    for first in range(0, len(old), batch):
        leaving = old[first : first + batch]
        await cluster.watch(START_S)
        cluster.add(len(leaving))
        await cluster.watch(5)  # minReadySeconds
        for worker in leaving:
            worker.drain()
        for _ in range(10):  # the drain's time
            await cluster.watch(1)
            if not any(worker.sessions for worker in leaving):
                break
        cluster.remove(leaving)
    await cluster.watch(5)


async def scaled_out(cluster: Cluster, scale: Scale) -> None:
    """Sessions stay ten minutes and others come. The workers are too few; then more are added."""
    rate = scale.sessions / 600
    cluster.open(scale.sessions, scale.arrive_s, stay_s=600)
    cluster.open(int(rate * 200), 200, stay_s=600)
    await cluster.watch(scale.arrive_s + 30)
    cluster.account.arrived = len(cluster.account.moments)
    cluster.add(scale.workers - len(cluster.workers))
    await cluster.watch(140)


Scenario = Callable[[Cluster, Scale], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {
    "zone lost": zone_lost,
    "zone silent": zone_silent,
    "rollout": rollout,
    "scale-out": scaled_out,
}


def simulate(scenario: Scenario, choice: type, scale: Scale, seed: int = SEED) -> Account:
    """One scenario with one way to choose, from the first session to the last."""
    with virtual(seed) as loop:

        async def run() -> Account:
            few = math.ceil(0.95 * scale.sessions / MACHINE.sessions)
            cluster = Cluster(
                MACHINE,
                gateways=GATEWAYS,
                workers=few if scenario is scaled_out else scale.workers,
                zones=ZONES,
                choice=choice,
                rng=random.Random(seed),
            )
            await cluster.watch(3)
            await scenario(cluster, scale)
            cluster.account.left_waiting = len(cluster.account.waiting)
            await cluster.aclose()
            return cluster.account

        return loop.run_until_complete(run())


def figures_of(account: Account) -> dict[str, float]:
    """Figures of one run."""
    last = account.moments[-1]
    arrived = account.moments[account.arrived - 1]
    return {
        "arrived_fullest_over_mean": arrived.fullest / arrived.mean if arrived.mean else 0.0,
        "placed_p99_s": percentile(account.placed_s, 0.99),
        "turned_away": account.turned_away,
        "fullest_over_mean": last.fullest / last.mean if last.mean else 0.0,
        "moves": account.moves,
        "lost": len(account.lost_s) + account.left_waiting,
        "recovery_p50_s": percentile(account.lost_s, 0.5) if account.lost_s else 0.0,
        "recovery_p95_s": percentile(account.lost_s, 0.95) if account.lost_s else 0.0,
        "recovery_max_s": max(account.lost_s, default=0.0),
        "waiting": account.left_waiting,
        "mean": last.mean,
        "fullest": last.fullest,
    }


def run(report: Report, *, quick: bool) -> Result:
    scale = Scale(500, 15) if quick else Scale(SESSIONS, WORKERS)
    plan = (12, 18) if quick else PLAN
    todo = len(SCENARIOS) * len(CHOICES) - 2 + len(plan)
    accounts: dict[str, dict[str, Account]] = {}
    done = 0
    for name, scenario in SCENARIOS.items():
        for choice, made in CHOICES.items():
            if scenario is zone_silent and made is not TwoChoices:
                continue  # what differs from a zone that is lost is when that is noticed
            report(f"{name}, {choice}", done / todo)
            accounts.setdefault(name, {})[choice] = simulate(scenario, made, scale)
            done += 1
    planned = {scale.workers: accounts["zone lost"]["two choices"]}
    for workers in plan:
        report(f"a zone of {workers} workers lost", done / todo)
        planned[workers] = simulate(zone_lost, TwoChoices, Scale(scale.sessions, workers))
        done += 1
    return _result(scale, accounts, planned)


def _result(
    scale: Scale, accounts: dict[str, dict[str, Account]], planned: dict[int, Account]
) -> Result:
    figures = {
        name: {choice: figures_of(account) for choice, account in by_choice.items()}
        for name, by_choice in accounts.items()
    }
    ours = {name: by_choice["two choices"] for name, by_choice in figures.items()}
    headings = (
        *("", "choice", "placed p99", "turned away", "fullest / mean: before", "after"),
        "left in order",
        *("cut off", "again p50", "again p95", "again at last", "still waiting"),
    )
    rows = [
        (
            name,
            choice,
            f"{told['placed_p99_s']:.3f} s",
            f"{told['turned_away']:,.0f}",
            f"{told['arrived_fullest_over_mean']:.2f}",
            f"{told['fullest_over_mean']:.2f}",
            f"{told['moves']:,.0f}",
            f"{told['lost']:,.0f}",
            f"{told['recovery_p50_s']:.2f} s",
            f"{told['recovery_p95_s']:.2f} s",
            f"{told['recovery_max_s']:.2f} s",
            f"{told['waiting']:,.0f}",
        )
        for name, by_choice in figures.items()
        for choice, told in by_choice.items()
    ]
    plan = {workers: figures_of(account) for workers, account in sorted(planned.items())}
    plan_rows = [
        (
            f"{workers}",
            f"{100 * scale.sessions / (workers * MACHINE.sessions):.0f} %",
            f"{100 * scale.sessions / (workers * (1 - 1 / ZONES) * MACHINE.sessions):.0f} %",
            f"{told['recovery_p95_s']:.2f} s",
            f"{told['recovery_max_s']:.2f} s",
            f"{told['waiting']:,.0f}",
        )
        for workers, told in plan.items()
    ]
    return Result(
        name="capacity",
        tables=[
            Table(
                f"{scale.sessions:,} sessions on {scale.workers} simulated workers of "
                f"{MACHINE.sessions}, by {GATEWAYS} gateways",
                headings,
                rows,
            ),
            Table(
                "How many workers: a zone of three is lost",
                ("workers", "full", "full without the zone", "again p95", "at last", "no room"),
                plan_rows,
            ),
        ],
        targets=[
            Target("sessions lost for good in a zone's loss", ours["zone lost"]["waiting"], 0),
            Target("sessions cut off in a rollout", ours["rollout"]["lost"], 0),
            Target("again p95 after a zone's loss", ours["zone lost"]["recovery_p95_s"], 10, "s"),
            Target("fullest over mean", ours["zone lost"]["arrived_fullest_over_mean"], 1.5),
        ],
        figures={
            "seed": SEED,
            "machine": asdict(MACHINE),
            "scale": asdict(scale),
            "scenarios": figures,
            "plan": {str(workers): told for workers, told in plan.items()},
        },
        draw=lambda figure: _draw(figure, accounts),
        dtype="-",
        device="simulated",
        notes=[
            "virtual time: the gateway's placement is the product's code, workers are simulated; "
            f"a replayed frame takes {1000 * MACHINE.frame_s:.1f} ms of an engine, beside live ones"
        ],
    )


def _draw(figure: Any, accounts: dict[str, dict[str, Account]]) -> None:
    spread, again, served = figure.subplots(1, 3)
    for choice, account in accounts["scale-out"].items():
        at_s = [moment.at_s for moment in account.moments]
        spread.plot(at_s, [100 * m.fullest for m in account.moments], label=choice, linewidth=0.9)
    mean = accounts["scale-out"]["two choices"].moments
    spread.plot([m.at_s for m in mean], [100 * m.mean for m in mean], "k:", label="mean")
    spread.set(title="Scale-out: the fullest worker", xlabel="s", ylabel="% of its sessions")
    for name, style in (("zone lost", "-"), ("zone silent", "--")):
        for choice, account in accounts.get(name, {}).items():
            lost = sorted(account.lost_s)
            shares = [100 * (place + 1) / len(lost) for place in range(len(lost))]
            again.plot(lost, shares, style, label=f"{name}, {choice}", linewidth=0.9)
    again.set(title="A zone is lost: sessions that go on", xlabel="s after it", ylabel="%")
    for choice, account in accounts["rollout"].items():
        moments = account.moments
        served.plot(
            [m.at_s for m in moments],
            [100 * m.fullest for m in moments],
            label=choice,
            linewidth=0.9,
        )
    served.set(title="Rollout: the fullest worker", xlabel="s", ylabel="% of its sessions")
    for axes in (spread, again, served):
        axes.legend(fontsize=6)
