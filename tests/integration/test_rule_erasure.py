"""What is deleted stays deleted: nothing of a session is left in Redis, whatever was under way."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from services.gateway.rules.event_store import EventStore
from services.gateway.rules.records import Records
from services.gateway.rules.rule_store import RuleStore
from services.gateway.rules.webhook_store import WebhookStore
from sightline.errors import NotFoundError
from sightline.v1 import gateway_pb2, peer_pb2
from sightline.v1 import rules_pb2 as pb
from tests.eventually import eventually
from tests.processes import RedisServer
from tests.rule_parts import PHONE, Shown, events_of, phone, receiving, settings, until
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import Parts, picture, running

pytestmark = pytest.mark.needs("redis")

PICTURE = b"a picture of the kitchen"


def kept(server: RedisServer) -> dict[str, str]:
    """All that is in Redis, as text by its key."""
    with redis.Redis.from_url(server.url) as client:
        found = {}
        for key in client.scan_iter(count=1000):
            read: dict[bytes, Callable[[], Any]] = {
                b"string": lambda key=key: client.get(key),
                b"hash": lambda key=key: client.hgetall(key),
                b"stream": lambda key=key: client.xrange(key),
                b"set": lambda key=key: client.smembers(key),
                b"zset": lambda key=key: client.zrange(key, 0, -1),
                b"list": lambda key=key: client.lrange(key, 0, -1),
            }
            found[key.decode()] = str(read[client.type(key)]())
        return found


def left_of(server: RedisServer, *words: str) -> dict[str, str]:
    """What names or holds one of these words, but for the notes that a session is gone, which run
    out."""
    with redis.Redis.from_url(server.url) as client:
        for key in client.scan_iter("sightline:rules:gone:*"):
            assert 0 < client.pttl(key) <= 600_000
    return {
        key: text
        for key, text in kept(server).items()
        if not key.startswith("sightline:rules:gone:")
        and any(word in key or word in text for word in words)
    }


class Stores:
    """The stores of rules, each call on a connection of its own."""

    def __init__(self, parts: Parts) -> None:
        self.records = Records(parts.config)
        self.rules = RuleStore(self.records, parts.config)
        self.events = EventStore(self.records, parts.config)
        self.hooks = WebhookStore(self.records, 8)


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_that_was_under_way_comes_back(redis_server: RedisServer, seed: int) -> None:
    """Every write of rules, in any order, around the deletion of their session."""
    chance = random.Random(seed)
    async with running(FakeWorker(), **settings(redis_server)) as parts:
        stores = Stores(parts)
        for number in range(15):
            session = f"{seed:08x}{number:08x}"
            await _delete_amid(stores, session, chance)
            assert left_of(redis_server, session, "kitchen") == {}
        await stores.records.aclose()


async def _delete_amid(stores: Stores, session: str, chance: random.Random) -> None:
    rules, events = stores.rules, stores.events
    rule = pb.Rule(rule=f"r_{session}_00000000", session=session, name=f"kitchen {session}")
    record = peer_pb2.RuleRecord(rule=rule, tenant="t")
    await rules.create(record)
    hook = peer_pb2.WebhookRecord(webhook=pb.Webhook(webhook=f"w_{session}", session=session))
    await stores.hooks.create(hook)
    assert await stores.hooks.claim(f"w_{session}", "we")
    number = 0

    async def tell() -> None:
        nonlocal number
        number += 1
        state = pb.RuleState(events=number, text="in the kitchen")
        event = pb.RuleEvent(session=session, session_name="kitchen", picture=True)
        told = await events.tell(record, state, event, PICTURE, 1)
        if told.event:
            await asyncio.gather(clip(told.event), acknowledge(told.event))

    async def clip(event: str) -> None:
        await asyncio.sleep(chance.random() * 0.01)
        await events.add_clip("t", event, b"a film of the kitchen")

    async def acknowledge(id: str) -> None:
        if (event := await events.get(["t"], id)) is not None:
            await asyncio.sleep(chance.random() * 0.01)
            await events.acknowledge(event, pb.Acknowledgement(note="kitchen"))

    checks = peer_pb2.RuleChecks(checks={rule.rule: pb.RuleCheck(value="kitchen")})
    more = peer_pb2.RuleRecord(tenant="t")
    more.rule.CopyFrom(rule)
    more.rule.rule, more.rule.name = f"r_{session}_00000001", f"more of the kitchen {session}"
    writes: list[Callable[[], Awaitable[Any]]] = [
        *[tell] * 4,
        lambda: rules.note_checks(session, checks),
        lambda: rules.note_wrong(session, rule.rule, "kitchen?"),
        lambda: rules.note_wrong(session, rule.rule, ""),
        lambda: rules.create(more),
        lambda: rules.keep([session]),
        lambda: stores.hooks.note(f"w_{session}", "we", 1, "kitchen"),
        lambda: stores.hooks.claim(f"w_{session}", "we"),
    ]

    async def write(one: Callable[[], Awaitable[Any]]) -> None:
        await asyncio.sleep(chance.random() * 0.02)
        with contextlib.suppress(NotFoundError):  # the session was deleted
            await one()

    async def delete() -> None:
        await asyncio.sleep(chance.random() * 0.02)
        await events.erase("t", session)
        await asyncio.sleep(chance.random() * 0.01)
        await rules.erase(session, "t")
        await stores.hooks.delete(f"w_{session}")

    chance.shuffle(writes)
    await asyncio.gather(delete(), *(write(each) for each in writes * 2))


async def test_a_session_that_goes_amid_deliveries_leaves_nothing(
    redis_server: RedisServer,
) -> None:
    worker = FakeWorker()
    chance = random.Random(5)
    async with receiving() as receiver:
        receiver.answers = [503]
        allowed = settings(redis_server, webhook_allow=("127.0.0.1",))
        async with running(worker, **allowed) as parts:
            hook = pb.CreateWebhookRequest(webhook=pb.Webhook(url=receiver.url))
            made = await parts.stub.CreateWebhook(hook)
            ids = []
            for number in range(6):
                worker.scores[PHONE] = 0.9
                session = await parts.push_session(name=f"room-{number}", key=f"key-{number}-long")
                ids.append(session.id)
                shown = Shown(parts, session)
                await shown.show()
                rule = phone(name=f"phones in room-{number}")
                await parts.stub.CreateRule(pb.CreateRuleRequest(session=session.id, rule=rule))
                tries = receiver.tries
                await events_of(parts, 1)
                if not number:
                    await eventually(lambda before=tries: receiver.tries > before)
                worker.scores[PHONE] = chance.choice((0.1, 0.9))
                delete = gateway_pb2.DeleteSessionRequest(session=session.id, events=True)
                shown._sink.take(picture(90))
                await asyncio.sleep(chance.random() * 0.2)
                await parts.stub.DeleteSession(delete)

                async def gone() -> bool:
                    return not (await parts.stub.ListRules(pb.ListRulesRequest())).rules

                await until(gone)
            await parts.stub.DeleteWebhook(pb.DeleteWebhookRequest(webhook=made.webhook))
            await eventually(lambda: not parts.rules.webhooks._deliveries)  # type: ignore[union-attr]
        assert left_of(redis_server, *ids, "room-", made.webhook) == {}


async def test_what_is_beside_an_event_goes_with_it(redis_server: RedisServer) -> None:
    """Also where pictures are kept for longer, and in greater numbers, than events."""
    async with running(FakeWorker(), **settings(redis_server, events=2)) as parts:
        stores = Stores(parts)
        rule = pb.Rule(rule="r_5e_0", session="5e", name="kitchen")
        record = peer_pb2.RuleRecord(rule=rule)
        await stores.rules.create(record)
        told = []
        for number in range(1, 5):
            state, event = pb.RuleState(events=number), pb.RuleEvent(session="5e")
            found = await stores.events.tell(record, state, event, PICTURE, 1)
            told.append(found.event)
            assert await stores.events.add_clip("", found.event, b"a film")
            [kept_event] = [await stores.events.get([""], found.event)]
            assert kept_event is not None
            await stores.events.acknowledge(kept_event, pb.Acknowledgement(time_ns=time.time_ns()))
        for beside in ("events", "pictures", "clips", "acks"):
            text = kept(redis_server)[f"sightline:rules:{beside}:"]
            assert [event for event in told if event in text] == told[2:], beside
        assert not await stores.events.add_clip("", told[0], b"a film that comes late")
        await stores.records.aclose()
