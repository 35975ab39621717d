"""The gate that every service counts its calls with."""

import asyncio

import pytest

from services.common.in_flight import InFlight
from sightline.errors import ResourceExhaustedError, UnavailableError


async def test_it_counts_and_refuses_one_too_many() -> None:
    counts = list[int]()
    gate = InFlight("answers", owner="the worker", most=2, changed=counts.append)
    with gate.under_way(), gate.under_way():
        with pytest.raises(ResourceExhaustedError, match="2 answers are under way already"):
            gate.under_way().__enter__()
        with pytest.raises(ResourceExhaustedError):
            gate.check()
    gate.check()
    assert counts == [1, 2, 1, 0]


async def test_a_drain_waits_for_those_under_way_also_when_others_ended_before() -> None:
    """An event that was set once by an earlier call and never cleared let it through."""
    gate = InFlight("answers", owner="the worker")
    with gate.under_way():
        pass
    with gate.under_way():
        drain = asyncio.create_task(gate.drain())
        await asyncio.sleep(0)
        assert not drain.done()
        with pytest.raises(UnavailableError, match="the worker is draining"):
            gate.check()
    assert await drain
    assert gate.draining


async def test_a_drain_gives_up_in_time_and_one_without_calls_is_over_at_once() -> None:
    gate = InFlight("answers", owner="the worker")
    with gate.under_way():
        assert not await gate.drain(0.01)
    assert await gate.drain(0.0) or gate.count == 0
    assert await gate.drain()


async def test_a_call_that_fails_is_over() -> None:
    gate = InFlight("answers", owner="the worker", most=1)
    with pytest.raises(KeyError), gate.under_way():
        raise KeyError
    assert gate.count == 0
    gate.check()
