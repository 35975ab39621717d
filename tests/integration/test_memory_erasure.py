"""What was remembered of a session is gone with it, whatever was under way."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from services.dialogue.config import DialogueConfig
from services.dialogue.moment_calls import MomentCalls
from services.dialogue.moments import MomentStore
from services.dialogue.store import RedisStore
from sightline.v1 import dialogue_pb2 as pb
from tests.processes import RedisServer

pytestmark = pytest.mark.needs("redis")

NS = 1_000_000_000
LINE, HEARD, PICTURE = "an aardvark in the kitchen", "look at that aardvark", b"jpeg of an aardvark"


def kept(server: RedisServer) -> dict[str, str]:
    """All that is in Redis, as text by its key, but for the notes that a session is gone."""
    found = {}
    with redis.Redis.from_url(server.url) as client:
        for key in client.scan_iter(count=1000):
            if key.startswith(b"sightline:memory-gone:"):
                assert 0 < client.pttl(key) <= 3600 * 1000
                continue
            read: dict[bytes, Callable[[], Any]] = {
                b"string": lambda key=key: client.get(key),
                b"hash": lambda key=key: client.hgetall(key),
                b"stream": lambda key=key: client.xrange(key),
            }
            found[key.decode()] = str(read[client.type(key)]())
    return found


class Gateway:
    """One gateway's line to a dialogue service of its own, over the Redis that all share."""

    def __init__(self, server: RedisServer) -> None:
        config = DialogueConfig.from_env(
            {
                "DIALOGUE_REDIS_URL": server.url,
                "DIALOGUE_REDIS_TIMEOUT_S": "20",
                "DIALOGUE_MEMORY_BYTES_PER_HOUR": "65536",
                "DIALOGUE_MEMORY_S": "3600",
            }
        )
        self.store = RedisStore(config)
        self.calls = MomentCalls(MomentStore(config, self.store))

    async def keep(self, session: str, number: int) -> None:
        start_ns = (1_800_000_000 + number * 15) * NS
        moment = pb.Moment(
            start_ns=start_ns,
            end_ns=start_ns + 15 * NS,
            line=LINE,
            heard=HEARD,
            pictures=[PICTURE] * 3,
            embedding=b"\x01" * 64,
        )
        await self.calls.KeepMoment(pb.KeepMomentRequest(session=session, moment=moment), None)

    async def read(self, session: str) -> list[pb.Moment]:
        wanted = pb.ListMomentsRequest(session=session, pictures=True)
        return list((await self.calls.ListMoments(wanted, None)).moments)

    async def forget(self, session: str) -> None:
        await self.calls.ForgetMoments(pb.ForgetMomentsRequest(session=session), None)


@pytest.mark.parametrize("seed", range(4))
async def test_no_line_picture_or_key_comes_back(redis_server: RedisServer, seed: int) -> None:
    """Gateways of which one had the session and one has it write, read and erase, in any order."""
    chance = random.Random(seed)
    gateways = [Gateway(redis_server) for _ in range(3)]
    await gateways[0].keep("another", 1)
    for number in range(15):
        session = f"{seed:08x}{number:08x}"
        for gateway in gateways:
            for each in range(3):
                await gateway.keep(session, each)
        assert await gateways[1].read(session)
        await _amid(gateways, session, chance)
        left = kept(redis_server)
        assert not [key for key, text in left.items() if session in key or session in text]
        assert await gateways[2].read(session) == []
    assert set(left) == {"sightline:memory:another", "sightline:memory-pictures:another"}
    (other,) = await gateways[1].read("another")
    assert (other.line, list(other.pictures)) == (LINE, [PICTURE] * 3), "it is not touched"
    for gateway in gateways:
        await gateway.store.aclose()


async def _amid(gateways: list[Gateway], session: str, chance: random.Random) -> None:
    """Whatever may be under way around a deletion, most of which is over after it."""
    works: list[Callable[[], Awaitable[Any]]] = []
    for gateway in gateways:
        for _ in range(4):
            number = chance.choice([1, 2, 3, 90, 400])  # twice, later, after all others are too old
            works.append(lambda gateway=gateway, number=number: gateway.keep(session, number))
            works.append(lambda gateway=gateway: gateway.read(session))
    works += [lambda: chance.choice(gateways).forget(session)] * 3

    async def work(one: Callable[[], Awaitable[Any]]) -> None:
        await asyncio.sleep(chance.random() * 0.02)
        await one()

    await asyncio.gather(*map(work, works))
