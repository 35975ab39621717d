"""Standing rules of a server, and the events that come of them: `client.rules`.

A rule is written as the contract's JSON has it: `{"predicate": {"condition": "a phone is there"}}`,
and docs/rules.md says what else there is.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import json_format

from sightline.calls import Calls, backoff_s, from_rpc
from sightline.errors import InvalidArgumentError, ResourceExhaustedError, UnavailableError
from sightline.v1 import rules_pb2

__all__ = ["Rule", "RuleEvent", "Rules", "Webhook"]

PAGE = 200  # events of a list that come at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A standing rule. `spec`: all of it, as JSON has it."""

    id: str
    name: str
    session: str
    session_name: str
    kind: str  # "predicate", "choice", "score", "health", "commentary", "product"
    paused: bool
    active: bool  # as it was told last
    value: str
    events: int  # that it has told
    error: str  # why it is not checked now
    spec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEvent:
    """One event. `id` grows: what came later has a greater one."""

    id: str
    rule: str
    rule_name: str
    session: str
    session_name: str
    kind: str
    severity: str  # "info", "warning", "critical"
    active: bool
    value: str
    probability: float
    score: float
    text: str
    product: Mapping[str, Any]  # of a product rule: sku, names, link, price, picture
    labels: Mapping[str, str]
    time_ns: int
    capture_ns: int
    number: int
    reason: str
    picture: bool  # whether one was taken
    clip: bool
    acknowledged_by: str | None  # None: nobody has
    acknowledged_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """An address that events are sent to. `secret` is told once, when it is made."""

    id: str
    url: str
    severity: str
    session: str
    delivered: int
    dead: int
    failures: int
    error: str
    secret: str = ""


