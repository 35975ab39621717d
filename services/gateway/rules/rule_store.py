"""Rules in Redis: made, listed, changed, deleted, and what each of them told last."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from services.gateway.config import GatewayConfig
from services.gateway.rules.records import Records
from services.gateway.rules.scripts import KEPT_MS, PREFIX
from sightline.errors import (
    AlreadyExistsError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from sightline.reasons import Reason
from sightline.v1 import peer_pb2, rules_pb2

VERSION, TENANTS = f"{PREFIX}version", f"{PREFIX}tenants"
ENTITIES = f"{PREFIX}entities"
MAX_ERROR_CHARACTERS = 300
MAX_CHANGES = 16  # tries, of which each lost one means that another change was made


@dataclass(frozen=True, slots=True)
class Kept:
    """A rule with what was told of it; `rule.state` is that, too."""

    record: peer_pb2.RuleRecord

    @property
    def rule(self) -> rules_pb2.Rule:
        return self.record.rule

    @property
    def name(self) -> str:
        """Name of its session, as permissions know it."""
        return self.record.rule.session_name

    @property
    def tenant(self) -> str:
        return self.record.tenant


class RuleStore:
    """Reads and writes rules. Every method raises UnavailableError while Redis is away."""

    def __init__(self, records: Records, config: GatewayConfig) -> None:
        self._records = records
        self._config = config

    async def create(self, record: peer_pb2.RuleRecord) -> None:
        """Raises AlreadyExistsError for a name that is taken, ResourceExhaustedError for one rule
        too many, NotFoundError for a session that was deleted."""
        rule, tenant = record.rule, record.tenant
        keys = [_names(tenant), _of(rule.session), TENANTS, VERSION, gone_key(rule.session)]
        most = [self._config.session_rules, self._config.tenant_rules]
        encoded = record.SerializeToString()
        arguments = [rule.name, rule.session, rule.rule, encoded, *most, tenant]
        refused = await self._records.run("create", keys, arguments)
        if refused == 1:
            raise AlreadyExistsError("another rule has this name", reason=Reason.NAME_TAKEN)
        if refused == 4:
            raise NotFoundError("the session was deleted", reason=Reason.SESSION_NOT_FOUND)
        if refused:
            whose = "this session" if refused == 2 else "your tenant"
            raise ResourceExhaustedError(
                f"{whose} has {most[refused - 2]} rules already: delete one first",
                reason=Reason.TOO_MANY_RULES,
            )

    async def change(self, kept: Kept, change: Callable[[rules_pb2.Rule], None]) -> rules_pb2.Rule:
        """Change a rule as it is kept now; what `change` raises changes nothing. The rule, with
        what it told. Raises NotFoundError where it was deleted meanwhile."""
        rule = kept.rule
        key = _of(rule.session)
        for _ in range(MAX_CHANGES):
            before = await self._records.do(lambda client: client.hget(key, rule.rule))
            if before is None:
                raise NotFoundError("no such rule", reason=Reason.RULE_NOT_FOUND)
            record = peer_pb2.RuleRecord.FromString(before)
            change(record.rule)
            encoded = record.SerializeToString()
            if await self._records.run("change", [key, VERSION], [rule.rule, before, encoded]):
                record.rule.state.CopyFrom(rule.state)
                return record.rule
        raise UnavailableError("others change this rule: try again", reason=Reason.RULES_AWAY)

    async def delete(self, record: peer_pb2.RuleRecord) -> bool:
        """Whether there was one."""
        rule = record.rule
        keys = [_names(record.tenant), _of(rule.session), _told(rule.session)]
        keys += [_wrong(rule.session), VERSION]
        return bool(await self._records.run("delete", keys, [rule.name, rule.rule]))

    async def erase(self, session: str, tenant: str) -> None:
        """Delete all rules of a session, with their names, and keep away what is on its way."""
        keys = [gone_key(session), _names(tenant), VERSION]
        keys += [_of(session), _told(session), _wrong(session), _checks(session)]
        await self._records.run("erase", keys, [session])

    async def keep(self, sessions: list[str]) -> None:
        """Rules of these sessions are looked after."""

        def note(pipe: Any) -> None:
            for session in sessions:
                for key in (_of(session), _told(session)):
                    pipe.pexpire(key, KEPT_MS)

        await self._records.together(note)

    async def version(self) -> int:
        """A number that changes whenever a rule comes, changes or goes."""
        return int(await self._records.do(lambda client: client.get(VERSION)) or 0)

    async def tenants(self) -> list[str]:
        found = await self._records.do(lambda client: client.smembers(TENANTS))
        return sorted({"", *(each.decode() for each in found)})

    async def of_session(self, session: str) -> list[Kept]:
        """Rules of a session, the oldest first."""
        return (await self.of_sessions([session]))[session]

    async def of_sessions(self, sessions: list[str]) -> dict[str, list[Kept]]:
        def read(pipe: Any) -> None:
            for session in sessions:
                for key in (_of(session), _told(session), _wrong(session)):
                    pipe.hgetall(key)
                pipe.get(_checks(session))

        replies = iter(await self._records.together(read))
        found = {}
        for session in sessions:
            records, told, wrong = next(replies), next(replies), next(replies)
            checks = peer_pb2.RuleChecks.FromString(next(replies) or b"").checks
            kept = [_kept(records[id], told.get(id), wrong.get(id), checks) for id in records]
            found[session] = sorted(kept, key=lambda each: each.rule.created_ns)
        return found

    async def of_tenants(self, tenants: list[str]) -> list[Kept]:
        """Rules of some tenants, the oldest first."""
        sessions: dict[str, None] = {}
        for tenant in tenants:
            names = await self._records.do(partial(_values, _names(tenant)))
            sessions |= dict.fromkeys(each.decode().partition(" ")[0] for each in names)
        of_all = await self.of_sessions(list(sessions))
        kept = [each for rules in of_all.values() for each in rules]
        return sorted(kept, key=lambda each: each.rule.created_ns)

    async def note_wrong(self, session: str, rule: str, error: str) -> None:
        """Why a rule is not checked now; "": it is."""
        arguments = [rule, error[:MAX_ERROR_CHARACTERS]]
        await self._records.run("wrong", [_of(session), _wrong(session)], arguments)

    async def note_checks(self, session: str, checks: peer_pb2.RuleChecks) -> None:
        """The last check of each rule of a session, in the place of those that were noted."""
        encoded = checks.SerializeToString()
        await self._records.run("checks", [_of(session), _checks(session)], [encoded])

    # --- what a broker was told of: of each rule the kind of its entity --------------------------

    async def entities(self) -> dict[str, str]:
        found = await self._records.do(lambda client: client.hgetall(ENTITIES))
        return {id.decode(): component.decode() for id, component in found.items()}

    async def keep_entities(self, entities: Mapping[str, str]) -> None:
        """Note entities before a broker is told of them: whoever goes on can take them back."""
        if entities:
            await self._records.do(lambda client: client.hset(ENTITIES, mapping=entities))

    async def drop_entity(self, rule: str) -> None:
        await self._records.do(lambda client: client.hdel(ENTITIES, rule))


async def _values(key: str, client: Any) -> list[bytes]:
    found: list[bytes] = await client.hvals(key)
    return found


def _kept(
    record: bytes,
    told: bytes | None,
    wrong: bytes | None,
    checks: Mapping[str, rules_pb2.RuleCheck],
) -> Kept:
    kept = Kept(peer_pb2.RuleRecord.FromString(record))
    if told is not None:
        kept.rule.state.CopyFrom(state_of(told))
    if wrong is not None:
        kept.rule.state.error = wrong.decode()
    if kept.rule.rule in checks:
        kept.rule.state.check.CopyFrom(checks[kept.rule.rule])
    return kept


def state_of(told: bytes) -> rules_pb2.RuleState:
    """What a rule told last, as it is kept behind its fence, its number and its event."""
    return rules_pb2.RuleState.FromString(told.split(b" ", 3)[3])


def _of(session: str) -> str:
    return f"{PREFIX}of:{session}"


def _told(session: str) -> str:
    return f"{PREFIX}told:{session}"


def _wrong(session: str) -> str:
    return f"{PREFIX}wrong:{session}"


def _checks(session: str) -> str:
    return f"{PREFIX}checks:{session}"


def gone_key(session: str) -> str:
    return f"{PREFIX}gone:{session}"


def _names(tenant: str) -> str:
    return f"{PREFIX}names:{tenant}"


rules_key, told_key = _of, _told
