"""Secrets of rules: planted wherever one fits, and looked for in all that anybody may read."""

import contextlib
import io
import json
import logging
from collections.abc import Iterator

import grpc
import pytest
from prometheus_client import REGISTRY, generate_latest

import sightline.aio
from services.common.log import JsonFormatter
from sightline import cli
from sightline.mcp_rules import RuleTools
from sightline.v1 import rules_pb2 as pb
from tests.eventually import eventually
from tests.processes import RedisServer, free_port
from tests.rule_parts import (
    PHONE,
    SECRET,
    Shown,
    events_of,
    phone,
    receiving,
    settings,
    until,
    webhook_state,
)
from tests.unit.fake_worker import FakeWorker
from tests.unit.http_parts import served

pytestmark = pytest.mark.needs("redis")

PLANTED = "hunter2hunter2"
KEYED = f"https://shop.example/p?token={PLANTED}"


@contextlib.contextmanager
def logged() -> Iterator[io.StringIO]:
    """All that is logged, as a service writes it, but for what the receiver is asked."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter("gateway"))
    handler.addFilter(lambda record: record.name != "aiohttp.access")
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield written
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


async def test_no_secret_is_told_to_anybody(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = FakeWorker()
    worker.scores[PHONE] = 0.9
    broker = f"mqtt://home:{PLANTED}@127.0.0.1:{free_port()}"
    allowed = settings(redis_server, webhook_allow=("127.0.0.1",), mqtt_url=broker)
    told = []
    with logged() as log:
        async with receiving() as receiver, served(worker, **allowed) as (parts, http):
            receiver.answers = [503, 410]
            url = f"{receiver.url}?token={PLANTED}"
            made = await parts.stub.CreateWebhook(
                pb.CreateWebhookRequest(webhook=pb.Webhook(url=url))
            )
            assert made.url == url, "whoever made it is told what was made"
            wanted = pb.CreateWebhookRequest(
                webhook=pb.Webhook(url=f"https://u:{PLANTED}@shop.example/")
            )
            with pytest.raises(grpc.RpcError) as refused:
                await parts.stub.CreateWebhook(wanted)
            told.append(refused.value.details())
            shown = Shown(parts, await parts.push_session(name="kitchen"))
            await shown.show()
            await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=phone()))
            [event] = await events_of(parts, 1)

            async def given_up() -> bool:
                return (await webhook_state(parts)).dead == 1

            await until(given_up)
            assert receiver.tries == 2
            await eventually(lambda: "no MQTT broker" in log.getvalue())

            paths = ("rules", "events", f"events/{event.event}", "webhooks", "info")
            told += [await (await http.get(f"/api/{path}")).text() for path in paths]
            table = await http.get("/api/events", headers={"Accept": "text/csv"})
            told.append(await table.text())
            dead = await http.get(f"/api/webhooks/{made.webhook}/dead")
            told.append(await dead.text())
            told.append(str(await parts.stub.ListRules(pb.ListRulesRequest())))
            told.append(str(await parts.stub.ListWebhooks(pb.ListWebhooksRequest())))
            for words in (["rules", "list"], ["events", "--csv"], ["webhooks", "list"]):
                for form in ([], ["--json"]):
                    if "--csv" not in words or not form:
                        await cli.run(["--server", parts.address, *words, *form])
            told.append("".join(capsys.readouterr()))
            assert "/hook?token=***" in told[-1], "which of the webhooks it is stays to be seen"
            async with sightline.aio.connect(parts.address) as client:
                tools = RuleTools(client)
                told.append(str([await tools.rules(), await tools.rule_events()]))
            told.append(generate_latest(REGISTRY).decode())
        told.append(log.getvalue())
    for secret in (PLANTED, SECRET, made.secret):
        for text in told:
            assert secret not in text


@pytest.mark.parametrize(
    "given",
    [
        {"predicate": {"condition": f"{KEYED} is shown"}},
        {"choice": {"statement": "it is {}", "options": ["a", KEYED]}},
        {"commentary": {"question": f"What of rtsp://u:{PLANTED}@cam/?"}},
        {"predicate": {"condition": PHONE}, "labels": {"camera": f"rtsp://u:{PLANTED}@cam/"}},
        {"predicate": {"condition": PHONE}, "name": KEYED},
        {"product": {"products": [{"sku": "1", "names": ["a mug"], "link": KEYED}]}},
        {
            "product": {
                "products": [
                    {"sku": "1", "names": ["a mug"], "picture": f"//u:{PLANTED}@shop.example/"}
                ]
            }
        },
    ],
)
async def test_a_rule_with_a_secret_is_refused(
    redis_server: RedisServer, given: dict[str, object]
) -> None:
    async with served(FakeWorker(), **settings(redis_server)) as (parts, http):
        await parts.push_session(name="kitchen")
        reply = await http.post("/api/sessions/kitchen/rules", json=given)
        problem = await reply.text()
        assert reply.status == 400, problem
        assert "no password or key" in json.loads(problem)["detail"]
        assert PLANTED not in problem
        fine = {
            "product": {
                "products": [
                    {"sku": "1", "names": ["a mug"], "link": "https://shop.example/p?id=4711"}
                ]
            }
        }
        assert (await http.post("/api/sessions/kitchen/rules", json=fine)).status == 201
        change = {"labels": {"labels": {"camera": KEYED}}}
        made = (await (await http.get("/api/rules")).json())["rules"]
        changed = await http.patch(f"/api/rules/{made[0]['rule']}", json=change)
        assert changed.status == 400
        assert PLANTED not in json.dumps(await (await http.get("/api/rules")).json())
