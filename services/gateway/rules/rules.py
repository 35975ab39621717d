"""Standing rules of a server: made, found, watched for at whichever gateway has their session."""

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any
from weakref import WeakSet

from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.auth.authoriser import audit
from services.gateway.auth.caller import ANYBODY, Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.rules.changes import change_rule
from services.gateway.rules.checks import check_rule
from services.gateway.rules.delivery import Delivery, Scope
from services.gateway.rules.event_store import EventStore
from services.gateway.rules.events import Events
from services.gateway.rules.kinds import KINDS
from services.gateway.rules.records import Records
from services.gateway.rules.rule_store import Kept, RuleStore
from services.gateway.rules.schedule import settle_zone
from services.gateway.rules.watchman import Watchman
from services.gateway.rules.webhooks import Webhooks
from services.gateway.sessions.labels import checked_labels
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.session import Session
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.asks import Asks
from services.gateway.viewers.decisions import Decisions
from services.gateway.viewers.viewers import Viewers
from sightline.errors import NotFoundError, SightlineError, UnavailableError
from sightline.reasons import Reason
from sightline.v1 import peer_pb2, rules_pb2

log = logging.getLogger(__name__)

KEEP_S = 0.5  # between two looks at whether rules came or went
RENEW_S = 600.0  # between two notes that rules are looked after, and looks at what is too old
EVERYTHING = Scope(ANYBODY)
_ID = re.compile(r"r_([0-9a-f]{16})_[0-9a-f]{8}")


