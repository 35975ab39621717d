"""Memory whose store is full, or away in mid-write: counted, and nothing else is hurt."""

from typing import Any, cast

import redis

from services.dialogue.config import DialogueConfig
from services.dialogue.moment_calls import MomentCalls
from services.dialogue.moments import MomentStore
from services.dialogue.store import RedisStore
from services.gateway import metrics
from services.gateway.memory.diary import Diary
from sightline.v1 import dialogue_pb2
from tests.processes import REDIS_TIMEOUT_S, RedisServer
from tests.unit import test_diary

NS = 1_000_000_000


class Journal:
    """The store's own calls, without a wire."""

    def __init__(self, calls: MomentCalls) -> None:
        self._calls = calls

    async def keep(
        self, session: str, moment: dialogue_pb2.Moment
    ) -> dialogue_pb2.KeepMomentResponse:
        request = dialogue_pb2.KeepMomentRequest(session=session, moment=moment)
        return await self._calls.KeepMoment(request, None)  # type: ignore[arg-type]


def moments(outcome: str) -> float:
    return metrics.MOMENTS.labels(outcome)._value.get()


async def test_a_store_that_is_full_or_away_costs_the_moments_of_that_time_alone(
    redis_server: RedisServer,
) -> None:
    config = DialogueConfig(redis_url=redis_server.url, redis_timeout_s=REDIS_TIMEOUT_S)
    store = RedisStore(config)
    calls = MomentCalls(MomentStore(config, store))
    session = test_diary.Session()
    session.lines = [f"line {number}" for number in range(100)]
    diary = Diary(cast(Any, session), cast(Any, Journal(calls)), 15.0)
    began_ns = 100 * NS

    async def listed() -> list[str]:
        request = dialogue_pb2.ListMomentsRequest(session=session.id)
        reply = await calls.ListMoments(request, None)  # type: ignore[arg-type]
        return [moment.line for moment in reply.moments]

    async def a_scene_more(level: int) -> None:
        nonlocal began_ns
        began_ns = await test_diary.scenes(diary, [level], began_ns=began_ns)
        await diary.settle()

    for level in (100, 160):
        await a_scene_more(level)
    assert await listed() == ["line 0"]

    # Full
    client = redis.Redis.from_url(redis_server.url)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")
    before = moments("store_away")
    await a_scene_more(220)
    assert moments("store_away") == before + 1
    assert await listed() == ["line 0"], "what is kept can be read"

    # Away, in the middle of it all, and back
    redis_server.kill()
    await a_scene_more(100)
    assert moments("store_away") == before + 2
    redis_server.start()
    await a_scene_more(160)
    assert (await listed())[0] == "line 3"
    assert len(await listed()) == 2
    await diary.aclose()
    await store.aclose()
    client.close()
