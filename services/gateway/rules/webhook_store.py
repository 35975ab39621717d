"""Webhooks in Redis, and how far each of them has come."""

import time
from dataclasses import dataclass
from typing import Any

from services.gateway.rules.event_store import HOOKS, LAST
from services.gateway.rules.records import Records
from services.gateway.rules.rule_store import TENANTS
from services.gateway.rules.scripts import PREFIX
from sightline.errors import ResourceExhaustedError
from sightline.reasons import Reason
from sightline.v1 import peer_pb2, rules_pb2

LEASE_MS = 15_000  # of whoever delivers: more than one try takes
MAX_LETTERS = 1000
_GONE = "gone:"


@dataclass(frozen=True, slots=True)
class Place:
    """How far a receiver has come: the event that was delivered or given up last, and of each
    tenant the last one that was looked at of those that had to make room."""

    after: str
    gone: dict[str, str]


class WebhookStore:
    """Reads and writes webhooks. Every method raises UnavailableError while Redis is away."""

    def __init__(self, records: Records, most: int) -> None:
        self._records = records
        self._most = most

    async def create(self, record: peer_pb2.WebhookRecord) -> None:
        """A webhook is sent what comes from now on. Raises ResourceExhaustedError for one too
        many."""
        id = record.webhook.webhook
        arguments = [id, record.SerializeToString(), record.tenant, self._most, _hook(id)]
        if not await self._records.run("hook", [HOOKS, TENANTS, LAST], arguments):
            raise ResourceExhaustedError(
                f"there are {self._most} webhooks already", reason=Reason.TOO_MANY_WEBHOOKS
            )

    async def all(self) -> list[peer_pb2.WebhookRecord]:
        """The oldest first."""
        found = await self._records.do(lambda client: client.hvals(HOOKS))
        records = [peer_pb2.WebhookRecord.FromString(each) for each in found]
        return sorted(records, key=lambda each: each.webhook.created_ns)

    async def with_state(self, webhook: rules_pb2.Webhook) -> rules_pb2.Webhook:
        """The webhook with how far it has come."""
        key = _hook(webhook.webhook)
        found = await self._records.do(lambda client: client.hgetall(key))
        webhook.state.after = found.get(b"after", b"").decode()
        webhook.state.delivered = int(found.get(b"delivered", 0))
        webhook.state.dead = int(found.get(b"dead", 0))
        webhook.state.failures = int(found.get(b"failures", 0))
        webhook.state.error = found.get(b"error", b"").decode()
        return webhook

    async def delete(self, id: str) -> None:
        def remove(pipe: Any) -> None:
            pipe.hdel(HOOKS, id)
            pipe.delete(_hook(id), _dead(id))

        await self._records.together(remove)

    async def dead_letters(self, id: str) -> list[rules_pb2.DeadLetter]:
        """The newest first."""
        rows = await self._records.do(
            lambda client: client.xrevrange(_dead(id), "+", "-", MAX_LETTERS)
        )
        return [rules_pb2.DeadLetter.FromString(fields[b"e"]) for _, fields in rows]

    # --- for deliveries ---------------------------------------------------------------------

    async def claim(self, id: str, owner: str) -> bool:
        """Whether this owner delivers, for some seconds from now."""
        return bool(
            await self._records.run("claim", [_hook(id), HOOKS, LAST], [id, owner, LEASE_MS])
        )

    async def free(self, id: str, owner: str) -> None:
        """Let another deliver at once."""
        await self._records.run("free", [_hook(id)], [owner])

    async def place(self, id: str) -> Place:
        """How far it has come."""
        found = await self._records.do(lambda client: client.hgetall(_hook(id)))
        gone = {
            key.decode().removeprefix(_GONE): event.decode()
            for key, event in found.items()
            if key.startswith(_GONE.encode())
        }
        return Place(found.get(b"after", b"0-0").decode(), gone)

    async def note(self, id: str, owner: str, failures: int, error: str) -> None:
        """So many tries in a row have failed."""
        await self._records.run("note", [_hook(id)], [owner, failures, error])

    async def skip(self, id: str, owner: str, event: str) -> bool:
        """Events up to this one are not for this webhook; whether it still is this owner's."""
        return await self._pass(id, owner, event, "")

    async def delivered(self, id: str, owner: str, event: str) -> bool:
        return await self._pass(id, owner, event, "1")

    async def give_up(self, id: str, owner: str, event: str, reason: str) -> bool:
        return await self._pass(id, owner, event, reason)

    async def lose(self, id: str, owner: str, tenant: str, event: str, reason: str) -> bool:
        """An event of a tenant that is kept no more was looked at. reason: why it is given up; "":
        it is not for this webhook."""
        letter = _letter(event, reason)
        arguments = [owner, tenant, event, reason, letter, MAX_LETTERS]
        return bool(await self._records.run("lose", [_hook(id), _dead(id)], arguments))

    async def _pass(self, id: str, owner: str, event: str, outcome: str) -> bool:
        arguments = [owner, event, outcome, _letter(event, outcome), MAX_LETTERS]
        return bool(await self._records.run("pass", [_hook(id), _dead(id)], arguments))


def _letter(event: str, reason: str) -> bytes:
    letter = rules_pb2.DeadLetter(event=event, reason=reason, time_ns=time.time_ns())
    return letter.SerializeToString()


def _hook(id: str) -> str:
    return f"{PREFIX}hook:{id}"


def _dead(id: str) -> str:
    return f"{PREFIX}dead:{id}"
