"""Work that is done once, however often it is asked for."""

import asyncio

import pytest

from services.gateway.sessions.once import Once
from sightline.errors import InvalidArgumentError, UnavailableError
from sightline.reasons import Reason


class Bench:
    """A `Once` with a clock of its own, and work that ends when it is told to."""

    def __init__(self, most: int = 4, kept_s: float = 10.0) -> None:
        self.now_s = 0.0
        self.begun = 0
        self.cancelled = 0
        self.go_on = asyncio.Event()
        self.once: Once[int] = Once(
            "test",
            most=most,
            kept_s=kept_s,
            reason=Reason.TURN_REUSED,
            clock=lambda: self.now_s,
        )

    async def work(self) -> int:
        self.begun += 1
        number = self.begun
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return number

    async def ask(self, key: str = "k", asked: bytes = b"") -> int:
        return await self.once.do(key, asked, self.work)


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_asks_meanwhile_or_later_gets_the_same() -> None:
    bench = Bench()
    together = [asyncio.create_task(bench.ask()) for _ in range(3)]
    await _turns()
    bench.go_on.set()
    assert await asyncio.gather(*together) == [1, 1, 1]
    assert await bench.ask() == 1
    assert await bench.ask("other") == 2


async def test_a_key_stands_for_one_request() -> None:
    bench = Bench()
    bench.go_on.set()
    await bench.ask(asked=b"a")
    with pytest.raises(InvalidArgumentError) as refused:
        await bench.ask(asked=b"b")
    assert refused.value.reason == "TURN_REUSED"


async def test_one_that_leaves_takes_nothing_from_the_others() -> None:
    bench = Bench()
    first, second = asyncio.create_task(bench.ask()), asyncio.create_task(bench.ask())
    await _turns()
    first.cancel()
    await _turns()
    bench.go_on.set()
    assert await second == 1
    assert bench.cancelled == 0


async def test_what_nobody_waits_for_is_cancelled_and_begun_anew() -> None:
    bench = Bench()
    asking = asyncio.create_task(bench.ask())
    await _turns()
    asking.cancel()
    await _turns()
    assert bench.cancelled == 1
    assert len(bench.once) == 0
    bench.go_on.set()
    assert await bench.ask() == 2


async def test_failures_are_told_to_all_and_forgotten() -> None:
    bench = Bench()

    async def fail() -> int:
        await bench.go_on.wait()
        raise UnavailableError("away")

    together = [asyncio.create_task(bench.once.do("k", b"", fail)) for _ in range(2)]
    await _turns()
    bench.go_on.set()
    for outcome in await asyncio.gather(*together, return_exceptions=True):
        assert isinstance(outcome, UnavailableError)
    assert await bench.ask() == 1


async def test_results_are_kept_for_a_time_and_up_to_a_number() -> None:
    bench = Bench(most=3, kept_s=10)
    bench.go_on.set()
    assert await bench.ask() == 1
    bench.now_s = 9
    assert await bench.ask() == 1
    bench.now_s = 11
    assert await bench.ask() == 2
    for number in range(20):
        await bench.ask(f"k{number}")
        assert len(bench.once) <= 3


async def test_what_is_under_way_is_never_forgotten() -> None:
    bench = Bench(most=1, kept_s=0)
    first = asyncio.create_task(bench.ask("a"))
    await _turns()
    second = asyncio.create_task(bench.ask("b"))
    again = asyncio.create_task(bench.ask("a"))
    await _turns()
    bench.go_on.set()
    assert await asyncio.gather(first, second, again) == [1, 2, 1]
