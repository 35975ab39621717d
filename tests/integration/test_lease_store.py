"""Leases in a real Redis: who may take, renew and drop one, and what is found by what."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_client

from services.common.config import ConfigError
from services.gateway.cluster.lease_store import LeaseStore
from services.gateway.config import GatewayConfig
from sightline.errors import AlreadyExistsError, UnavailableError
from sightline.v1 import gateway_pb2, peer_pb2
from tests.eventually import PATIENCE_S, wait_until
from tests.processes import REDIS_TIMEOUT_S, RedisSentinel, RedisServer
from tests.rule_parts import until

pytestmark = pytest.mark.needs("redis")

LEASE_S = 3.0  # longer than a busy machine needs for the calls that find it running
SECRET = "a secret of thirty-two characters"
CONFIG = GatewayConfig(cluster_secret=SECRET, redis_timeout_s=REDIS_TIMEOUT_S)
Stores = Callable[..., Awaitable[LeaseStore]]


@dataclass(slots=True)
class Held:
    """As much of a session as its lease needs."""

    id: str
    fence: int = 1
    feed: Any = field(init=False)

    def __post_init__(self) -> None:
        self.feed = SimpleNamespace(placement=SimpleNamespace(fence=self.fence))


def session(name: str, fence: int = 1) -> Any:
    return Held(name, fence)


def record(key: str = "", name: str = "", tenant: str = "") -> peer_pb2.SessionRecord:
    shown = gateway_pb2.Session(name=name)
    return peer_pb2.SessionRecord(session=shown, key_digest=key, name=name, tenant=tenant)


@pytest.fixture
async def stores(redis_server: RedisServer) -> AsyncIterator[Stores]:
    """`await stores("one")`: the leases as that gateway sees them."""
    made: list[LeaseStore] = []

    async def store(owner: str, address: str = "", lease_s: float = 60.0) -> LeaseStore:
        config = replace(CONFIG, redis_url=redis_server.url, lease_s=lease_s)
        made.append(LeaseStore(config, owner))
        made[-1].address = address or f"{owner}:1"
        return made[-1]

    yield store
    for each in made:
        await each.aclose()


async def test_a_lease_is_its_owners_until_it_runs_out(stores: Stores) -> None:
    one, other = await stores("one", lease_s=LEASE_S), await stores("other", lease_s=LEASE_S)
    await one.register(session("a"), record())
    held = await other.take("a")
    assert held is not None
    assert (held.owner, held.fence) == ("one", 1)
    assert 0 < held.left_s <= LEASE_S
    assert await other.expired(9) == []
    assert await until(lambda: other.expired(9)) == ["a"]
    taken = await other.take("a")
    assert taken is not None
    assert (taken.owner, taken.address, taken.fence) == ("other", "other:1", 2)
    assert await one.renew(session("a", 1), record()) is None, "it has lost it"
    assert await other.renew(session("a", 2), record()) is False
    await one.free("a", 1)
    await one.drop("a", 1, record())
    assert (await other.get("a")) is not None, "neither is the old owner's to do"


async def test_an_owner_that_comes_late_keeps_what_nobody_took(stores: Stores) -> None:
    one = await stores("one", lease_s=LEASE_S)
    await one.register(session("a"), record())
    assert await until(lambda: one.expired(9)) == ["a"]
    assert await one.renew(session("a"), record()) is False
    assert await one.expired(9) == []


async def test_a_lease_is_given_by_its_number_or_freed(stores: Stores) -> None:
    one, other = await stores("one"), await stores("other")
    await one.register(session("a"), record())
    assert (await other.take("a", fence=7)).owner == "one"  # type: ignore[union-attr]
    assert (await other.take("a", fence=1)).owner == "other"  # type: ignore[union-attr]
    assert (await one.take("a", fence=1)).owner == "other", "once only"  # type: ignore[union-attr]
    await other.free("a", 2)
    assert (await one.take("a")).fence == 3  # type: ignore[union-attr]


async def test_a_process_that_came_back_takes_what_it_had(stores: Stores) -> None:
    before, now = await stores("one", "here:1"), await stores("two", "here:1")
    await before.register(session("a"), record())
    assert (await now.take("a")).owner == "two"  # type: ignore[union-attr]


async def test_what_was_deleted_stays_so(stores: Stores) -> None:
    one, other = await stores("one"), await stores("other")
    await one.register(session("a"), record("digest", "lobby"))
    await other.take("a", fence=1)
    await other.drop("a", 2, record("digest", "lobby"))
    assert await one.get("a") is None
    assert await one.find_by_key("digest") is None
    assert await one.renew(session("a", 1), record("digest", "lobby")) is None
    assert await one.take("a") is None
    assert await one.all() == []
    await other.register(session("b"), record("digest", "lobby"))


async def test_what_redis_has_lost_is_written_anew(
    stores: Stores, redis_server: RedisServer
) -> None:
    one, other = await stores("one"), await stores("other")
    await one.register(session("a"), record("digest", "lobby"))
    redis_client.Redis.from_url(redis_server.url).flushall()
    assert await one.renew(session("a", 4), record("digest", "lobby")) is False
    found = await other.find_by_key("digest")
    assert found is not None
    assert (found.session, found.owner, found.fence) == ("a", "one", 4)
    # Of two who write, the one with the older number gives way.
    assert await other.renew(session("a", 3), record()) is None
    assert await other.renew(session("a", 5), record()) is False
    assert await one.renew(session("a", 4), record()) is None


@pytest.mark.parametrize(
    ("mine", "theirs", "clash"),
    [
        (record(key="k"), record(key="k"), "KEY_TAKEN"),
        (record(name="n"), record(name="n"), "NAME_TAKEN"),
        (record(name="n", tenant="t"), record(name="n", tenant="t"), "NAME_TAKEN"),
        (record(key="k", name="n"), record(key="l", name="n"), "NAME_TAKEN"),
        (record(name="n", tenant="t"), record(name="n"), ""),
        (record(name="b:c", tenant="a"), record(name="c", tenant="a:b"), ""),
        (record(), record(), ""),
    ],
)
async def test_names_and_keys_are_of_one_session(
    stores: Stores, mine: peer_pb2.SessionRecord, theirs: peer_pb2.SessionRecord, clash: str
) -> None:
    one, other = await stores("one"), await stores("other")
    await one.register(session("a"), mine)
    if not clash:
        await other.register(session("b"), theirs)
        return
    with pytest.raises(AlreadyExistsError) as caught:
        await other.register(session("b"), theirs)
    assert caught.value.reason == clash
    assert await other.get("b") is None
    assert await other.find_by_key("l") is None, "nothing of it stays"
    await one.drop("a", 1, mine)
    await other.register(session("b"), theirs)


async def test_a_name_changes_where_it_is_free(stores: Stores) -> None:
    one = await stores("one")
    await one.register(session("a"), record(name="lobby"))
    await one.register(session("b"), record(name="door"))
    with pytest.raises(AlreadyExistsError):
        await one.rename(session("a"), "", "lobby", "door")
    await one.rename(session("a"), "", "lobby", "hall")
    await one.register(session("c"), record(name="lobby"))


async def test_gateways_and_their_use_of_sessions_are_known_for_a_while(stores: Stores) -> None:
    one, other = await stores("one", lease_s=LEASE_S), await stores("other")
    await one.register(session("a"), record())
    await other.use(["a"])
    assert await one.renew(session("a"), record()) is True
    await one.beat()
    await other.beat()
    assert await one.others() == ["other:1"]
    assert await other.others() == ["one:1"]

    async def alone() -> bool:
        await other.beat()
        return await other.others() == []

    assert await until(alone)
    await other.leave()
    assert await one.others() == []


async def test_while_redis_is_away_nobody_can_tell(
    stores: Stores, redis_server: RedisServer
) -> None:
    one = await stores("one")
    redis_server.kill()
    for call in (one.get("a"), one.take("a"), one.all(), one.beat(), one.find_by_key("k")):
        with pytest.raises(UnavailableError) as caught:
            await call
        assert caught.value.reason == "SESSIONS_AWAY"
        assert redis_server.url not in str(caught.value)


def test_a_url_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match="GATEWAY_REDIS_URL") as caught:
        LeaseStore(GatewayConfig(redis_url="http://user:secret@host"), "one")
    assert "secret" not in str(caught.value)


async def test_late_leases_are_those_of_others_that_run_out_soon(stores: Stores) -> None:
    one, other = await stores("one", lease_s=5.0), await stores("other", lease_s=60.0)
    await one.register(session("a"), record())
    await other.register(session("b"), record())
    (late,) = await other.late(5.0, 9)
    assert (late.session, late.owner, late.address, late.fence) == ("a", "one", "one:1", 1)
    assert await other.late(1.0, 9) == [], "it is renewed in time as yet"
    assert await one.late(5.0, 9) == [], "it is its own"
    taken = await other.take("a", late.fence)
    assert taken is not None
    assert (taken.owner, taken.fence) == ("other", 2)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica, in step."""
    servers = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        servers.append(RedisServer(tmp_path / name))
    first, second = servers
    first.start()
    second.options["replicaof"] = f"127.0.0.1 {first.port}"
    second.start()
    with redis_client.Redis.from_url(second.url) as client:
        wait_until(lambda: client.info("replication")["master_link_status"] == "up")
    yield first, second
    for server in servers:
        server.kill()


