"""Webhooks of rules: signed, tried again, handed on by gateways, and never leading inside."""

import asyncio
import base64
import hashlib
import hmac
import json

import grpc
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.gateway.rules import delivery
from sightline.v1 import rules_pb2 as pb
from tests.eventually import eventually
from tests.processes import RedisServer, free_port
from tests.rule_parts import (
    PHONE,
    Shown,
    events_of,
    phone,
    receiving,
    settings,
    until,
    webhook_state,
)
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import running

pytestmark = pytest.mark.needs("redis")


async def test_webhooks_bring_every_event_once_signed(redis_server: RedisServer) -> None:
    worker = FakeWorker()
    worker.scores[PHONE] = 0.9
    allowed = settings(redis_server, webhook_allow=("127.0.0.1",))
    async with receiving() as receiver, running(worker, **allowed) as parts:
        receiver.answers = [503, 500, 200]
        hook = pb.Webhook(url=receiver.url)
        made = await parts.stub.CreateWebhook(pb.CreateWebhookRequest(webhook=hook))
        shown = Shown(parts, await parts.push_session(name="kitchen"))
        await shown.show()
        await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=phone()))
        (event,) = await events_of(parts, 1)
        await eventually(lambda: receiver.got)
        assert receiver.tries == 3
        headers, body = receiver.got[0]
        assert headers["webhook-id"] == event.event
        signed = f"{event.event}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(made.secret.removeprefix("whsec_"))
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert json.loads(body)["data"]["session_name"] == "kitchen"

        receiver.answers = [410, 200]
        worker.scores[PHONE] = 0.1
        await shown.show()
        _, lost = await events_of(parts, 2)
        wanted = pb.ListDeadLettersRequest(webhook=made.webhook)

        async def dead() -> list[pb.DeadLetter]:
            return list((await parts.stub.ListDeadLetters(wanted)).letters)

        letters = [(each.event, each.reason) for each in await until(dead)]
        assert letters == [(lost.event, "status 410")]
        worker.scores[PHONE] = 0.9
        await shown.show()
        *_, last = await events_of(parts, 3)
        await eventually(lambda: len(receiver.got) == 2)
        assert receiver.got[1][0]["webhook-id"] == last.event

        async def both() -> pb.WebhookState | None:
            state = await webhook_state(parts)
            return state if state.delivered == 2 else None

        state = await until(both)
        assert state is not None
        assert (state.dead, state.failures, state.error) == (1, 0, "")
        await parts.stub.DeleteWebhook(pb.DeleteWebhookRequest(webhook=made.webhook))
        assert not (await parts.stub.ListWebhooks(pb.ListWebhooksRequest())).webhooks


async def test_a_webhook_goes_on_where_another_gateway_ended(redis_server: RedisServer) -> None:
    """What came while nobody could deliver comes later, and nothing comes twice."""
    worker = FakeWorker()
    worker.scores[PHONE] = 0.9
    allowed = settings(redis_server, webhook_allow=("127.0.0.1",))
    async with receiving() as receiver:
        receiver.answers = [503]
        async with running(worker, **allowed) as parts:
            hook = pb.Webhook(url=receiver.url)
            await parts.stub.CreateWebhook(pb.CreateWebhookRequest(webhook=hook))
            shown = Shown(parts, await parts.push_session(name="kitchen"))
            await shown.show()
            await parts.stub.CreateRule(pb.CreateRuleRequest(session="kitchen", rule=phone()))
            (event,) = await events_of(parts, 1)
            await eventually(lambda: receiver.tries)
        assert not receiver.got
        receiver.answers = [200]
        async with running(FakeWorker(), **allowed), running(FakeWorker(), **allowed):
            await eventually(lambda: receiver.got)
            await asyncio.sleep(0.2)
        assert [headers["webhook-id"] for headers, _ in receiver.got] == [event.event]


async def test_a_receiver_that_was_down_is_brought_what_is_left_once(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers have no end; and what was erased meanwhile is not brought."""
    monkeypatch.setattr(delivery, "BACKOFF_S", (0.05, 0.2))
    port, got = free_port(), []

    async def take(request: web.Request) -> web.StreamResponse:
        got.append(request.headers["webhook-id"])
        reply = web.StreamResponse()
        await reply.prepare(request)
        await asyncio.Event().wait()
        return reply

    worker = FakeWorker()
    worker.scores[PHONE] = 0.9
    allowed = settings(redis_server, webhook_allow=("127.0.0.1",))
    async with running(worker, **allowed) as parts:
        hook = pb.Webhook(url=f"http://127.0.0.1:{port}/hook")
        await parts.stub.CreateWebhook(pb.CreateWebhookRequest(webhook=hook))
        secret, shown = [
            Shown(parts, await parts.push_session(name=name, key=f"key-of-{name}"))
            for name in ("secret", "open")
        ]
        await secret.show()
        await parts.stub.CreateRule(pb.CreateRuleRequest(session="secret", rule=phone(name="s")))
        await events_of(parts, 1)

        async def refused() -> bool:
            return (await webhook_state(parts)).failures > 1

        await until(refused)
        await shown.show()
        await parts.stub.CreateRule(pb.CreateRuleRequest(session="open", rule=phone()))
        await events_of(parts, 2)
        worker.scores[PHONE] = 0.1
        await shown.show()
        wanted = [each.event for each in await events_of(parts, 3) if each.rule_name == "phones"]
        assert parts.rules is not None
        await parts.rules.erase_events(secret.session)
        app = web.Application(handler_args={"handler_cancellation": True})
        app.router.add_post("/hook", take)
        async with TestServer(app, port=port):
            await eventually(lambda: len(got) >= 2)

            async def both() -> bool:
                return (await webhook_state(parts)).delivered == 2

            await until(both)
        assert got == wanted


async def test_webhooks_lead_nowhere_inside_unless_allowed(redis_server: RedisServer) -> None:
    async with running(FakeWorker(), **settings(redis_server)) as parts:
        for url in ("https://127.0.0.1/hook", "https://localhost/hook", "http://93.184.216.34/"):
            wanted = pb.CreateWebhookRequest(webhook=pb.Webhook(url=url))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await parts.stub.CreateWebhook(wanted)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
