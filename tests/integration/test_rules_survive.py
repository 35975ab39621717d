"""Standing rules with nobody looking: gateways and workers are killed, a receiver is away, and
every change is told once."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from aiohttp import web

from sightline.v1 import gateway_pb2, gateway_pb2_grpc
from sightline.v1 import rules_pb2 as pb
from tests.eventually import PATIENCE_S
from tests.processes import SHAPES, RedisServer, ServiceProcess, free_port
from tests.suite import passing_condition, write_clip

pytestmark = [pytest.mark.needs("redis"), pytest.mark.option]

WORKER = {
    "WORKER_MODEL": str(SHAPES),
    "WORKER_THREADS": "1",
    "WORKER_KV_MEMORY_BYTES": str(256 << 20),
}
SECONDS = 12.0  # of the clip, in which the condition begins to hold once and ceases once


class Receiver:
    """Takes events by HTTP unless it is away."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.away = False
        self.refused = 0

    async def take(self, request: web.Request) -> web.Response:
        if self.away:
            self.refused += 1
            return web.Response(status=503)
        self.ids.append(request.headers["webhook-id"])
        return web.Response()


@contextlib.asynccontextmanager
async def listening(receiver: Receiver) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        await runner.cleanup()


class Line:
    """The API of whichever gateway lives."""

    def __init__(self, gateway: ServiceProcess) -> None:
        self.channel = grpc.aio.insecure_channel(gateway.address)
        self.stub = gateway_pb2_grpc.SightlineServiceStub(self.channel)

    async def events(self, at_least: int) -> list[pb.RuleEvent]:
        """All events, the oldest first, once there are so many."""
        end_s = time.monotonic() + PATIENCE_S
        while True:
            reply = await self.stub.ListEvents(pb.ListEventsRequest(page_size=1000), timeout=10)
            if len(reply.events) >= at_least:
                return list(reversed(reply.events))
            assert time.monotonic() < end_s, f"{len(reply.events)} events, not {at_least}"
            await asyncio.sleep(0.1)


async def test_rules_outlive_whatever_is_killed(redis_server: RedisServer, tmp_path: Path) -> None:
    clip = write_clip(tmp_path, seed=5, seconds=SECONDS)
    workers = [ServiceProcess("inference_worker", WORKER, tmp_path) for _ in range(2)]
    for worker in workers:
        worker.start(120)
    environment = {
        "GATEWAY_WORKERS": ",".join(worker.address for worker in workers),
        "GATEWAY_MEDIA_ROOT": str(tmp_path),
        "GATEWAY_REDIS_URL": redis_server.url,
        "GATEWAY_CLUSTER_SECRET": "a secret of thirty-two characters",
        "GATEWAY_WEBHOOK_ALLOW": "127.0.0.1",
        "GATEWAY_RECORDING_S": "30",
        "GATEWAY_EVENT_CLIP_S": "1",
    }
    gateways = []
    for _ in range(2):
        own = {f"GATEWAY_{kind}_PORT": str(free_port()) for kind in ("PEER", "RTMP")}
        gateways.append(ServiceProcess("gateway", environment | own, tmp_path))
        gateways[-1].start()
    receiver = Receiver()
    try:
        async with listening(receiver) as url:
            one, other = map(Line, gateways)
            hook = pb.Webhook(url=url)
            await one.stub.CreateWebhook(pb.CreateWebhookRequest(webhook=hook), timeout=10)
            wanted = gateway_pb2.CreateSessionRequest(
                source=clip.path.name, options=gateway_pb2.SessionOptions(loop=True, name="hall")
            )
            session = await one.stub.CreateSession(wanted, timeout=30)
            rule = pb.Rule(
                name="passing",
                predicate=pb.PredicateRule(condition=passing_condition(clip)),
                interval_s=0.2,
                debounce_s=0.3,
            )
            # Made at the gateway that does not have the session.
            made = pb.CreateRuleRequest(session=session.id, rule=rule)
            await other.stub.CreateRule(made, timeout=10)
            began_s = time.monotonic()
            before = await one.events(2)

            # The worker that has it is killed: the other goes on from the window.
            state = await one.stub.GetSession(
                gateway_pb2.GetSessionRequest(session=session.id), timeout=10
            )
            workers[int(state.worker.removeprefix("worker ")) - 1].kill()
            receiver.away = True
            moved = await one.events(len(before) + 2)

            # Then the gateway that has it: another adopts the session with its rules.
            gateways[0].kill()
            adopted = await other.events(len(moved) + 2)
            assert receiver.refused
            receiver.away = False
            events = await other.events(len(adopted) + 2)
            took_s = time.monotonic() - began_s

            assert [each.number for each in events] == list(range(1, len(events) + 1))
            assert [each.active for each in events] == [
                number % 2 == 0 for number in range(len(events))
            ]
            assert len(events) <= 2 * (took_s / SECONDS + 2), "no false ones"
            assert all(each.picture and each.clip for each in events)
            around = await other.stub.GetEvent(pb.GetEventRequest(event=adopted[-1].event))
            assert around.mp4[4:8] == b"ftyp", "its seconds were recorded"
            ids = [each.event for each in events]
            end_s = time.monotonic() + PATIENCE_S
            while receiver.ids[: len(ids)] != ids:
                assert time.monotonic() < end_s, (receiver.ids, ids)
                await asyncio.sleep(0.1)
            print(f"{len(events)} events in {took_s:.0f} s; {receiver.refused} deliveries refused")
            for line in (one, other):
                await line.channel.close()
    finally:
        for service in (*gateways, *workers):
            if service.process is not None:
                service.kill()
