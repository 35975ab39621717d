"""Events that a receiver was not brought: each is counted, told with its reason, and the others are
brought once, whatever the receiver answers and whoever is killed."""

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis.asyncio
from prometheus_client import REGISTRY

from services.gateway.config import GatewayConfig
from services.gateway.rules import delivery, posting
from services.gateway.rules.event_store import EventStore
from services.gateway.rules.records import Records
from services.gateway.rules.rule_store import RuleStore
from sightline.errors import UnavailableError
from sightline.v1 import gateway_pb2_grpc, peer_pb2
from sightline.v1 import rules_pb2 as pb
from tests.eventually import eventually
from tests.processes import REDIS_TIMEOUT_S, RedisServer, ServiceProcess, free_port
from tests.rule_parts import PHONE, SECRET, Shown, phone, receiving, settings, until
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import running

pytestmark = pytest.mark.needs("redis")

KEPT = 5


class Teller:
    """Tells events as a gateway that has a session does."""

    def __init__(self, config: GatewayConfig, tenant: str = "", session: str = "s") -> None:
        self._records = Records(config)
        self._events = EventStore(self._records, config)
        self._rules = RuleStore(self._records, config)
        of = f"{session}{tenant}"
        rule = pb.Rule(rule=f"r_{of}", name=f"phones of {session}", session=of)
        self._record = peer_pb2.RuleRecord(rule=rule, tenant=tenant)
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> "Teller":
        await self._rules.create(self._record)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._records.aclose()

    async def tell(self, count: int, severity: Any = pb.SEVERITY_INFO) -> list[str]:
        """Ids of so many more events."""
        told = []
        for number in itertools.islice(self._numbers, count):
            state = pb.RuleState(events=number)
            event = pb.RuleEvent(number=number, session=self._record.rule.session)
            event.severity = severity
            told.append((await self._events.tell(self._record, state, event, b"", 1)).event)
        assert all(told)
        return told

    async def forget(self) -> None:
        """What a gateway does every ten minutes."""
        await self._events.trim([self._record.tenant])

    async def erase(self) -> None:
        await self._events.erase(self._record.tenant, self._record.rule.session)


async def _made(stub: Any, url: str, **more: Any) -> str:
    wanted = pb.CreateWebhookRequest(webhook=pb.Webhook(url=url, **more))
    made: pb.Webhook = await stub.CreateWebhook(wanted)
    return made.webhook


async def _states(stub: Any) -> dict[str, pb.WebhookState]:
    found = await stub.ListWebhooks(pb.ListWebhooksRequest())
    return {each.webhook: each.state for each in found.webhooks}


async def _letters(stub: Any, webhook: str) -> dict[str, str]:
    found = await stub.ListDeadLetters(pb.ListDeadLettersRequest(webhook=webhook))
    return {each.event: each.reason for each in reversed(found.letters)}


def _counted(reason: str) -> float:
    name = "sightline_webhook_dead_letters_total"
    return REGISTRY.get_sample_value(name, {"reason": reason}) or 0.0


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BACKOFF_S", (0.05, 0.2))


@pytest.mark.usefixtures("_soon")
async def test_what_makes_room_before_it_is_taken_is_a_dead_letter(
    redis_server: RedisServer,
) -> None:
    """Of those that a receiver wants, and of those alone that it had not taken."""
    port = free_port()
    allowed = settings(redis_server, webhook_allow=("127.0.0.1",), events=KEPT)
    async with (
        receiving() as up,
        running(**allowed) as parts,
        Teller(parts.config) as teller,
        Teller(parts.config, "other") as other,
    ):
        before = _counted("not_kept")
        away = f"http://127.0.0.1:{port}/hook"
        down = await _made(parts.stub, away)
        grave = await _made(parts.stub, away, severity=pb.SEVERITY_CRITICAL)
        well = await _made(parts.stub, up.url)
        told = list[str]()

        async def tell(teller: Teller, count: int, **more: Any) -> None:
            """Tell events as slowly as whoever is well takes them."""
            for _ in range(count):
                told.extend(await teller.tell(1, **more))
                await eventually(lambda: len(up.got) == len(told))

        await tell(teller, 3)
        await tell(teller, 2, severity=pb.SEVERITY_CRITICAL)
        worse = told[3:]
        await tell(teller, 4)
        await tell(other, KEPT + 1)
        lost = [*told[:4], told[9]]  # four of one tenant's, and the first of the other's

        async def counted() -> bool:
            states = await _states(parts.stub)
            counts = [states[each].dead for each in (down, grave)]
            return counts == [5, 1] and states[well].delivered == len(told)

        await until(counted)
        state = (await _states(parts.stub))[well]
        assert (state.dead, state.error) == (0, "")
        letters = await _letters(parts.stub, down)
        assert letters == dict.fromkeys(lost, delivery.NOT_KEPT)
        assert list(await _letters(parts.stub, grave)) == [worse[0]]
        assert _counted("not_kept") - before == 6
        async with receiving(port=port) as again:
            await eventually(lambda: len(again.got) >= len(told) - 5 + 1)

            async def done() -> bool:
                states = await _states(parts.stub)
                return [states[each].delivered for each in (down, grave)] == [10, 1]

            await until(done)
        ids = [headers["webhook-id"] for headers, _ in again.got]
        assert sorted(ids) == sorted([each for each in told if each not in lost] + [worse[1]])
        assert [headers["webhook-id"] for headers, _ in up.got] == told