class Rules:
    """The rules in Redis, and the watchmen of this gateway's sessions. A `SessionListener`. One
    event loop.

    Every method that looks something up raises UnavailableError while Redis is away.
    """

    def __init__(self, config: GatewayConfig, sessions: Sessions, viewers: Viewers) -> None:
        """Raises ConfigError for a Redis that cannot be meant."""
        self._config = config
        self._sessions = sessions
        self._viewers = viewers
        self._records = Records(config)
        self._store = RuleStore(self._records, config)
        self._event_store = EventStore(self._records, config)
        self.events = Events(self._event_store, self._store, sessions)
        self.webhooks = Webhooks(self._records, self._event_store, self._store, config)
        self._mqtt = self._mqtt_delivery() if config.mqtt_url is not None else None
        self._watchmen: dict[Session, Watchman] = {}
        self._silenced: WeakSet[AnySession] = WeakSet()  # that are about to be deleted
        self._version = -1
        self._renewed_s = float("-inf")
        self._woken = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        sessions.listen(self)

    def start(self) -> None:
        self._keeping = spawn(self._keep(), name="rules:keep")
        self.webhooks.start()
        if self._mqtt is not None:
            self._mqtt.start()

    async def drain(self) -> None:
        """Tell no more events: what comes is for the gateways that have the sessions next."""
        await cancel_and_wait(self._keeping)
        watchmen = list(self._watchmen.values())
        self._watchmen.clear()
        await asyncio.gather(*(each.aclose() for each in watchmen))
        self.events.close()

    async def aclose(self) -> None:
        await self.drain()
        await self.webhooks.aclose()
        if self._mqtt is not None:
            await self._mqtt.aclose()
        while self._ending:
            await asyncio.wait(set(self._ending))
        await self._records.aclose()

    # --- for callers ------------------------------------------------------------------------

    async def create(
        self, given: rules_pb2.Rule, session: AnySession, caller: Caller
    ) -> rules_pb2.Rule:
        """Make a rule. Raises what CreateRule may answer."""
        caller.check(Permission.WATCH, session)
        check_rule(given)
        rule = rules_pb2.Rule()
        rule.CopyFrom(given)
        rule.ClearField("state")
        drawn = secrets.token_hex(4)
        rule.rule = f"r_{session.id}_{drawn}"
        rule.session, rule.session_name = session.id, session.name
        rule.name = rule.name or f"rule-{drawn}"
        rule.created_ns = time.time_ns()
        rule.severity = rule.severity or rules_pb2.SEVERITY_INFO
        rule.labels.update(checked_labels(given.labels))
        settle_zone(rule, self._config.time_zone)
        await self._store.create(peer_pb2.RuleRecord(rule=rule, tenant=session.tenant))
        audit(caller, "create rule", session.id)
        self._woken.set()
        return rule

    async def listed(
        self, caller: Caller, session: AnySession | None = None
    ) -> list[rules_pb2.Rule]:
        """Rules of a session, or of all sessions, that a caller may see, the oldest first."""
        caller.check(Permission.VIEW, session)
        if session is not None:
            return [each.rule for each in await self._store.of_session(session.id)]
        return [each.rule for each in await self._seen_by(caller)]

    async def get(self, name: str, caller: Caller) -> rules_pb2.Rule:
        caller.check(Permission.VIEW)
        return (await self.find(name, caller)).rule

    async def update(self, wanted: rules_pb2.UpdateRuleRequest, caller: Caller) -> rules_pb2.Rule:
        """Pause or resume a rule, or change when it tells. Raises what UpdateRule may answer."""
        caller.check(Permission.WATCH)
        kept = await self.find(wanted.rule, caller)
        caller.check(Permission.WATCH, kept)
        rule = await self._store.change(kept, partial(change_rule, wanted, self._config.time_zone))
        audit(caller, "update rule", rule.session)
        self._woken.set()
        return rule

    async def delete(self, name: str, caller: Caller) -> None:
        """Raises NotFoundError, PermissionDeniedError."""
        caller.check(Permission.WATCH)
        kept = await self.find(name, caller)
        caller.check(Permission.WATCH, kept)
        await self._store.delete(kept.record)
        audit(caller, "delete rule", kept.rule.session)
        self._woken.set()

    async def find(self, name: str, caller: Caller) -> Kept:
        """Rule by id, or by name where one only has it, among those that a caller may see. Raises
        NotFoundError."""
        if match := _ID.fullmatch(name):
            found = [
                each
                for each in await self._store.of_session(match[1])
                if each.rule.rule == name and caller.sees(each)
            ]
        else:
            found = [each for each in await self._seen_by(caller) if each.rule.name == name]
        if len(found) != 1:
            text = "several rules have this name: use an id" if found else "no such rule"
            raise NotFoundError(text, reason=Reason.RULE_NOT_FOUND)
        return found[0]

    async def create_webhook(self, given: rules_pb2.Webhook, caller: Caller) -> rules_pb2.Webhook:
        """Make a webhook, of a session by its id or name where it names one. Raises what
        CreateWebhook may answer."""
        caller.check(Permission.ADMIN)
        if given.session:
            given.session = (await self._sessions.locate(given.session, caller)).id
        return await self.webhooks.create(given, caller)

    async def erase_events(self, session: AnySession) -> None:
        """Remove the events of a session that is about to be deleted, and tell no more of it: one
        that came between the two would stay. Watching goes on where Redis does not answer."""
        if isinstance(session, Session):
            self._silenced.add(session)
            if (watchman := self._watchmen.pop(session, None)) is not None:
                await watchman.aclose()
        try:
            await self._event_store.erase(session.tenant, session.id)
        except BaseException:
            self._silenced.discard(session)
            raise

    async def _seen_by(self, caller: Caller) -> Sequence[Kept]:
        tenants = [caller.tenant] if caller.tenant else await self._store.tenants()
        return [each for each in await self._store.of_tenants(tenants) if caller.sees(each)]

    # --- for watchmen: `Lookout` ----------------------------------------------------------------

    @property
    def decisions(self) -> Decisions:
        return self._viewers.decisions

    @property
    def asks(self) -> Asks:
        return self._viewers.asks

    # --- sessions come and go -------------------------------------------------------------------

    def session_changed(self, session: AnySession) -> None:
        if isinstance(session, Session) and session not in self._watchmen:
            self._woken.set()

    def session_deleted(self, session: AnySession, reason: str) -> None:
        """The rules of a session go with it."""
        if isinstance(session, Session):
            self._dismiss(session)
            self._spawn(self._erase(session), f"{session.id}:rules:erase")

    def session_replaced(self, before: AnySession, now: AnySession) -> None:
        """Whichever gateway has it watches on."""
        if isinstance(before, Session):
            self._dismiss(before)
        self._woken.set()

    async def _erase(self, session: Session) -> None:
        try:
            await self._store.erase(session.id, session.tenant)
        except UnavailableError:  # they run out by themselves
            log.warning("rules not deleted: Redis is away", extra={"session": session.id})

    def _dismiss(self, session: Session) -> None:
        watchman = self._watchmen.pop(session, None)
        if watchman is not None:
            self._spawn(watchman.aclose(), f"{session.id}:rules:end")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = spawn(work, name=name)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # --- watchmen -------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEEP_S):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self._assign()
            except SightlineError:  # Redis is away: the rules that are known go on
                await asyncio.sleep(KEEP_S)
            except Exception:
                log.exception("rules not read")
                await asyncio.sleep(KEEP_S)

    async def _assign(self) -> None:
        """Let every session of this gateway's be watched for the rules that it has now."""
        sessions = self._sessions.all()
        version = await self._store.version()
        if version < self._version:  # it only grows
            log.warning("Redis has lost rules", extra={"watched": len(self._watchmen)})
        news = [each for each in sessions if version != self._version or each not in self._watchmen]
        if news:
            found = await self._store.of_sessions([each.id for each in news])
            for session in news:
                if session.alive and not session.moved and session not in self._silenced:
                    self._watchman(session).set(found[session.id])
        self._version = version
        if time.monotonic() - self._renewed_s > RENEW_S:
            if sessions:
                await self._store.keep([each.id for each in sessions])
            await self._event_store.trim(await self._store.tenants())
            self._renewed_s = time.monotonic()
        counts = Counter(kind for each in self._watchmen.values() for kind in each.kinds())
        for kind in KINDS:
            metrics.RULES.labels(kind).set(counts[kind])

    def _wake_readers(self) -> None:
        self.events.wake()
        self.webhooks.wake()
        if self._mqtt is not None:
            self._mqtt.wake()

    def _mqtt_delivery(self) -> Delivery:
        from services.gateway.rules.mqtt import ID, Mqtt  # with a client of MQTT

        return self.webhooks.delivery(ID, Mqtt(self._config, self._store), EVERYTHING)

    def _watchman(self, session: Session) -> Watchman:
        watchman = self._watchmen.get(session)
        if watchman is None:
            watchman = Watchman(
                session, self._config, self, self._store, self._event_store, self._wake_readers
            )
            self._watchmen[session] = watchman
            watchman.start()
        return watchman
