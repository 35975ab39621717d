"""Delivery of events to one receiver: in order, each until it is taken or given up."""

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass
from typing import Protocol

from services.common.backoff import Backoff
from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.auth.caller import Caller
from services.gateway.rules.event_store import Event, EventStore, place_of
from services.gateway.rules.rule_store import RuleStore
from services.gateway.rules.webhook_store import WebhookStore
from sightline.errors import UnavailableError
from sightline.v1 import rules_pb2

log = logging.getLogger(__name__)

LOOK_S = 0.5  # between two looks for events that other gateways told
CLAIM_S = 3.0  # between two tries to be the one who delivers, and until that is renewed
AWAY_S = 1.0
BATCH = 64
BACKOFF_S = (1.0, 30.0)
MOST_AGAIN_S = 300.0  # that a receiver may ask for
NOT_KEPT = "it had to make room before the receiver took it"
REASONS = REFUSED, TOO_OLD, LOST = ("refused", "too_old", "not_kept")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one try. `error`: "" where the receiver took it. `final`: no other try helps.
    `again_s`: before which the receiver wants none."""

    error: str = ""
    final: bool = False
    again_s: float = 0.0


class Receiver(Protocol):
    """Whoever is brought events, one after the other."""

    async def post(self, event: rules_pb2.RuleEvent) -> Outcome:
        """Try to bring an event once."""
        ...

    async def attend(self) -> None:
        """This gateway delivers: again and again, while it does."""
        ...

    async def leave(self) -> None:
        """End the delivery."""
        ...


@dataclass(frozen=True, slots=True)
class Scope:
    """Events that a receiver is brought: those that `viewer` may see, at least so severe, of one
    session or ("") of all."""

    viewer: Caller
    severity: int = 0
    session: str = ""

    def holds(self, event: Event) -> bool:
        told = event.event
        if told.severity < self.severity or self.session not in ("", told.session):
            return False
        return self.viewer.sees(event)


class Delivery:
    """The delivery of events to one receiver at one gateway. At least once: where that ends between
    a delivery and its note, the next one brings the event again, under the same id."""

    def __init__(
        self,
        id: str,
        receiver: Receiver,
        scope: Scope,
        owner: str,
        store: WebhookStore,
        events: EventStore,
        rules: RuleStore,
        retry_s: float,
    ) -> None:
        self._id = id
        self._receiver = receiver
        self._scope = scope
        self._owner = owner
        self._store = store
        self._events = events
        self._rules = rules
        self._retry_s = retry_s
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._after = "0-0"  # the event that was over last
        self._gone: dict[str, str] = {}  # of each tenant the last that was counted as lost
        self._lost: set[str] = set()  # of those that were found
        self._tenants: list[str] = []

    def start(self) -> None:
        self._task = spawn(self._run(), name=f"delivery:{self._id}")

    async def aclose(self) -> None:
        self._closed = True  # asyncio.wait_for, which aiomqtt uses, may pass a cancellation over
        await cancel_and_wait(self._task)
        await self._receiver.leave()
        with contextlib.suppress(UnavailableError):  # then its lease runs out
            await self._store.free(self._id, self._owner)

    def wake(self) -> None:
        self._news.set()

    async def _run(self) -> None:
        while not self._closed:
            try:
                if await self._store.claim(self._id, self._owner):
                    await self._receiver.attend()
                    await self._advance()
                else:
                    await self._receiver.leave()
                    await asyncio.sleep(CLAIM_S * random.uniform(0.5, 1.0))
            except UnavailableError:
                await asyncio.sleep(AWAY_S)
            except Exception:
                log.exception("delivery failed", extra={"receiver": self._id})
                await asyncio.sleep(AWAY_S)

    async def _advance(self) -> None:
        """Deliver what is there, or wait a little for more."""
        self._news.clear()
        place = await self._store.place(self._id)
        self._after, self._gone = place.after, place.gone
        tenant = self._scope.viewer.tenant
        self._tenants = [tenant] if tenant else await self._rules.tenants()
        found = await self._events.after(self._tenants, self._after, BATCH)
        self._lost.clear()
        await self._count_lost()  # after the look: what is not found by now is among them
        if not found:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()
            return
        for event in found:
            if self._closed or not await self._pass(event):
                return
            self._after = event.event.event

    async def _pass(self, event: Event) -> bool:
        """Have done with an event; False where another gateway delivers now."""
        told = event.event
        if told.event in self._lost or not self._scope.holds(event):
            return await self._store.skip(self._id, self._owner, told.event)
        backoff, failures = Backoff(*BACKOFF_S), 0
        while await self._store.claim(self._id, self._owner):
            if failures and await self._events.get([event.tenant], told.event) is None:
                break  # it was erased meanwhile, or had to make room
            outcome = await self._receiver.post(told)
            age_s = time.time() - place_of(told.event)[0] / 1000
            if not outcome.error:
                metrics.WEBHOOK_TRIES.labels("taken").inc()
                metrics.WEBHOOK_DELAY.observe(max(0.0, age_s))
                return await self._store.delivered(self._id, self._owner, told.event)
            metrics.WEBHOOK_TRIES.labels("refused" if outcome.final else "failed").inc()
            failures += 1
            fields = {"receiver": self._id, "event": told.event, "reason": outcome.error}
            if outcome.final or age_s > self._retry_s:
                log.warning("event not delivered", extra=fields)
                why = REFUSED if outcome.final else TOO_OLD
                metrics.WEBHOOK_DEAD.labels(why).inc()
                return await self._store.give_up(self._id, self._owner, told.event, outcome.error)
            if failures == 1:
                log.info("an event is not taken: it is tried again", extra=fields)
            with contextlib.suppress(UnavailableError):  # or full: the next try is noted
                await self._store.note(self._id, self._owner, failures, outcome.error)
            wait_s = max(backoff.next_s(), min(outcome.again_s, MOST_AGAIN_S))
            if self._closed or not await self._wait(wait_s):
                break
        return False

    async def _count_lost(self) -> None:
        """Count what had to make room before the receiver was brought it, also of what waits behind
        an event that is not taken."""
        count, after = 0, place_of(self._after)
        while True:
            places = {tenant: self._gone.get(tenant, "0-0") for tenant in self._tenants}
            found = await self._events.lost(places, BATCH)
            for event in found:
                id = event.event.event
                mine = place_of(id) > after and self._scope.holds(event)
                reason = NOT_KEPT if mine else ""
                if not await self._store.lose(self._id, self._owner, event.tenant, id, reason):
                    return  # another gateway delivers now, and counts
                self._gone[event.tenant] = id
                if mine:
                    count += 1
                    self._lost.add(id)
                    metrics.WEBHOOK_DEAD.labels(LOST).inc()
            if not found or not await self._store.claim(self._id, self._owner):
                break
        if count:
            log.warning(
                "events had to make room before a receiver took them",
                extra={"receiver": self._id, "events": count},
            )

    async def _wait(self, seconds: float) -> bool:
        """Wait, and remain the one who delivers; False where that is another now."""
        end_s = time.monotonic() + seconds
        while True:
            if not await self._store.claim(self._id, self._owner):
                return False
            await self._count_lost()
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return True
            await asyncio.sleep(min(CLAIM_S, left_s))
