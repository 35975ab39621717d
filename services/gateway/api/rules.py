"""Rules, their events and webhooks by HTTP."""

import asyncio
import contextlib
import csv
import datetime
import io
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from aiohttp import web

from services.common.errors import error_event
from services.common.places import Trusted
from services.gateway.api.callers import Callers
from services.gateway.api.event_stream import ClientGoneError, EventStream, while_there
from services.gateway.api.messages import as_json, number_of, place_of_request, read_body
from services.gateway.api.operations import JSON, SSE, Parameter, operation
from services.gateway.api.rule_calls import not_configured
from services.gateway.auth.caller import Caller, Permission
from services.gateway.rules.checks import MAX_RULE_BYTES
from services.gateway.sessions.sessions import Sessions
from sightline.errors import NotFoundError, SightlineError
from sightline.event_table import COLUMNS, event_row
from sightline.reasons import Reason
from sightline.v1 import gateway_pb2, rules_pb2

if TYPE_CHECKING:
    from services.gateway.rules.rules import Rules

TURN = 25  # events that are written at a stretch
CSV = "text/csv"
OF_SESSION = Parameter(name="session", about="Only of this session, by id or name")
OF_RULE = Parameter(name="rule", about="Only of this rule, by id or name")
AFTER = Parameter(name="after", about="Only later events than the one with this id")
OPEN = Parameter(
    name="unacknowledged",
    about="1: only those that nobody has acknowledged",
    schema={"type": "string", "enum": ["0", "1"]},
)
PAGES = (
    Parameter(
        name="page_size",
        about="At most 1000; 100 by default",
        schema={"type": "integer", "minimum": 0, "maximum": 1000},
    ),
    Parameter(name="page_token", about="`next_page_token` of the page before"),
)
RESUME = Parameter(
    name="Last-Event-ID", where="header", about="Of a stream: the last event that arrived"
)
REFUSALS = (400, 401, 403, 404, 503)


