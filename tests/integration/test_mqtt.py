"""Events and Home Assistant's entities at a real MQTT broker, which goes away and comes back."""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from services.common.config import ConfigError
from services.gateway.rules.mqtt import parsed_url
from services.gateway.rules.records import Records
from services.gateway.rules.rule_store import RuleStore
from sightline.v1 import rules_pb2 as pb
from tests.eventually import PATIENCE_S, wait_until
from tests.processes import RedisServer, free_port
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import Parts, picture, running

pytestmark = pytest.mark.needs("redis", "mosquitto")

PHONE = "a phone is there"


class Broker:
    """A mosquitto of our own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self._process = subprocess.Popen(
            [program, "-c", str(self._configuration)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._listens)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _listens(self) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    running = Broker(tmp_path)
    running.start()
    yield running
    running.kill()


class Told:
    """What a broker has told a subscriber: the last of every topic."""

    def __init__(self, broker: Broker) -> None:
        self._port = broker.port
        self.topics: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Told":
        ready = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(ready))
        await ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listening is not None
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self, ready: asyncio.Event) -> None:
        async with aiomqtt.Client("127.0.0.1", self._port) as client:
            await client.subscribe("#", qos=1)
            ready.set()
            async for message in client.messages:
                text = bytes(message.payload).decode()
                self.topics[str(message.topic)] = text
                if str(message.topic) == "sightline/events":
                    self.events.append(json.loads(text))
                self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def settings(redis: RedisServer, broker: Broker) -> dict[str, Any]:
    return {
        "redis_url": redis.url,
        "cluster_secret": "a secret of thirty-two characters",
        "mqtt_url": f"mqtt://127.0.0.1:{broker.port}",
    }


async def test_rules_are_entities_and_events_are_told(
    redis_server: RedisServer, broker: Broker
) -> None:
    worker = FakeWorker()
    worker.scores |= {PHONE: 0.1, "it is red": 0.9, "it is blue": 0.1}
    async with Told(broker) as told, running(worker, **settings(redis_server, broker)) as parts:
        session = await parts.push_session(name="kitchen")
        sink = session.admit("rtmp").sink
        sink.take(picture(0))
        phone = await _create(parts, predicate=pb.PredicateRule(condition=PHONE), name="phones")
        colour = await _create(
            parts, choice=pb.ChoiceRule(statement="it is", options=["red", "blue"]), name="colour"
        )
        config = f"homeassistant/binary_sensor/sightline/{phone.rule}/config"
        state = f"sightline/rules/{phone.rule}/state"
        await told.until(lambda: config in told.topics and told.topics.get(state) == "OFF")
        entity = json.loads(told.topics[config])
        assert (entity["name"], entity["state_topic"]) == ("phones", state)
        assert entity["device"]["name"] == "kitchen"
        assert told.topics[entity["availability_topic"]] == "online"
        colours = f"sightline/rules/{colour.rule}/state"
        await told.until(lambda: told.topics.get(colours) == "red")
        worker.scores[PHONE] = 0.9
        sink.take(picture(1))
        await told.until(lambda: told.topics[state] == "ON")
        attributes = json.loads(told.topics[entity["json_attributes_topic"]])
        await told.until(lambda: attributes in told.events)  # after what it changes
        assert (attributes["rule_name"], attributes["active"]) == ("phones", True)

        broker.kill()
        worker.scores[PHONE] = 0.1
        sink.take(picture(2))
        await _until_told(parts, "phones", 2)
        broker.start()
        async with Told(broker) as again:
            await again.until(lambda: again.topics.get(state) == "OFF" and config in again.topics)
            await again.until(lambda: again.topics.get(colours) == "red")
            await parts.stub.DeleteRule(pb.DeleteRuleRequest(rule="phones"))
            await again.until(lambda: again.topics[config] == "")
            status = "sightline/status"
            assert again.topics[status] == "online"
            assert parts.rules is not None
            await parts.rules.aclose()
            await again.until(lambda: again.topics[status] == "offline")
            records = Records(parts.config)
            await RuleStore(records, parts.config).erase(session.id, session.tenant)
            await records.aclose()
            config = f"homeassistant/sensor/sightline/{colour.rule}/config"
            assert again.topics[config]
            async with running(FakeWorker(), **settings(redis_server, broker)):
                await again.until(lambda: again.topics[config] == "")  # before its time
                assert again.topics[colours] == again.topics[state] == ""


async def _until_told(parts: Parts, rule: str, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            kept = await parts.stub.GetRule(pb.GetRuleRequest(rule=rule))
            if kept.state.events >= count:
                return
            await asyncio.sleep(0.02)


async def _create(parts: Parts, **fields: Any) -> pb.Rule:
    request = pb.CreateRuleRequest(session="kitchen", rule=pb.Rule(interval_s=0.1, **fields))
    rule: pb.Rule = await parts.stub.CreateRule(request)
    return rule


@pytest.mark.parametrize("url", ["", "http://broker", "mqtt://", "mqtt://broker:0", "mqtt://b:x"])
def test_what_is_no_broker_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="GATEWAY_MQTT_URL"):
        parsed_url(url)
