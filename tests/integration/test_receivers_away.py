"""Receivers of events that are away for long, answer late, oddly or not at all, while the gateways
that bring the events are killed: every event comes, in order, and once where nobody was killed amid
an answer."""

import asyncio
import contextlib
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET

import grpc
import pytest

from services.gateway.config import GatewayConfig
from sightline.v1 import gateway_pb2_grpc
from sightline.v1 import rules_pb2 as pb
from tests.eventually import eventually
from tests.integration.test_dead_letters import Teller
from tests.integration.test_mqtt import Broker, Told
from tests.processes import RedisServer, ServiceProcess, free_port
from tests.rule_parts import SECRET

pytestmark = [pytest.mark.needs("redis"), pytest.mark.option]

PATIENCE_S = 240.0
MANNERS = ("takes", "slow", "500", "reset", "silent")
NO_LINGER = struct.pack("ii", 1, 0)  # a socket that is closed so resets its connection


class Receiver:
    """Takes events in the manner that it is told to have."""

    def __init__(self) -> None:
        self.manner = "takes"
        self.taken: list[str] = []
        self.tries = 0
        self.port = free_port()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        manner = self.manner
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            await reader.readexactly(int(fields["content-length"]))
            self.tries += 1
            match manner:
                case "takes" | "slow":
                    if manner == "slow":
                        await asyncio.sleep(2)
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    await writer.drain()
                    self.taken.append(fields["webhook-id"])
                case "500":
                    writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
                case "reset":
                    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, NO_LINGER)
                    writer.transport.abort()
                case "silent":
                    await reader.read()
        writer.close()


@pytest.fixture
def gateways(redis_server: RedisServer, tmp_path: Path) -> Iterator[list[ServiceProcess]]:
    """Two that share what is told; no video and no worker is needed for it."""
    environment = {
        "GATEWAY_WORKERS": f"127.0.0.1:{free_port()}",
        "GATEWAY_REDIS_URL": redis_server.url,
        "GATEWAY_CLUSTER_SECRET": SECRET,
        "GATEWAY_WEBHOOK_ALLOW": "127.0.0.1",
        "GATEWAY_REDIS_TIMEOUT_S": "5",
    }
    made = []
    for _ in range(2):
        own = {f"GATEWAY_{kind}_PORT": str(free_port()) for kind in ("PEER", "RTMP")}
        made.append(ServiceProcess("gateway", environment | own, tmp_path))
    yield made
    for gateway in made:
        gateway.kill()


def teller(redis_server: RedisServer) -> Teller:
    config = GatewayConfig(redis_url=redis_server.url, cluster_secret=SECRET, redis_timeout_s=5.0)
    return Teller(config)


async def _kill_and_restart(gateway: ServiceProcess) -> None:
    gateway.kill()
    await asyncio.sleep(1)
    await asyncio.to_thread(gateway.restart)


@pytest.mark.parametrize("seed", [1])
async def test_a_webhook_is_brought_every_event_in_order_whoever_is_killed(
    redis_server: RedisServer, gateways: list[ServiceProcess], seed: int
) -> None:
    chance, receiver = random.Random(seed), Receiver()
    for gateway in gateways:
        await asyncio.to_thread(gateway.start)
    async with teller(redis_server) as telling:
        await receiver.start()
        async with grpc.aio.insecure_channel(gateways[0].address) as channel:
            stub = gateway_pb2_grpc.SightlineServiceStub(channel)
            hook = pb.Webhook(url=f"http://127.0.0.1:{receiver.port}/hook")
            await stub.CreateWebhook(pb.CreateWebhookRequest(webhook=hook), timeout=20)
        told = await telling.tell(2)
        await eventually(lambda: receiver.taken == told)

        # Down for a minute, in which both are killed once: nobody was answering, so nothing doubles
        await receiver.stop()
        began_s = time.monotonic()
        for gateway in gateways:
            told += await telling.tell(3)
            await _kill_and_restart(gateway)
        told += await telling.tell(3)
        await asyncio.sleep(max(0.0, began_s + 60 - time.monotonic()))
        await receiver.start()
        await eventually(lambda: len(receiver.taken) >= len(told), timeout_s=PATIENCE_S)
        assert receiver.taken == told

        # In every bad manner by turns, with nobody killed
        for manner in ("500", "reset", "silent", "slow"):
            receiver.manner = manner
            tries = receiver.tries
            told += await telling.tell(2)
            await eventually(lambda: receiver.tries > tries, timeout_s=PATIENCE_S)  # noqa: B023
        receiver.manner = "takes"
        await eventually(lambda: len(receiver.taken) >= len(told), timeout_s=PATIENCE_S)
        assert receiver.taken == told

        # Killed at any moment, also between an answer and its note: the same id comes again then
        for _ in range(3):
            receiver.manner = chance.choice(MANNERS)
            told += await telling.tell(2)
            await asyncio.sleep(chance.random() * 3)
            await _kill_and_restart(chance.choice(gateways))
        receiver.manner = "takes"
        await eventually(lambda: set(receiver.taken) == set(told), timeout_s=PATIENCE_S)
        assert list(dict.fromkeys(receiver.taken)) == told
        assert len(receiver.taken) - len(told) <= 3, "at most one for each who was killed"
        await receiver.stop()


@pytest.mark.needs("mosquitto")
async def test_a_broker_is_told_every_event_whoever_is_killed(
    redis_server: RedisServer, gateways: list[ServiceProcess], tmp_path: Path
) -> None:
    broker = Broker(tmp_path)
    broker.start()
    try:
        for gateway in gateways:
            gateway.environment["GATEWAY_MQTT_URL"] = f"mqtt://127.0.0.1:{broker.port}"
            await asyncio.to_thread(gateway.start)
        async with teller(redis_server) as telling:
            async with Told(broker) as before:
                await before.until(lambda: before.topics.get("sightline/status") == "online")
                told = await telling.tell(2)
                await before.until(lambda: len(before.events) == 2)
            assert [each["event"] for each in before.events] == told
            broker.kill()
            began_s, missed = time.monotonic(), []
            for gateway in gateways:
                missed += await telling.tell(3)
                await _kill_and_restart(gateway)
            await asyncio.sleep(max(0.0, began_s + 60 - time.monotonic()))
            broker.start()
            async with Told(broker) as after:
                await eventually(lambda: len(after.events) >= len(missed), timeout_s=PATIENCE_S)
                assert [each["event"] for each in after.events] == missed
    finally:
        broker.kill()