@pytest.mark.usefixtures("_soon")
async def test_what_grows_too_old_is_one_and_what_is_erased_is_none(
    redis_server: RedisServer,
) -> None:
    port = free_port()
    allowed = settings(redis_server, webhook_allow=("127.0.0.1",))
    async with running(**allowed) as parts, Teller(parts.config) as teller:
        hook = await _made(parts.stub, f"http://127.0.0.1:{port}/hook")
        told = await teller.tell(3)
        hasty = dataclasses.replace(parts.config, events_s=0.001)
        records = Records(hasty)
        await asyncio.sleep(0.01)
        await EventStore(records, hasty).trim([""])
        await records.aclose()

        async def dead() -> dict[str, str]:
            letters = await _letters(parts.stub, hook)
            return letters if len(letters) == 3 else {}

        assert await until(dead) == dict.fromkeys(told, delivery.NOT_KEPT)
        await teller.tell(2)
        await teller.erase()
        async with Teller(parts.config, session="another") as other:
            (last,) = await other.tell(1)

        async with receiving(port=port) as receiver:

            async def brought() -> bool:
                return (await _states(parts.stub))[hook].delivered > 0

            await until(brought)
        assert [headers["webhook-id"] for headers, _ in receiver.got] == [last]
        assert list(await _letters(parts.stub, hook)) == told


@contextlib.asynccontextmanager
async def _answering(*answers: bytes) -> AsyncIterator[tuple[str, list[float], list[str]]]:
    """A receiver that answers so, byte by byte; then that it took an event. With the moments of the
    tries, and what was taken. An empty answer: none, ever."""
    left, tries, taken = list(answers), list[float](), list[str]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            await reader.readexactly(int(fields["content-length"]))
            tries.append(time.monotonic())
            if not left:
                taken.append(fields["webhook-id"])
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            elif answer := left.pop(0):
                writer.write(answer)
            else:
                await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/hook", tries, taken


