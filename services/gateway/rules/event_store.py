"""Events of rules in Redis: one stream a tenant, with pictures and clips beside it."""

import heapq
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.gateway.config import GatewayConfig
from services.gateway.rules.records import Records
from services.gateway.rules.rule_store import gone_key, rules_key, state_of, told_key
from services.gateway.rules.scripts import PREFIX
from sightline.errors import InvalidArgumentError
from sightline.v1 import peer_pb2, rules_pb2

LAST, HOOKS = f"{PREFIX}last", f"{PREFIX}hooks"
BATCH = 256
MOST_SCANNED = 20_000  # of one list, where its reader wants few of many
_ID = re.compile(r"\d{1,15}-\d{1,10}")


@dataclass(frozen=True, slots=True)
class Told:
    """What became of an event: `event`, its id; "" where it was another gateway's, which told
    `state`. None of both: the rule is gone."""

    event: str = ""
    state: rules_pb2.RuleState | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event and the tenant that it belongs to; `name` of its session, as permissions know it."""

    event: rules_pb2.RuleEvent
    tenant: str

    @property
    def name(self) -> str:
        return self.event.session_name


class EventStore:
    """Reads and writes events. Every method raises UnavailableError while Redis is away."""

    def __init__(self, records: Records, config: GatewayConfig) -> None:
        self._records = records
        self._config = config

    async def tell(
        self,
        record: peer_pb2.RuleRecord,
        state: rules_pb2.RuleState,
        event: rules_pb2.RuleEvent,
        jpeg: bytes,
        fence: int,
    ) -> Told:
        """Add an event, together with what its rule has told from now on: once, whichever gateways
        see it. `fence`: of the session's lease."""
        config, rule = self._config, record.rule
        keys = [rules_key(rule.session), told_key(rule.session), _events(record.tenant)]
        keys += [_pictures(record.tenant), LAST, _lost(record.tenant), HOOKS]
        keys += [_clips(record.tenant), _acks(record.tenant), gone_key(rule.session)]
        arguments = [rule.rule, fence, state.events, state.SerializeToString()]
        arguments += [event.SerializeToString(), jpeg, config.events, _ms(config.events_s)]
        arguments += [config.event_pictures, _ms(config.event_pictures_s)]
        reply = await self._records.run("tell", keys, arguments)
        if reply[0] == 2:
            return Told(reply[1].decode(), state)
        if reply[0] == 0:
            return Told()
        told_fence, number, told_id, encoded = reply[1].split(b" ", 3)
        same = (int(told_fence), int(number)) == (fence, state.events)
        if same and encoded == state.SerializeToString():  # ours: the first reply was lost
            return Told(told_id.decode(), state)
        return Told("", state_of(reply[1]))

    async def add_clip(self, tenant: str, event: str, mp4: bytes) -> bool:
        """Keep the seconds before and after; whether that was done."""
        config = self._config
        arguments = [event, mp4, config.event_clips, _ms(config.event_pictures_s)]
        return bool(await self._records.run("clip", [_clips(tenant), _events(tenant)], arguments))

    async def last(self) -> str:
        """Id of the newest event of all tenants."""
        found = await self._records.do(lambda client: client.get(LAST))
        return "0-0" if found is None else found.decode()

    async def after(self, tenants: list[str], after: str, most: int) -> list[Event]:
        """The first events of some tenants after that id, at most so many, the oldest first."""

        def read(pipe: Any) -> None:
            for tenant in tenants:
                pipe.xrange(_events(tenant), f"({after}", "+", most)

        replies = await self._records.together(read)
        found = [
            (place_of(id.decode()), tenant, id.decode(), fields[b"e"])
            for tenant, rows in zip(tenants, replies, strict=True)
            for id, fields in rows
        ]
        firsts = heapq.nsmallest(most, found)
        return [_event(id, encoded, tenant) for _, tenant, id, encoded in firsts]

    async def lost(self, after: Mapping[str, str], most: int) -> list[Event]:
        """Events that had to make room before every receiver had taken them: of each tenant the
        first after an id, at most so many, the oldest first."""

        def read(pipe: Any) -> None:
            for tenant, id in after.items():
                pipe.xrange(_lost(tenant), f"({id}", "+", most)

        return [
            _event(id.decode(), fields[b"e"], tenant)
            for tenant, rows in zip(after, await self._records.together(read), strict=True)
            for id, fields in rows
        ]

    async def newest(
        self,
        tenants: list[str],
        before: str,
        after: str,
        most: int,
        wanted: Callable[[Event], bool],
    ) -> tuple[list[Event], str]:
        """The newest events before one id ("": all) and after another that are wanted, with their
        acknowledgements, and the id before which the next page begins; "": there is none."""
        found: list[Event] = []
        scanned = 0
        while len(found) < most and scanned < MOST_SCANNED:
            rows = await self._before(tenants, before, after)
            for event in rows:
                scanned += 1
                before = event.event.event
                if wanted(event):
                    found.append(event)
                    if len(found) == most:
                        return found, before
            if len(rows) < BATCH:
                return found, ""
        return found, before

    async def get(self, tenants: list[str], event: str) -> Event | None:
        found = [
            each for each in await self._before(tenants, "", "", event) if each.event.event == event
        ]
        return found[0] if found else None

    async def jpeg(self, event: Event) -> bytes:
        """Picture of the moment; empty where none is kept."""
        return await self._beside(_pictures(event.tenant), event)

    async def clip(self, event: Event) -> bytes:
        return await self._beside(_clips(event.tenant), event)

    async def acknowledge(
        self, event: Event, acknowledgement: rules_pb2.Acknowledgement
    ) -> rules_pb2.Acknowledgement | None:
        """The acknowledgement that holds: the first one. None: the event is gone."""
        keys = [_events(event.tenant), _acks(event.tenant)]
        encoded = acknowledgement.SerializeToString()
        arguments = [event.event.event, encoded, self._config.events, _ms(self._config.events_s)]
        found = await self._records.run("acknowledge", keys, arguments)
        return None if found is None else rules_pb2.Acknowledgement.FromString(found)

    async def trim(self, tenants: list[str]) -> None:
        """Remove what has been kept for long enough, also where nothing new pushes it out."""
        config = self._config
        oldest_seen = str(max(0, _ms(time.time() - config.event_pictures_s)))
        for tenant in tenants:
            keys = [_events(tenant), _lost(tenant), HOOKS]
            keys += [_pictures(tenant), _clips(tenant), _acks(tenant)]
            await self._records.run("forget", keys, [config.events, _ms(config.events_s)])

        def remove(pipe: Any) -> None:
            for tenant in tenants:
                for key in (_pictures(tenant), _clips(tenant)):
                    pipe.xtrim(key, minid=oldest_seen, approximate=False)

        await self._records.together(remove)

    async def erase(self, tenant: str, session: str) -> None:
        """Remove every trace of the events of a session that is about to be deleted. None comes
        after them, whichever gateway sees it."""
        await self._records.run("silence", [gone_key(session)], [])
        for lost in (False, True):
            await self._erase(tenant, session, lost=lost)

    async def _erase(self, tenant: str, session: str, *, lost: bool) -> None:
        after = "0-0"
        while rows := (
            await self.lost({tenant: after}, BATCH)
            if lost
            else await self.after([tenant], after, BATCH)
        ):
            after = rows[-1].event.event
            ids = [each.event.event for each in rows if each.event.session == session]
            if not ids:
                continue

            def remove(pipe: Any, ids: list[str] = ids) -> None:
                for key in (_events, _lost, _pictures, _clips):
                    pipe.xdel(key(tenant), *ids)
                pipe.hdel(_acks(tenant), *ids)

            await self._records.together(remove)

    async def _before(
        self, tenants: list[str], before: str, after: str, exactly: str = ""
    ) -> list[Event]:
        """The newest events between two ids, at most a batch; or that with an id."""
        newest = exactly or (f"({before}" if before else "+")
        oldest = exactly or (f"({after}" if after else "-")

        def read(pipe: Any) -> None:
            for tenant in tenants:
                pipe.xrevrange(_events(tenant), newest, oldest, BATCH)

        replies = await self._records.together(read)
        rows = [
            (place_of(id.decode()), tenant, id.decode(), fields[b"e"])
            for tenant, found in zip(tenants, replies, strict=True)
            for id, fields in found
        ]
        events = [
            _event(id, encoded, tenant) for _, tenant, id, encoded in heapq.nlargest(BATCH, rows)
        ]
        if events:
            await self._add_acknowledgements(events)
        return events

    async def _add_acknowledgements(self, events: list[Event]) -> None:
        def read(pipe: Any) -> None:
            for event in events:
                pipe.hget(_acks(event.tenant), event.event.event)

        for event, found in zip(events, await self._records.together(read), strict=True):
            if found is not None:
                event.event.acknowledged.ParseFromString(found)

    async def _beside(self, key: str, event: Event) -> bytes:
        id = event.event.event
        rows = await self._records.do(lambda client: client.xrange(key, id, id))
        return rows[0][1][b"e"] if rows else b""


def check_event_id(id: str) -> None:
    """Raise InvalidArgumentError for what is no id of an event."""
    if not _ID.fullmatch(id):
        raise InvalidArgumentError("the id of an event is <milliseconds>-<number>")


def place_of(id: str) -> tuple[int, int]:
    """Place of an event's id among others."""
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number)


def _event(id: str, encoded: bytes, tenant: str) -> Event:
    event = rules_pb2.RuleEvent.FromString(encoded)
    event.event = id
    return Event(event, tenant)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _events(tenant: str) -> str:
    return f"{PREFIX}events:{tenant}"


def _lost(tenant: str) -> str:
    return f"{PREFIX}lost:{tenant}"


def _acks(tenant: str) -> str:
    return f"{PREFIX}acks:{tenant}"


def _pictures(tenant: str) -> str:
    return f"{PREFIX}pictures:{tenant}"


def _clips(tenant: str) -> str:
    return f"{PREFIX}clips:{tenant}"