async def test_the_second_address_has_the_leases_once_it_takes_writes(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    first, second = pair
    urls = f"{first.url},{second.url}"
    config = replace(CONFIG, redis_url=urls, lease_s=60.0)
    one, other = LeaseStore(config, "one"), LeaseStore(config, "other")
    await one.register(session("a"), record(name="door"))
    with redis_client.Redis.from_url(first.url) as client:
        client.execute_command("WAIT", 1, 5000)
    first.kill()
    with pytest.raises(UnavailableError):
        await one.renew(session("a"), record(name="door"))
    assert (await other.get("a")) is not None, "a replica can be read"
    with redis_client.Redis.from_url(second.url) as client:
        client.replicaof("NO", "ONE")
    assert await one.renew(session("a"), record(name="door")) is False
    with pytest.raises(AlreadyExistsError):
        await other.register(session("b"), record(name="door"))
    await one.aclose()
    await other.aclose()


async def test_the_primary_that_sentinels_name_has_the_leases(
    pair: tuple[RedisServer, RedisServer], tmp_path: Path
) -> None:
    first, second = pair
    (tmp_path / "sentinel").mkdir()
    sentinel = RedisSentinel(tmp_path / "sentinel", first)
    sentinel.start()
    urls = f"redis://127.0.0.1:1/0,redis://127.0.0.1:{sentinel.port}/0"
    config = replace(CONFIG, redis_url=urls, redis_sentinel="sightline")
    store = LeaseStore(config, "one")
    try:
        with redis_client.Redis(port=sentinel.port) as client:
            wait_until(lambda: client.sentinel_slaves("sightline"))
        await store.register(session("a"), record(name="door"))
        first.kill()

        kept = None
        end_s = time.monotonic() + PATIENCE_S
        while kept is None and time.monotonic() < end_s:  # until the Sentinel has named another
            with contextlib.suppress(UnavailableError):
                kept = await store.renew(session("a"), record(name="door")) is False
            await asyncio.sleep(0.05)
        assert kept
    finally:
        await store.aclose()
        sentinel.kill()
    with redis_client.Redis.from_url(second.url) as client:
        assert client.exists("sightline:gateway:session:a"), "it is where the primary is now"


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"redis_url": "redis://one:6379/0,http://:open-sesame@two"}, "GATEWAY_REDIS_URL"),
        ({"redis_url": "unix:///a/socket", "redis_sentinel": "primary"}, "GATEWAY_REDIS_URL"),
        (
            {"redis_url": "redis://one", "redis_password_file": Path("/absent")},
            "GATEWAY_REDIS_PASSWORD_FILE",
        ),
    ],
)
def test_what_is_no_redis_is_refused_by_the_name_of_its_variable(
    settings: dict[str, Any], variable: str
) -> None:
    with pytest.raises(ConfigError, match=variable) as refused:
        LeaseStore(GatewayConfig(cluster_secret=SECRET, **settings), "one")
    assert "open-sesame" not in str(refused.value)
