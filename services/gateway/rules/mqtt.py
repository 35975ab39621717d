"""MQTT: events for a broker, and rules as Home Assistant's entities.

<topic>/status                    "online" while a gateway brings events, else "offline"
<topic>/events                    every event, as its JSON
<topic>/rules/<rule>/state        "ON" or "OFF", or what it told last
<topic>/rules/<rule>/attributes   the rule's last event
<discovery>/…/<rule>/config       what Home Assistant makes an entity of
"""

import contextlib
import json
import logging
import ssl
import time
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import aiomqtt
from google.protobuf import json_format

from services.common.config import ConfigError
from services.gateway.config import GatewayConfig
from services.gateway.rules.delivery import Outcome
from services.gateway.rules.kinds import CHOICE, COMMENTARY, HEALTH, PRODUCT, kind_of
from services.gateway.rules.rule_store import RuleStore
from sightline.v1 import rules_pb2
from sightline.version import __version__

log = logging.getLogger(__name__)

ID = "mqtt"  # under which it is noted how far the broker has come
QOS = 1  # at least once
TIMEOUT_S = 5.0
ALIVE_S = 15.0  # between two words that we are there
RETRY_S = 5.0
MAX_STATE_CHARACTERS = 255  # of an entity
PORTS = {"mqtt": 1883, "mqtts": 8883}
_WORDS = frozenset({CHOICE, COMMENTARY, PRODUCT})  # kinds whose state is no yes or no


