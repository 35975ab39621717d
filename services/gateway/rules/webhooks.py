"""Webhooks: where events are sent, made and listed by callers, and delivered by one gateway at a
time."""

import asyncio
import logging
import secrets
import time

from services.common.redaction import redacted
from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.auth.authoriser import audit
from services.gateway.auth.caller import Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.rules.delivery import REASONS, Delivery, Receiver, Scope
from services.gateway.rules.event_store import EventStore
from services.gateway.rules.posting import Hook, Poster, parsed_url, secret_of
from services.gateway.rules.records import Records
from services.gateway.rules.rule_store import RuleStore
from services.gateway.rules.webhook_store import WebhookStore
from services.gateway.sources.remote.egress_policy import EgressPolicy
from sightline.errors import InvalidArgumentError, NotFoundError, SightlineError
from sightline.reasons import Reason
from sightline.v1 import peer_pb2, rules_pb2

log = logging.getLogger(__name__)

KEEP_S = 1.0  # between two looks for webhooks that came or went


class Webhooks:
    """The webhooks in Redis. Every gateway has a task for each, of which that one delivers whose
    lease it is. One event loop."""

    def __init__(
        self, records: Records, events: EventStore, rules: RuleStore, config: GatewayConfig
    ) -> None:
        self._config = config
        self._events = events
        self._rules = rules
        self._store = WebhookStore(records, config.webhooks)
        self._poster = Poster(EgressPolicy(config.webhook_allow, public=not config.edge))
        self._owner = secrets.token_hex(8)
        self._deliveries: dict[str, Delivery] = {}
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        for reason in REASONS:
            metrics.WEBHOOK_DEAD.labels(reason)  # from 0: its first rise is seen
        self._keeping = spawn(self._keep(), name="webhooks:keep")

    async def aclose(self) -> None:
        await cancel_and_wait(self._keeping)
        deliveries = list(self._deliveries.values())
        self._deliveries.clear()
        await asyncio.gather(*(each.aclose() for each in deliveries))

    def wake(self) -> None:
        """There is an event."""
        for delivery in self._deliveries.values():
            delivery.wake()

    # --- for callers ------------------------------------------------------------------------

    async def create(self, given: rules_pb2.Webhook, caller: Caller) -> rules_pb2.Webhook:
        """Make a webhook; what this gives alone holds its secret and its whole address. Raises
        what CreateWebhook may answer."""
        caller.check(Permission.ADMIN)
        if given.severity not in rules_pb2.Severity.values():
            raise InvalidArgumentError("unknown severity")
        await self._poster.check(parsed_url(given.url))
        webhook = rules_pb2.Webhook(
            webhook=f"w_{secrets.token_hex(8)}",
            url=given.url,
            severity=given.severity,
            session=given.session,
            created_ns=time.time_ns(),
        )
        record = peer_pb2.WebhookRecord(
            webhook=webhook, tenant=caller.tenant, sessions=caller.sessions
        )
        await self._store.create(record)
        audit(caller, "create webhook", "")
        webhook.secret = secret_of(self._config.cluster_secret or "", webhook.webhook)
        return webhook

    async def listed(self, caller: Caller) -> list[rules_pb2.Webhook]:
        caller.check(Permission.ADMIN)
        """The oldest first. An address may be a secret: of it is told what no one can send to."""
        records = [each for each in await self._store.all() if _is_of(each, caller)]
        webhooks = [await self._store.with_state(each.webhook) for each in records]
        for webhook in webhooks:
            webhook.url = redacted(webhook.url)
        return webhooks

    async def delete(self, webhook: str, caller: Caller) -> None:
        await self._find(webhook, caller)
        await self._store.delete(webhook)
        audit(caller, "delete webhook", "")

    async def dead_letters(self, webhook: str, caller: Caller) -> list[rules_pb2.DeadLetter]:
        """Events that were given up, the newest first."""
        await self._find(webhook, caller)
        return await self._store.dead_letters(webhook)

    async def _find(self, webhook: str, caller: Caller) -> peer_pb2.WebhookRecord:
        caller.check(Permission.ADMIN)
        for each in await self._store.all():
            if each.webhook.webhook == webhook and _is_of(each, caller):
                return each
        raise NotFoundError("no such webhook", reason=Reason.WEBHOOK_NOT_FOUND)

    # --- deliveries -------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            try:
                await self._assign()
            except SightlineError:
                pass  # Redis is away: those that are known try on
            except Exception:
                log.exception("webhooks not read")
            await asyncio.sleep(KEEP_S)

    async def _assign(self) -> None:
        records = {each.webhook.webhook: each for each in await self._store.all()}
        for gone in self._deliveries.keys() - records.keys():
            await self._deliveries.pop(gone).aclose()
        for id in records.keys() - self._deliveries.keys():
            record = records[id]
            secret = secret_of(self._config.cluster_secret or "", id)
            viewer = Caller(
                name="",
                permissions=frozenset(),
                sessions=tuple(record.sessions),
                tenant=record.tenant,
            )
            self._deliveries[id] = self.delivery(
                id,
                Hook(self._poster, record.webhook.url, secret),
                Scope(viewer, record.webhook.severity, record.webhook.session),
            )
            self._deliveries[id].start()

    def delivery(self, id: str, receiver: Receiver, scope: Scope) -> Delivery:
        """Delivery of events to a receiver, not started."""
        return Delivery(
            id,
            receiver,
            scope,
            self._owner,
            self._store,
            self._events,
            self._rules,
            self._config.webhook_retry_s,
        )


def _is_of(record: peer_pb2.WebhookRecord, caller: Caller) -> bool:
    """Whether a webhook tells of nothing that this caller may not see: its address may be a
    secret."""
    if caller.tenant and record.tenant != caller.tenant:
        return False
    return "*" in caller.sessions or set(record.sessions) <= set(caller.sessions)