class RulesApi:
    """Routes of rules. rules: None on a server without a Redis, which refuses; zone: of the times
    in tables."""

    def __init__(
        self,
        sessions: Sessions,
        callers: Callers,
        rules: "Rules | None",
        trusted: Trusted,
        zone: datetime.tzinfo,
    ) -> None:
        self._zone = zone
        self._trusted = trusted
        self._sessions = sessions
        self._callers = callers
        self._rules = rules

    # --- rules --------------------------------------------------------------------------------

    @operation(
        "POST",
        "/api/sessions/{session}/rules",
        "rules",
        "Watch a session for something from now on",
        about="Whoever looks: events are kept, told on `/api/events` and sent to webhooks.",
        takes=rules_pb2.Rule,
        gives=rules_pb2.Rule,
        status=201,
        refusals=(400, 401, 403, 404, 409, 429, 503),
    )
    async def _create(self, request: web.Request) -> web.Response:
        name = request.match_info["session"]
        caller = await self._caller(request, Permission.WATCH, name)
        session = await self._sessions.locate(name, caller)
        rules = self._asked()
        wanted = await read_body(request, rules_pb2.Rule(), MAX_RULE_BYTES)
        made = await rules.create(wanted, session, caller)
        return web.json_response(as_json(made), status=201)

    @operation(
        "GET",
        "/api/sessions/{session}/rules",
        "rules",
        "The rules of a session",
        gives=rules_pb2.ListRulesResponse,
        refusals=REFUSALS,
    )
    async def _of_session(self, request: web.Request) -> web.Response:
        name = request.match_info["session"]
        caller = await self._caller(request, Permission.VIEW, name)
        session = await self._sessions.locate(name, caller)
        found = await self._asked().listed(caller, session)
        return web.json_response(as_json(rules_pb2.ListRulesResponse(rules=found)))

    @operation(
        "GET",
        "/api/rules",
        "rules",
        "All rules, oldest first",
        gives=rules_pb2.ListRulesResponse,
        refusals=REFUSALS,
    )
    async def _list(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.VIEW)
        found = await self._asked().listed(caller)
        return web.json_response(as_json(rules_pb2.ListRulesResponse(rules=found)))

    @operation(
        "GET", "/api/rules/{rule}", "rules", "One rule, by id or name", gives=rules_pb2.Rule,
        refusals=REFUSALS,
    )  # fmt: skip
    async def _get(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.VIEW)
        return web.json_response(
            as_json(await self._asked().get(request.match_info["rule"], caller))
        )

    @operation(
        "PATCH",
        "/api/rules/{rule}",
        "rules",
        "Pause or resume a rule, or change when it tells",
        about="What is left out stays.",
        takes=rules_pb2.UpdateRuleRequest,
        gives=rules_pb2.Rule,
        refusals=REFUSALS,
    )
    async def _update(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.WATCH)
        rules = self._asked()
        wanted = await read_body(request, rules_pb2.UpdateRuleRequest())
        wanted.rule = request.match_info["rule"]
        return web.json_response(as_json(await rules.update(wanted, caller)))

    @operation(
        "DELETE", "/api/rules/{rule}", "rules", "End a rule", about="Its events stay.", status=204,
        refusals=REFUSALS,
    )  # fmt: skip
    async def _delete(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.WATCH)
        await self._asked().delete(request.match_info["rule"], caller)
        return web.Response(status=204)

    # --- events -------------------------------------------------------------------------------

    @operation(
        "GET",
        "/api/events",
        "rules",
        "Events of rules",
        about="The newest first, as JSON or, with `Accept: text/csv`, as a table, whose `Link` "
        "header leads to the next page. With `Accept: text/event-stream` those that come from now "
        "on, each as `rule_event` with its id, by which EventSource resumes after a broken "
        "connection.",
        gives=rules_pb2.ListEventsResponse,
        kinds=(JSON, CSV, SSE),
        parameters=(OF_SESSION, OF_RULE, AFTER, OPEN, *PAGES, RESUME),
        refusals=REFUSALS,
    )
    async def _events(self, request: web.Request) -> web.StreamResponse:
        session = request.query.get("session", "")
        caller = await self._caller(request, Permission.VIEW, session)
        accept = request.headers.get("Accept", "")
        if SSE in accept:
            return await self._stream(request, caller)
        wanted = rules_pb2.ListEventsRequest(
            session=session,
            rule=request.query.get("rule", ""),
            after=request.query.get("after", ""),
            unacknowledged=request.query.get("unacknowledged") == "1",
            page_size=number_of(request, "page_size"),
            page_token=request.query.get("page_token", ""),
        )
        found = await self._asked().events.listed(wanted, caller)
        if CSV in accept:
            return web.Response(
                text=await table_of(found, self._zone),
                content_type=CSV,
                charset="utf-8",
                headers=_link_to_next(request, found.next_page_token),
            )
        return web.json_response(text=await page_of(found))

    async def _stream(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        wanted = rules_pb2.WatchEventsRequest(
            session=request.query.get("session", ""),
            rule=request.query.get("rule", ""),
            after=request.headers.get("Last-Event-ID", "") or request.query.get("after", ""),
        )
        following = await self._asked().events.follow(
            wanted, caller, place_of_request(request, self._trusted)
        )
        async with EventStream(request) as stream:

            async def relay() -> None:
                async with contextlib.aclosing(following) as events:
                    await stream.begin()
                    async for event in events:
                        await stream.send(as_json(event), kind="rule_event", number=event.event)

            try:
                await while_there(request, relay())
            except ClientGoneError:
                pass
            except SightlineError as error:
                last = gateway_pb2.ServerEvent(error=error_event(error))
                with contextlib.suppress(ClientGoneError, SightlineError):
                    await stream.send(as_json(last), kind="error")
        return stream.response

    @operation(
        "GET", "/api/events/{event}", "rules", "One event", gives=rules_pb2.RuleEvent,
        refusals=REFUSALS,
    )  # fmt: skip
    async def _event(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.VIEW)
        found = await self._asked().events.find(request.match_info["event"], caller)
        return web.json_response(as_json(found.event))

    @operation(
        "GET",
        "/api/events/{event}/picture",
        "rules",
        "Picture of the moment",
        kinds=("image/jpeg",),
        refusals=REFUSALS,
    )
    async def _picture(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.VIEW)
        jpeg = await self._asked().events.picture(request.match_info["event"], caller)
        return _kept(jpeg, "image/jpeg")

    @operation(
        "GET",
        "/api/events/{event}/clip",
        "rules",
        "The seconds before and after",
        about="Where the server records; complete once those after it have passed.",
        kinds=("video/mp4",),
        refusals=REFUSALS,
    )
    async def _clip(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.VIEW)
        mp4 = await self._asked().events.clip(request.match_info["event"], caller)
        return _kept(mp4, "video/mp4")

    @operation(
        "POST",
        "/api/events/{event}/acknowledge",
        "rules",
        "Acknowledge an event",
        about="The first acknowledgement holds.",
        takes={"type": "object", "properties": {"note": {"type": "string"}}},
        gives=rules_pb2.RuleEvent,
        refusals=REFUSALS,
    )
    async def _acknowledge(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.WATCH)
        wanted = rules_pb2.AcknowledgeEventRequest()
        if request.can_read_body:
            wanted = await read_body(request, wanted)
        wanted.event = request.match_info["event"]
        return web.json_response(as_json(await self._asked().events.acknowledge(wanted, caller)))

    # --- webhooks -----------------------------------------------------------------------------

    @operation(
        "POST",
        "/api/webhooks",
        "rules",
        "Send events to an address",
        about="Signed as by Standard Webhooks with the `secret` that this reply alone holds, each "
        "at least once.",
        takes=rules_pb2.Webhook,
        gives=rules_pb2.Webhook,
        status=201,
        refusals=(400, 401, 403, 429, 503),
    )
    async def _create_webhook(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.ADMIN)
        rules = self._asked()
        wanted = await read_body(request, rules_pb2.Webhook())
        return web.json_response(as_json(await rules.create_webhook(wanted, caller)), status=201)

    @operation(
        "GET",
        "/api/webhooks",
        "rules",
        "The webhooks, and how far each has come",
        gives=rules_pb2.ListWebhooksResponse,
        refusals=REFUSALS,
    )
    async def _webhooks(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.ADMIN)
        found = await self._asked().webhooks.listed(caller)
        return web.json_response(as_json(rules_pb2.ListWebhooksResponse(webhooks=found)))

    @operation(
        "DELETE", "/api/webhooks/{webhook}", "rules", "End a webhook", status=204,
        refusals=REFUSALS,
    )  # fmt: skip
    async def _delete_webhook(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.ADMIN)
        await self._asked().webhooks.delete(request.match_info["webhook"], caller)
        return web.Response(status=204)

    @operation(
        "GET",
        "/api/webhooks/{webhook}/dead",
        "rules",
        "Events that a webhook did not take",
        gives=rules_pb2.ListDeadLettersResponse,
        refusals=REFUSALS,
    )
    async def _dead(self, request: web.Request) -> web.Response:
        caller = await self._caller(request, Permission.ADMIN)
        letters = await self._asked().webhooks.dead_letters(request.match_info["webhook"], caller)
        return web.json_response(as_json(rules_pb2.ListDeadLettersResponse(letters=letters)))

    # --- inside -------------------------------------------------------------------------------

    async def erase_events(self, name: str, caller: Caller) -> None:
        """Remove the events of a session that its caller is about to delete."""
        session = await self._sessions.locate(name, caller)
        caller.check(Permission.ADMIN, session)
        await self._asked().erase_events(session)

    async def _caller(
        self, request: web.Request, permission: Permission, session: str = ""
    ) -> Caller:
        """Whoever wants something that takes a permission."""
        path = self._sessions.name_of(session)
        caller = await self._callers.of_request(request, permission, path=path)
        caller.check(permission)
        return caller

    def _asked(self) -> "Rules":
        if self._rules is None:
            raise not_configured()
        return self._rules


async def page_of(found: rules_pb2.ListEventsResponse) -> str:
    """Events as JSON."""
    page = as_json(rules_pb2.ListEventsResponse(next_page_token=found.next_page_token))
    if found.events:
        page["events"] = [as_json(event) async for event in _in_turns(found)]
    return json.dumps(page)


async def _in_turns(
    found: rules_pb2.ListEventsResponse,
) -> AsyncIterator[rules_pb2.RuleEvent]:
    """Events one by one, where others come between: a page of a thousand takes a while to write."""
    for number, event in enumerate(found.events):
        if number % TURN == TURN - 1:
            await asyncio.sleep(0)
        yield event


async def table_of(
    found: rules_pb2.ListEventsResponse, zone: datetime.tzinfo = datetime.UTC
) -> str:
    """Events as CSV with a heading."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    async for event in _in_turns(found):
        severity = rules_pb2.Severity.Name(event.severity).removeprefix("SEVERITY_").lower()
        row = {**as_json(event, whole=True), "severity": severity}
        row["acknowledged_by"] = event.acknowledged.by
        row["acknowledged_ns"] = event.acknowledged.time_ns or ""
        writer.writerow(event_row(row, zone))
    return text.getvalue()


def _link_to_next(request: web.Request, token: str) -> dict[str, str]:
    """Where the table goes on, as a header: it has no place of its own for that."""
    if not token:
        return {}
    return {
        "Link": f'<?{request.rel_url.update_query(page_token=token).raw_query_string}>; rel="next"'
    }


def _kept(body: bytes, kind: str) -> web.Response:
    if not body:
        raise NotFoundError("none is kept of this event", reason=Reason.EVENT_NOT_FOUND)
    return web.Response(body=body, content_type=kind, headers={"Cache-Control": "no-store"})