class Mqtt:
    """One broker, connected to while this gateway brings events. A `Receiver`. One event loop."""

    def __init__(self, config: GatewayConfig, rules: RuleStore) -> None:
        """Raises ConfigError for what is no address of a broker."""
        self._url = parsed_url(config.mqtt_url or "")
        self._topic = config.mqtt_topic.strip("/")
        self._discovery = config.mqtt_discovery.strip("/")
        self._rules = rules
        self._stack: contextlib.AsyncExitStack | None = None
        self._client: aiomqtt.Client | None = None
        self._known: dict[str, rules_pb2.Rule] = {}  # that the broker was told of
        self._version = -1  # of the rules, as the broker was told
        self._told_s = self._failed_s = float("-inf")

    async def post(self, event: rules_pb2.RuleEvent) -> Outcome:
        await self.attend()  # it hears of a rule before of its events
        if self._client is None:
            return Outcome("no connection")
        try:
            told = _json(event)
            if (rule := self._known.get(event.rule)) is not None:  # else nobody would take it back
                await self._publish(f"rules/{event.rule}/attributes", told, retain=True)
                state = state_of(rule, event)
                await self._publish(f"rules/{event.rule}/state", state, retain=True)
            # Last: where the broker goes away amid these, another try tells no event twice.
            await self._publish("events", told)
        except (aiomqtt.MqttError, OSError) as error:
            await self.leave()
            return Outcome(f"no connection: {type(error).__name__}")
        return Outcome()

    async def attend(self) -> None:
        """Say that we are there, and tell which rules there are. Raises UnavailableError."""
        now_s = time.monotonic()
        if now_s - self._failed_s < RETRY_S:
            return
        version = await self._rules.version()
        if version == self._version and now_s - self._told_s < ALIVE_S:
            return
        try:
            await self._connect()
            await self._publish("status", "online", retain=True)
            self._told_s = now_s
            if version != self._version:
                await self._tell_rules()
                self._version = version
        except (aiomqtt.MqttError, OSError) as error:
            self._failed_s = now_s
            log.warning("no MQTT broker", extra={"reason": type(error).__name__})
            await self.leave()

    async def leave(self) -> None:
        stack, self._stack, self._client = self._stack, None, None
        self._version, self._told_s = -1, float("-inf")  # a broker may forget what it was told
        if stack is None:
            return
        with contextlib.suppress(aiomqtt.MqttError, OSError):  # it was the broker that left
            await stack.aclose()

    async def _connect(self) -> None:
        if self._client is not None:
            return
        url = self._url
        client = aiomqtt.Client(
            url.hostname or "",
            url.port or PORTS[url.scheme],
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
            tls_context=ssl.create_default_context() if url.scheme == "mqtts" else None,
            will=aiomqtt.Will(f"{self._topic}/status", "offline", QOS, retain=True),
            timeout=TIMEOUT_S,
        )
        stack = contextlib.AsyncExitStack()
        await stack.enter_async_context(client)
        self._stack, self._client = stack, client
        stack.push_async_callback(self._say_goodbye, client)
        log.info("MQTT broker connected")

    async def _say_goodbye(self, client: aiomqtt.Client) -> None:
        await client.publish(f"{self._topic}/status", "offline", QOS, retain=True)

    async def _publish(self, topic: str, payload: Any, *, retain: bool = False) -> None:
        text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
        assert self._client is not None
        await self._client.publish(f"{self._topic}/{topic}", text, QOS, retain=retain)

    # --- Home Assistant ---------------------------------------------------------------------

    async def _tell_rules(self) -> None:
        """Tell of the rules that there are, and take back those that are no more."""
        kept = await self._rules.of_tenants(await self._rules.tenants())
        rules = {each.rule.rule: each.rule for each in kept}
        for gone, component in (await self._rules.entities()).items():
            if gone not in rules:  # of another gateway's time, too
                for topic in ("state", "attributes"):
                    await self._publish(f"rules/{gone}/{topic}", "", retain=True)
                await self._configure(gone, component, "")
                await self._rules.drop_entity(gone)
        new = [id for id in rules if id not in self._known or self._version < 0]
        await self._rules.keep_entities({id: _component(rules[id]) for id in new})
        for id in new:
            rule = rules[id]
            entity = json.dumps(self.entity_of(rule), ensure_ascii=False)
            await self._configure(id, _component(rule), entity)
            state = state_of(rule, rule.state)
            await self._publish(f"rules/{id}/state", state, retain=True)
        self._known = rules

    async def _configure(self, rule: str, component: str, payload: str) -> None:
        if not self._discovery:
            return
        topic = f"{self._discovery}/{component}/sightline/{rule}/config"
        assert self._client is not None
        await self._client.publish(topic, payload, QOS, retain=True)

    def entity_of(self, rule: rules_pb2.Rule) -> dict[str, Any]:
        """Configuration of a rule's entity."""
        base = f"{self._topic}/rules/{rule.rule}"
        entity: dict[str, Any] = {
            "name": rule.name,
            "unique_id": f"sightline_{rule.rule}",
            "state_topic": f"{base}/state",
            "json_attributes_topic": f"{base}/attributes",
            "availability_topic": f"{self._topic}/status",
            "device": {
                "identifiers": [f"sightline_{rule.session}"],
                "name": rule.session_name,
                "manufacturer": "Sightline",
                "sw_version": __version__,
            },
            "origin": {"name": "Sightline", "sw": __version__},
        }
        if kind_of(rule) == HEALTH:
            entity["device_class"] = "problem"
        return entity


def _component(rule: rules_pb2.Rule) -> str:
    """What Home Assistant makes of a rule."""
    return "sensor" if kind_of(rule) in _WORDS else "binary_sensor"


def state_of(rule: rules_pb2.Rule, told: rules_pb2.RuleEvent | rules_pb2.RuleState) -> str:
    """State of the entity of a rule, by what it told."""
    if kind_of(rule) not in _WORDS:
        return "ON" if told.active else "OFF"
    names = {each.sku: each.names[0] for each in rule.product.products}
    return (told.text or names.get(told.value, told.value))[:MAX_STATE_CHARACTERS]


def parsed_url(text: str) -> SplitResult:
    """Raises ConfigError for what is no address of a broker."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    if url.scheme not in PORTS or not url.hostname or port == 0:
        raise ConfigError("GATEWAY_MQTT_URL is no mqtt://host:port")  # it may hold a password
    return url


def _json(event: rules_pb2.RuleEvent) -> dict[str, Any]:
    return json_format.MessageToDict(event, preserving_proto_field_name=True)
