"""Events of rules, as callers read them: listed, acknowledged, and told as they come."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

from services.common.in_flight import InFlight
from services.common.tasks import spawn
from services.gateway import metrics
from services.gateway.auth.authoriser import audit
from services.gateway.auth.caller import Caller, Permission
from services.gateway.rules.event_store import BATCH, Event, EventStore, check_event_id
from services.gateway.rules.rule_store import RuleStore
from services.gateway.sessions.sessions import Sessions
from sightline.errors import (
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from sightline.reasons import Reason
from sightline.v1 import rules_pb2

LOOK_S = 0.25  # between two looks for events that other gateways told
MOST_READERS = 256
PAGE, MAX_PAGE = 100, 1000
MAX_NOTE_CHARACTERS = 1024


class Events:
    """The events in Redis. Readers are woken at once by what this gateway tells, and soon by what
    others tell. One event loop."""

    def __init__(self, store: EventStore, rules: RuleStore, sessions: Sessions) -> None:
        self._store = store
        self._rules = rules
        self._sessions = sessions
        self._reading = InFlight(
            "readers of events",
            owner="the gateway",
            most=MOST_READERS,
            changed=self._counted,
            reason=Reason.TOO_MANY_VIEWERS,
        )
        self._news = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def readers(self) -> int:
        """Callers who are told events as they come."""
        return self._reading.count

    def wake(self) -> None:
        """There is an event."""
        self._news.set()
        self._news = asyncio.Event()

    def close(self) -> None:
        """Send readers away: they may go on at another gateway."""
        self._closed = True
        self.wake()

    async def listed(
        self, request: rules_pb2.ListEventsRequest, caller: Caller
    ) -> rules_pb2.ListEventsResponse:
        """The newest first. Raises InvalidArgumentError for what is no id."""
        caller.check(Permission.VIEW)
        for id in filter(None, (request.after, request.page_token)):
            check_event_id(id)
        wanted = await self._wanted(request.session, request.rule, caller)
        most = min(request.page_size or PAGE, MAX_PAGE)

        def fits(event: Event) -> bool:
            acknowledged = event.event.HasField("acknowledged")
            return wanted(event) and not (request.unacknowledged and acknowledged)

        tenants = await self._tenants(caller)
        found, more = await self._store.newest(
            tenants, request.page_token, request.after, most, fits
        )
        return rules_pb2.ListEventsResponse(
            events=[each.event for each in found], next_page_token=more
        )

    async def follow(
        self, request: rules_pb2.WatchEventsRequest, caller: Caller, place: str = ""
    ) -> AsyncGenerator[rules_pb2.RuleEvent, None]:
        """Events as they come from now on; what came after `after` first. They end with
        UnavailableError when the gateway does, and with UnauthenticatedError when the caller's
        credential has run out. place: whose share of the readers this one takes."""
        caller.check(Permission.VIEW)
        if request.after:
            check_event_id(request.after)
        self._reading.check(place)
        wanted = await self._wanted(request.session, request.rule, caller)
        after = request.after or await self._store.last()
        return self._follow(after, wanted, caller, place)

    async def _follow(
        self, after: str, wanted: Callable[[Event], bool], caller: Caller, place: str
    ) -> AsyncGenerator[rules_pb2.RuleEvent, None]:
        with self._reading.under_way(place):
            while True:
                caller.check(Permission.VIEW)
                if self._closed:
                    raise UnavailableError("the gateway is draining", reason=Reason.DRAINING)
                news = self._news
                found = await self._store.after(await self._tenants(caller), after, BATCH)
                for event in found:
                    after = event.event.event
                    if wanted(event):
                        yield event.event
                if not found:
                    await news.wait()

    async def get(
        self, request: rules_pb2.GetEventRequest, caller: Caller
    ) -> rules_pb2.GetEventResponse:
        """Raises NotFoundError."""
        event = await self.find(request.event, caller)
        return rules_pb2.GetEventResponse(
            event=event.event,
            jpeg=await self._store.jpeg(event) if event.event.picture else b"",
            mp4=await self._store.clip(event) if event.event.clip else b"",
        )

    async def picture(self, id: str, caller: Caller) -> bytes:
        """JPEG of the moment; empty where none is kept (any more)."""
        return await self._store.jpeg(await self.find(id, caller))

    async def clip(self, id: str, caller: Caller) -> bytes:
        """MP4 of the seconds before and after; empty where none is kept (any more, or yet)."""
        return await self._store.clip(await self.find(id, caller))

    async def acknowledge(
        self, request: rules_pb2.AcknowledgeEventRequest, caller: Caller
    ) -> rules_pb2.RuleEvent:
        """The event with the acknowledgement that holds: the first."""
        if len(request.note) > MAX_NOTE_CHARACTERS or not request.note.isprintable():
            raise InvalidArgumentError(
                f"a note has at most {MAX_NOTE_CHARACTERS} printable characters"
            )
        event = await self.find(request.event, caller)
        caller.check(Permission.WATCH, event)
        acknowledgement = rules_pb2.Acknowledgement(
            by=caller.name, time_ns=time.time_ns(), note=request.note
        )
        holds = await self._store.acknowledge(event, acknowledgement)
        if holds is None:
            raise _no_event()
        audit(caller, "acknowledge", event.event.session)
        event.event.acknowledged.CopyFrom(holds)
        return event.event

    async def find(self, id: str, caller: Caller) -> Event:
        """Raises NotFoundError for an event that is not there for this caller."""
        caller.check(Permission.VIEW)
        check_event_id(id)
        event = await self._store.get(await self._tenants(caller), id)
        if event is None or not caller.sees(event):
            raise _no_event()
        return event

    async def _tenants(self, caller: Caller) -> list[str]:
        """Whose events a caller may see."""
        return [caller.tenant] if caller.tenant else await self._rules.tenants()

    async def _wanted(self, session: str, rule: str, caller: Caller) -> Callable[[Event], bool]:
        """Whether an event is one of a session and of a rule that a caller may see. What is named
        may be gone: its events stay."""
        of_session = session
        if session:
            with contextlib.suppress(NotFoundError):
                of_session = (await self._sessions.locate(session, caller)).id

        def wanted(event: Event) -> bool:
            told = event.event
            if rule and rule not in (told.rule, told.rule_name):
                return False
            if session and of_session != told.session and session != told.session_name:
                return False
            return caller.sees(event)

        return wanted

    # --- news -------------------------------------------------------------------------------

    def _counted(self, readers: int) -> None:
        metrics.EVENT_READERS.set(readers)
        if readers and self._looking is None:
            self._looking = spawn(self._look(), name="rules:events")
        elif not readers and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self) -> None:
        """Wake readers when another gateway has told something."""
        last = ""
        while True:
            with contextlib.suppress(UnavailableError):
                before, last = last, await self._store.last()
                if last != before:
                    self.wake()
            await asyncio.sleep(LOOK_S)


def _no_event() -> NotFoundError:
    return NotFoundError("no such event is kept", reason=Reason.EVENT_NOT_FOUND)