def _status(line: str, *headers: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {line}", *headers, "Content-Length: 0", "", "")).encode()


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize(
    ("answer", "dead"),
    [
        (_status("500 Oh"), ""),
        (_status("503 Busy", "Retry-After: soon"), ""),
        (_status("302 Found", "Location: http://127.0.0.1:1/inside"), ""),
        (_status("307 There", "Location: https://169.254.169.254/latest"), ""),
        (_status("410 Gone"), "status 410"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", ""),
        (b"HTTP/1.1 two hundred\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", ""),
        (b"\x00\xff" * 20_000, ""),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, ""),
        (b"", ""),
    ],
    ids=lambda value: value[:16].decode("ascii", "replace") if isinstance(value, bytes) else "",
)
async def test_whatever_a_receiver_answers_every_event_is_brought_once(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, answer: bytes, dead: str
) -> None:
    monkeypatch.setattr(posting, "TIMEOUT_S", 0.5)
    allowed = settings(redis_server, webhook_allow=("127.0.0.1",))
    async with (
        _answering(answer, answer) as (url, tries, taken),
        running(**allowed) as parts,
        Teller(parts.config) as teller,
    ):
        hook = await _made(parts.stub, url)
        told = await teller.tell(3)
        left = told[2:] if dead else told
        await eventually(lambda: len(taken) >= len(left))

        async def over() -> bool:
            return (await _states(parts.stub))[hook].after == told[-1]

        await until(over)
        assert taken == left
        letters = dict.fromkeys(told[:2], dead) if dead else {}
        assert await _letters(parts.stub, hook) == letters
        assert len(tries) == (3 if dead else 5)


@pytest.mark.usefixtures("_soon")
async def test_a_receiver_says_when_to_try_again(redis_server: RedisServer) -> None:
    allowed = settings(redis_server, webhook_allow=("127.0.0.1",))
    busy = _status("429 Slowly", "Retry-After: 1")
    async with (
        _answering(busy) as (url, tries, taken),
        running(**allowed) as parts,
        Teller(parts.config) as teller,
    ):
        await _made(parts.stub, url)
        told = await teller.tell(1)
        await eventually(lambda: taken)
        assert taken == told
        assert tries[1] - tries[0] >= 0.99


async def test_a_killed_gateway_loses_no_count(redis_server: RedisServer, tmp_path: Path) -> None:
    """Both that could deliver are killed while the receiver is away; another goes on."""
    port = free_port()
    environment = {
        "GATEWAY_WORKERS": f"127.0.0.1:{free_port()}",
        "GATEWAY_REDIS_URL": redis_server.url,
        "GATEWAY_CLUSTER_SECRET": SECRET,
        "GATEWAY_WEBHOOK_ALLOW": "127.0.0.1",
        "GATEWAY_EVENTS": str(KEPT),
    }
    config = GatewayConfig(
        redis_url=redis_server.url,
        cluster_secret=SECRET,
        events=KEPT,
        redis_timeout_s=REDIS_TIMEOUT_S,
    )
    gateways = []
    try:
        for _ in range(2):
            own = {f"GATEWAY_{kind}_PORT": str(free_port()) for kind in ("PEER", "RTMP")}
            gateways.append(ServiceProcess("gateway", environment | own, tmp_path))
            await asyncio.to_thread(gateways[-1].start)
        async with Teller(config) as teller:
            async with grpc.aio.insecure_channel(gateways[0].address) as channel:
                stub = gateway_pb2_grpc.SightlineServiceStub(channel)
                hook = await _made(stub, f"http://127.0.0.1:{port}/hook")
                told = await teller.tell(KEPT + 2)

                async def lost() -> bool:
                    return (await _states(stub))[hook].dead == 2

                await until(lost)
            gateways[0].kill()
            told += await teller.tell(KEPT)
            gateways[1].kill()
            told += await teller.tell(KEPT)
            await asyncio.to_thread(gateways[1].restart)
            async with (
                receiving(port=port) as receiver,
                grpc.aio.insecure_channel(gateways[1].address) as channel,
            ):
                stub = gateway_pb2_grpc.SightlineServiceStub(channel)

                async def done() -> bool:
                    return (await _states(stub))[hook].delivered == KEPT

                await until(done)
                letters = await _letters(stub, hook)
                assert list(letters) == told[:-KEPT]
                assert set(letters.values()) == {delivery.NOT_KEPT}
                assert [head["webhook-id"] for head, _ in receiver.got] == told[-KEPT:]
    finally:
        for gateway in gateways:
            gateway.kill()


async def test_a_redis_that_comes_back_empty_is_told_and_takes_rules_again(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    worker = FakeWorker()
    worker.scores[PHONE] = 0.9
    allowed = settings(redis_server, webhook_allow=("127.0.0.1",))
    async with receiving() as receiver, running(worker, **allowed) as parts:
        shown = Shown(parts, await parts.push_session(name="kitchen"))
        await shown.show()
        for _ in range(2):
            await _made(parts.stub, receiver.url)
            await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=phone()))
            count = len(receiver.got)
            await eventually(lambda: len(receiver.got) > count)  # noqa: B023
            async with redis.asyncio.Redis.from_url(redis_server.url) as client:
                await client.flushall()
            await eventually(lambda: "Redis has lost rules" in caplog.text)
            assert not (await parts.stub.ListRules(pb.ListRulesRequest())).rules
            assert not (await parts.stub.ListWebhooks(pb.ListWebhooksRequest())).webhooks
            caplog.clear()


@pytest.mark.usefixtures("_soon")
async def test_a_full_redis_keeps_no_event_from_its_receiver(redis_server: RedisServer) -> None:
    port = free_port()
    allowed = settings(redis_server, webhook_allow=("127.0.0.1",), events=KEPT)
    async with (
        running(**allowed) as parts,
        Teller(parts.config) as teller,
        redis.asyncio.Redis.from_url(redis_server.url) as client,
    ):
        hook = await _made(parts.stub, f"http://127.0.0.1:{port}/hook")
        told = await teller.tell(KEPT + 1)
        await client.config_set("maxmemory", "1")
        with pytest.raises(UnavailableError):
            await teller.tell(1)
        shorter = dataclasses.replace(parts.config, events=KEPT - 1)
        records = Records(shorter)
        await EventStore(records, shorter).trim([""])
        await records.aclose()
        async with receiving(port=port) as receiver:

            async def over() -> bool:
                state = (await _states(parts.stub))[hook]
                return (state.delivered, state.dead) == (KEPT - 1, 2)

            await until(over)
        assert [headers["webhook-id"] for headers, _ in receiver.got] == told[2:]
        assert list(await _letters(parts.stub, hook)) == told[:2]
