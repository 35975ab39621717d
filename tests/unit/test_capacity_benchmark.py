"""The simulation of capacity: time is virtual, chance is seeded, and faults lose nobody."""

import asyncio
import random
import time

import grpc
import pytest

from benchmarks import capacity
from benchmarks.capacity import MACHINE, AtRandom, LeastLoaded, Scale, figures_of, simulate
from benchmarks.simulated_cluster import Cluster, virtual
from benchmarks.simulated_worker import SimulatedWorker
from benchmarks.virtual_time import VirtualLoop
from services.gateway.workers import worker as worker_module
from services.gateway.workers import workers
from services.gateway.workers.choice import TwoChoices

pytestmark = pytest.mark.option

SMALL = Scale(sessions=120, workers=6)


def test_hours_pass_at_once_and_in_order() -> None:
    loop = VirtualLoop()
    seen: list[tuple[float, str]] = []

    async def wait(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((loop.time(), name))

    async def run() -> None:
        await asyncio.gather(wait("late", 7200), wait("soon", 0.5), wait("later", 7200.5))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()

    began_s = time.monotonic()
    loop.run_until_complete(run())
    assert [name for _, name in seen] == ["soon", "late", "later"]
    assert [at_s for at_s, _ in seen] == pytest.approx([0.5, 7200, 7200.5])
    assert loop.time() == pytest.approx(7260.5)
    assert time.monotonic() - began_s < 60
    with pytest.raises(RuntimeError, match="no timer"):
        loop.run_until_complete(asyncio.Event().wait())
    loop.close()


def test_the_same_seed_gives_the_same_run_and_the_clock_is_given_back() -> None:
    first, second = (
        figures_of(simulate(capacity.zone_lost, TwoChoices, SMALL, seed=3)) for _ in range(2)
    )
    assert first == second
    assert first != figures_of(simulate(capacity.zone_lost, TwoChoices, SMALL, seed=4))
    assert worker_module.time is time


@pytest.mark.parametrize("choice", [TwoChoices, AtRandom, LeastLoaded])
def test_a_zones_sessions_go_on_elsewhere(choice: type) -> None:
    account = simulate(capacity.zone_lost, choice, SMALL)
    told = figures_of(account)
    assert len(account.placed_s) == SMALL.sessions
    assert told["waiting"] == 0
    assert 20 < told["lost"] < 80, "those of two workers of six"
    assert 0 < told["recovery_p95_s"] < 10
    assert account.moments[-1].placed == SMALL.sessions
    assert told["mean"] == pytest.approx(SMALL.sessions / 4 / MACHINE.sessions)


def test_without_room_sessions_wait_and_are_counted() -> None:
    account = simulate(capacity.zone_lost, TwoChoices, Scale(sessions=330, workers=6))
    told = figures_of(account)
    assert told["waiting"] == 330 - 4 * MACHINE.sessions
    assert told["fullest"] == 1


def test_a_rollout_cuts_nobody_off() -> None:
    told = figures_of(simulate(capacity.rollout, TwoChoices, SMALL))
    assert told["lost"] == told["waiting"] == 0
    assert told["moves"] >= SMALL.sessions


def test_a_worker_that_says_nothing_is_left() -> None:
    told = figures_of(simulate(capacity.zone_silent, TwoChoices, SMALL))
    assert told["lost"] > 20
    late_s = workers.PATIENCE_S + workers.REPORT_INTERVAL_S
    assert workers.PATIENCE_S < told["recovery_p50_s"] < late_s + 2, "reports may be so late"


def test_of_two_is_more_even_than_one_at_random() -> None:
    two, one = (
        figures_of(simulate(capacity.zone_lost, choice, Scale(400, 12)))
        for choice in (TwoChoices, AtRandom)
    )
    assert two["arrived_fullest_over_mean"] < one["arrived_fullest_over_mean"]


def test_frames_of_a_window_take_their_time_beside_live_ones() -> None:
    with virtual(1) as loop:

        async def run() -> None:
            worker = SimulatedWorker("a:1", 0, MACHINE, random.Random(1))
            assert worker.understood_s(30) == pytest.approx(30 * MACHINE.frame_s)
            worker.sessions |= {str(number) for number in range(MACHINE.sessions)}
            live = MACHINE.sessions * MACHINE.live_share
            later = 30 * MACHINE.frame_s * (1 + 1 / (1 - live))
            assert worker.understood_s(30) == pytest.approx(later)
            with pytest.raises(grpc.aio.AioRpcError):
                worker.admit("one too many")
            assert worker.refused == 1

        loop.run_until_complete(run())


def test_sessions_that_leave_make_room() -> None:
    with virtual(1) as loop:

        async def run() -> None:
            cluster = Cluster(
                MACHINE, gateways=2, workers=1, zones=1, choice=TwoChoices, rng=random.Random(1)
            )
            cluster.open(100, over_s=1, stay_s=20)
            await cluster.watch(10)
            assert cluster.account.turned_away > 0
            await cluster.watch(300)
            assert len(cluster.account.placed_s) == 100
            assert cluster.account.moments[-1].placed == 0
            await cluster.aclose()

        loop.run_until_complete(run())
