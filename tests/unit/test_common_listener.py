"""Who comes in at a port, who leaves for that, and who is refused."""

import asyncio
import contextlib
import errno
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from services.common import descriptors
from services.common.listener import DoorLimits, Listener, Visit
from services.common.places import Trusted


class _Door:
    """A listener on the loopback interface, and those who came."""

    def __init__(self, limits: DoorLimits, trusted: Trusted) -> None:
        self.counts: Counter[str] = Counter()
        self.visits: list[Visit] = []
        self.listener = Listener(self._arrived, limits=limits, trusted=trusted, count=self._count)
        self.clients: list[socket.socket] = []

    def _count(self, reason: str) -> None:
        self.counts[reason] += 1

    def _arrived(self, visit: Visit) -> asyncio.Protocol:
        self.visits.append(visit)
        return asyncio.Protocol()

    async def knock(self, host: str = "127.0.0.1", *, number: int = 1) -> list[socket.socket]:
        loop = asyncio.get_running_loop()
        came = []
        for _ in range(number):
            client = socket.socket()
            client.setblocking(False)
            client.bind((host, 0))
            await loop.sock_connect(client, ("127.0.0.1", self.listener.port))
            came.append(client)
        self.clients += came
        for _ in range(5):
            await asyncio.sleep(0)
        return came

    async def is_open(self, client: socket.socket) -> bool:
        for _ in range(5):  # in which a connection that was left is closed
            await asyncio.sleep(0)
        try:
            return bool(client.recv(1))
        except BlockingIOError:
            return True
        except ConnectionError:
            return False


@contextlib.asynccontextmanager
async def _door(trusted: Trusted | None = None, **limits: float) -> AsyncIterator[_Door]:
    door = _Door(DoorLimits(**limits), trusted or Trusted())  # type: ignore[arg-type]
    await door.listener.start("127.0.0.1", 0)
    try:
        yield door
    finally:
        await door.listener.aclose()
        for visit in door.visits:
            if visit.transport is not None:
                visit.transport.abort()
        for client in door.clients:
            client.close()


async def test_the_oldest_who_wait_leave_for_newcomers() -> None:
    async with _door(waiting_per_place=3) as door:
        first, second, *_ = await door.knock(number=3)
        door.visits[1].settle()
        newest = await door.knock(number=2)
        assert not await door.is_open(first)
        assert await door.is_open(second)
        assert all([await door.is_open(client) for client in newest])
        assert door.counts["evicted"] == 1


async def test_of_one_address_only_its_own_leave() -> None:
    async with _door(waiting_per_place=2, waiting=100) as door:
        (other,) = await door.knock("127.0.0.2")
        await door.knock("127.0.0.1", number=10)
        assert await door.is_open(other)
        assert door.counts["evicted"] == 8


async def test_who_comes_too_often_is_refused_for_a_while() -> None:
    async with _door(new_at_once=5, new_per_s=0.001) as door:
        await door.knock(number=8)
        assert len(door.visits) == 5
        assert door.counts["refused_rate"] == 3
        await door.knock("127.0.0.2")
        assert len(door.visits) == 6


async def test_a_trusted_proxy_may_come_as_often_as_it_likes() -> None:
    async with _door(Trusted(["127.0.0.1"]), new_at_once=1, waiting_per_place=1) as door:
        await door.knock(number=20)
        assert len(door.visits) == 20
        assert not door.counts


async def test_where_all_are_at_work_newcomers_are_refused() -> None:
    async with _door(settled_per_place=2) as door:
        await door.knock(number=2)
        for visit in door.visits:
            visit.settle()
        (late,) = await door.knock()
        assert not await door.is_open(late)
        assert door.counts["refused_full"] == 1
        (other,) = await door.knock("127.0.0.2")
        assert await door.is_open(other)


async def test_who_says_nothing_for_too_long_has_to_leave() -> None:
    async with _door(wait_s=5) as door:
        (slow, quick) = await door.knock(number=2)
        door.visits[1].settle()
        door.listener.sweep(time.monotonic() + 6)
        await asyncio.sleep(0)
        assert not await door.is_open(slow)
        assert await door.is_open(quick)
        assert door.counts["too_slow"] == 1
        visit = door.listener.visit_of(door.visits[1].transport)
        assert visit is door.visits[1]
        visit.wait(5)
        door.listener.sweep(time.monotonic() + 6)
        await asyncio.sleep(0)
        assert not await door.is_open(quick)
        assert door.listener.num_connections == 0


async def test_without_descriptors_accepting_pauses_and_the_oldest_leave(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Exhausted(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            raise OSError(errno.EMFILE, "Too many open files")

    async with _door() as door:
        clients = await door.knock(number=3)
        with Exhausted() as listening:
            asyncio.get_running_loop().add_reader(listening, door.listener._accept, listening)
            door.listener._accept(listening)
            assert not asyncio.get_running_loop().remove_reader(listening)
        await asyncio.sleep(0)
        assert [await door.is_open(client) for client in clients] == [False] * 3
        assert door.counts["no_descriptors"] == 1
        assert len(caplog.records) == 1
        (again,) = await door.knock()
        assert await door.is_open(again)


def test_limits_fit_the_descriptors_there_are() -> None:
    limits = DoorLimits().within(100)
    assert limits.waiting + limits.settled <= 100
    assert limits.waiting_per_place <= limits.waiting
    assert DoorLimits().within(1_000_000) == DoorLimits()
    assert 0 < descriptors.raise_limit() <= descriptors.MOST