class Rules:
    """The rules that this client may see. Raises UnavailableError on a server without a Redis."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def create(self, session: str, rule: Mapping[str, Any]) -> Rule:
        """Watch a session, by id or name, for something from now on, whoever looks. Raises
        AlreadyExistsError for a name that is taken. `severity` may be said as in events, too:
        "critical"."""
        wanted = dict(rule)
        if isinstance(severity := wanted.get("severity"), str):
            wanted["severity"] = _severity(severity)
        try:
            message = json_format.ParseDict(wanted, rules_pb2.Rule())
        except json_format.ParseError as error:
            raise InvalidArgumentError(f"this is no rule: {error}") from None
        request = rules_pb2.CreateRuleRequest(session=session, rule=message)
        # Not repeated: a second try would find the name taken by the first.
        return _rule(await self._calls.unary(self._calls.stub.CreateRule, request, retry=False))

    async def all(self, session: str = "") -> list[Rule]:
        """Rules of one session or of all, the oldest first."""
        request = rules_pb2.ListRulesRequest(session=session)
        reply = await self._calls.unary(self._calls.stub.ListRules, request)
        return [_rule(each) for each in reply.rules]

    async def get(self, rule: str) -> Rule:
        """A rule by its id or name."""
        request = rules_pb2.GetRuleRequest(rule=rule)
        return _rule(await self._calls.unary(self._calls.stub.GetRule, request))

    async def update(
        self,
        rule: str,
        *,
        paused: bool | None = None,
        threshold: float | None = None,
        interval_s: float | None = None,
        debounce_s: float | None = None,
        cooldown_s: float | None = None,
        schedule: Mapping[str, Any] | None = None,
        severity: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> Rule:
        """Change a rule, by its id or name, while it is watched for; what is left out stays, and
        what it has told. `paused`: it is not checked until it is resumed. A `threshold` or an
        `interval_s` below 0 are those of its kind again, an empty `schedule` is always."""
        request = rules_pb2.UpdateRuleRequest(
            rule=rule,
            threshold=threshold,
            interval_s=interval_s,
            debounce_s=debounce_s,
            cooldown_s=cooldown_s,
            severity=_severity(severity),
            labels=None if labels is None else rules_pb2.RuleLabels(labels=labels),
        )
        if paused is not None:
            request.paused = paused
        if schedule is not None:
            request.schedule.SetInParent()
            try:
                json_format.ParseDict(dict(schedule), request.schedule)
            except json_format.ParseError as error:
                raise InvalidArgumentError(f"this is no schedule: {error}") from None
        return _rule(await self._calls.unary(self._calls.stub.UpdateRule, request))

    async def delete(self, rule: str) -> None:
        """End a rule, by its id or name; its events stay."""
        request = rules_pb2.DeleteRuleRequest(rule=rule)
        await self._calls.unary(self._calls.stub.DeleteRule, request)

    async def events(
        self,
        *,
        session: str = "",
        rule: str = "",
        after: str = "",
        unacknowledged: bool = False,
        limit: int = 100,
    ) -> list[RuleEvent]:
        """The newest events first, at most `limit`."""
        found: list[RuleEvent] = []
        request = rules_pb2.ListEventsRequest(
            session=session, rule=rule, after=after, unacknowledged=unacknowledged
        )
        while len(found) < limit:
            request.page_size = min(PAGE, limit - len(found))
            reply = await self._calls.unary(self._calls.stub.ListEvents, request)
            found += map(_event, reply.events)
            if not reply.next_page_token:
                break
            request.page_token = reply.next_page_token
        return found

    async def follow(
        self, *, session: str = "", rule: str = "", after: str = ""
    ) -> AsyncIterator[RuleEvent]:
        """Events as they come, for ever; what came since `after`, an event's id, comes first. A
        server that is away is tried again, and nothing is missed or comes twice."""
        request = rules_pb2.WatchEventsRequest(session=session, rule=rule, after=after)
        if not after:  # from now on, also where the first connection breaks before an event
            newest = await self.events(limit=1)
            request.after = newest[0].id if newest else "0-0"
        attempt = 0
        while True:
            call = self._calls.stub.WatchEvents(request)
            try:
                async for message in call:
                    attempt = 0
                    request.after = message.event
                    yield _event(message)
            except grpc.aio.AioRpcError as error:
                failure = from_rpc(error, self._calls.address)
                if not isinstance(failure, UnavailableError | ResourceExhaustedError):
                    raise failure from None
                await asyncio.sleep(backoff_s(attempt, self._calls.rng))
                attempt += 1
            finally:
                call.cancel()

    async def acknowledge(self, event: str, *, note: str = "") -> RuleEvent:
        """Say that somebody has seen to an event; the first who does is kept."""
        request = rules_pb2.AcknowledgeEventRequest(event=event, note=note)
        return _event(await self._calls.unary(self._calls.stub.AcknowledgeEvent, request))

    async def picture(self, event: str) -> bytes:
        """JPEG of the moment; empty where none is kept."""
        request = rules_pb2.GetEventRequest(event=event)
        reply = await self._calls.unary(self._calls.stub.GetEvent, request)
        return bytes(reply.jpeg)

    async def clip(self, event: str) -> bytes:
        """MP4 of the seconds before and after; empty where none is kept (yet)."""
        request = rules_pb2.GetEventRequest(event=event)
        reply = await self._calls.unary(self._calls.stub.GetEvent, request)
        return bytes(reply.mp4)

    # --- webhooks: they take the permission `admin` -----------------------------------------------

    async def create_webhook(self, url: str, *, severity: str = "", session: str = "") -> Webhook:
        """Send events to an address from now on: those that are at least so severe, of one session
        by its id or name, or all."""
        hook = rules_pb2.Webhook(url=url, severity=_severity(severity), session=session)
        request = rules_pb2.CreateWebhookRequest(webhook=hook)
        reply = await self._calls.unary(self._calls.stub.CreateWebhook, request, retry=False)
        return _webhook(reply)

    async def webhooks(self) -> list[Webhook]:
        request = rules_pb2.ListWebhooksRequest()
        reply = await self._calls.unary(self._calls.stub.ListWebhooks, request)
        return [_webhook(each) for each in reply.webhooks]

    async def delete_webhook(self, webhook: str) -> None:
        request = rules_pb2.DeleteWebhookRequest(webhook=webhook)
        await self._calls.unary(self._calls.stub.DeleteWebhook, request)

    async def dead_letters(self, webhook: str) -> list[tuple[str, str]]:
        """Events that a webhook did not take, and why, the newest first."""
        request = rules_pb2.ListDeadLettersRequest(webhook=webhook)
        reply = await self._calls.unary(self._calls.stub.ListDeadLetters, request)
        return [(each.event, each.reason) for each in reply.letters]


_SEVERITIES = {
    "": rules_pb2.SEVERITY_UNSPECIFIED,
    "info": rules_pb2.SEVERITY_INFO,
    "warning": rules_pb2.SEVERITY_WARNING,
    "critical": rules_pb2.SEVERITY_CRITICAL,
}


def _severity(name: str) -> rules_pb2.Severity:
    """By the word for it, or the name that it has in the contract."""
    word = name.removeprefix("SEVERITY_").lower()
    if word not in _SEVERITIES:
        raise InvalidArgumentError(f"{name[:32]!r} is none of info, warning, critical")
    return _SEVERITIES[word]


def _severity_name(value: rules_pb2.Severity) -> str:
    with contextlib.suppress(ValueError):  # of a later server
        name = rules_pb2.Severity.Name(value or rules_pb2.SEVERITY_INFO)
        return name.removeprefix("SEVERITY_").lower()
    return str(value)


def _json(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _rule(message: rules_pb2.Rule) -> Rule:
    return Rule(
        id=message.rule,
        name=message.name,
        session=message.session,
        session_name=message.session_name,
        kind=message.WhichOneof("kind") or "",
        paused=message.paused,
        active=message.state.active,
        value=message.state.value,
        events=message.state.events,
        error=message.state.error,
        spec=_json(message),
    )


def _event(message: rules_pb2.RuleEvent) -> RuleEvent:
    acknowledged = message.acknowledged.by if message.HasField("acknowledged") else None
    return RuleEvent(
        id=message.event,
        rule=message.rule,
        rule_name=message.rule_name,
        session=message.session,
        session_name=message.session_name,
        kind=message.kind,
        severity=_severity_name(message.severity),
        active=message.active,
        value=message.value,
        probability=message.probability,
        score=message.score,
        text=message.text,
        product=_json(message.product),
        labels=dict(message.labels),
        time_ns=message.time_ns,
        capture_ns=message.capture_ns,
        number=message.number,
        reason=message.reason,
        picture=message.picture,
        clip=message.clip,
        acknowledged_by=acknowledged,
        acknowledged_ns=message.acknowledged.time_ns,
    )


def _webhook(message: rules_pb2.Webhook) -> Webhook:
    return Webhook(
        id=message.webhook,
        url=message.url,
        severity=_severity_name(message.severity),
        session=message.session,
        delivered=message.state.delivered,
        dead=message.state.dead,
        failures=message.state.failures,
        error=message.state.error,
        secret=message.secret,
    )
