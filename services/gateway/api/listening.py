"""Listening by HTTP: a viewer's events as server-sent events, and the watches it hears of.

A stream of events is a viewer's line, as the WebSocket is: it can be resumed for a while after it
broke, and its watches go on meanwhile.
"""

import contextlib
import secrets
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web

from services.common.errors import error_event
from services.gateway.api.callers import Callers
from services.gateway.api.event_stream import ClientGoneError, EventStream, wait_gone
from services.gateway.api.messages import as_json, place_of_request, read_body
from services.gateway.api.operations import SSE, Parameter, operation
from services.gateway.api.questions import HANDLE
from services.gateway.api.viewed import session_in_path
from services.gateway.auth.caller import VIEWING, Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.viewers import Viewers
from sightline.errors import InvalidArgumentError, SightlineError
from sightline.v1 import gateway_pb2

WATCHED: dict[str, Any] = {
    "type": "object",
    "required": ["handle", "watch"],
    "properties": {"handle": {"type": "string"}, "watch": gateway_pb2.Watch},
}
WATCHES: dict[str, Any] = {
    "type": "object",
    "required": ["watches"],
    "properties": {"watches": {"type": "array", "items": gateway_pb2.Watch}},
}
_WATCHES = "/api/sessions/{session}/watches"
KINDS = frozenset(
    field.name for field in gateway_pb2.ServerEvent.DESCRIPTOR.oneofs_by_name["event"].fields
)


class ListeningApi:
    """`events` and `watches` of a session."""

    def __init__(
        self, config: GatewayConfig, sessions: Sessions, viewers: Viewers, callers: Callers
    ) -> None:
        self._sessions = sessions
        self._viewers = viewers
        self._callers = callers
        self._trusted = config.trusted()

    @operation(
        "GET",
        "/api/sessions/{session}/events",
        "events",
        "Everything that a viewer hears",
        about="Events are the WebSocket's, each with its kind as SSE's `event` and with an id, "
        "by which EventSource resumes after a broken connection: what was missed comes again. "
        "The first is `started`, with a `resume_handle` by which questions and watches are put "
        "to this viewer.",
        kinds=(SSE,),
        parameters=(
            Parameter(
                name="watch",
                about="A condition to watch; may be given several times",
                schema={"type": "array", "items": {"type": "string"}},
            ),
            Parameter(name="only", about="Kinds of events that are sent, with commas between"),
            Parameter(name="conversation", about="One to continue"),
            HANDLE,
            Parameter(
                name="Last-Event-ID", where="header", about="The last event that arrived, to resume"
            ),
        ),
    )
    async def events(self, request: web.Request) -> web.StreamResponse:
        session, caller = await self._session(request, *VIEWING)
        caller.check(Permission.VIEW, session)
        only = _kinds_of(request)
        start = gateway_pb2.Start(
            session=session.id,
            conversation=request.query.get("conversation", ""),
            resume_handle=request.query.get("handle", ""),
        )
        handle, _, number = request.headers.get("Last-Event-ID", "").rpartition("/")
        if handle and number.isascii() and number.isdecimal() and len(number) <= 18:
            start.resume_handle, start.last_sequence = handle, int(number)
        handle = ""

        async with EventStream(request) as stream:

            async def send(event: gateway_pb2.ServerEvent) -> None:
                nonlocal handle
                kind = event.WhichOneof("event") or ""
                if kind == "started":
                    handle = event.started.resume_handle
                elif only and kind not in only:
                    return
                await stream.send(as_json(event), kind=kind, number=f"{handle}/{event.sequence}")

            said = _said(request, start)
            try:
                place = place_of_request(request, self._trusted)
                await self._viewers.serve(said, send, place, caller)
            except ClientGoneError:
                pass
            except SightlineError as error:
                if not stream.begun:
                    raise
                last = gateway_pb2.ServerEvent(error=error_event(error))
                with contextlib.suppress(ClientGoneError, SightlineError):
                    await stream.send(as_json(last), kind="error")
            finally:
                await said.aclose()
        return stream.response

    @operation(
        "POST",
        _WATCHES,
        "events",
        "Watch for something",
        about="The watch is the viewer's of the handle. Without one it is a new viewer's, whose "
        "handle is in the reply: open `events` with it to hear. Nobody who listens for a while "
        "(GATEWAY_RESUME_S), and it ends.",
        takes=gateway_pb2.Watch,
        gives=WATCHED,
        status=201,
        parameters=(HANDLE,),
    )
    async def watch(self, request: web.Request) -> web.Response:
        session, caller = await self._session(request, Permission.WATCH)
        caller.check(Permission.WATCH, session)
        watch = await read_body(request, gateway_pb2.Watch())
        watch.watch = watch.watch or secrets.token_hex(6)
        handle = request.query.get("handle")
        if handle is None:
            start = gateway_pb2.Start(session=session.id)
            place = place_of_request(request, self._trusted)
            viewer = self._viewers.open(start, place, caller, session)
        else:
            viewer = self._viewers.of_handle(handle, session)
        try:
            viewer.act(gateway_pb2.ClientEvent(watch=watch))
        except SightlineError:
            if handle is None:
                viewer.close("refused")
            raise
        body = {"handle": viewer.handle, "watch": as_json(watch)}
        return web.json_response(body, status=201)

    @operation(
        "GET", _WATCHES, "events", "The watches of a viewer", gives=WATCHES, parameters=(HANDLE,)
    )
    async def watches(self, request: web.Request) -> web.Response:
        session, caller = await self._session(request, Permission.WATCH)
        caller.check(Permission.WATCH, session)
        viewer = self._viewers.of_handle(request.query.get("handle", ""), session)
        return web.json_response({"watches": [as_json(watch) for watch in viewer.watching()]})

    @operation(
        "DELETE", _WATCHES + "/{watch}", "events", "End a watch", status=204, parameters=(HANDLE,)
    )
    async def unwatch(self, request: web.Request) -> web.Response:
        session, caller = await self._session(request, Permission.WATCH)
        caller.check(Permission.WATCH, session)
        viewer = self._viewers.of_handle(request.query.get("handle", ""), session)
        unwanted = gateway_pb2.Unwatch(watch=request.match_info["watch"])
        viewer.act(gateway_pb2.ClientEvent(unwatch=unwanted))
        return web.Response(status=204)

    async def _session(
        self, request: web.Request, *permissions: Permission
    ) -> tuple[AnySession, Caller]:
        return await session_in_path(request, self._sessions, self._callers, *permissions)


async def _said(
    request: web.Request, start: gateway_pb2.Start
) -> AsyncGenerator[gateway_pb2.ClientEvent, None]:
    """What the viewer says: all of it in the address. Raises ClientGoneError at the end: a client
    that leaves may come back."""
    yield gateway_pb2.ClientEvent(start=start)
    for condition in request.query.getall("watch", []):
        # The same name on every connection, so that a watch that goes on is not begun anew.
        watch = gateway_pb2.Watch(watch=condition[:128], condition=condition)
        yield gateway_pb2.ClientEvent(watch=watch)
    await wait_gone(request)
    raise ClientGoneError


def _kinds_of(request: web.Request) -> frozenset[str]:
    """Kinds of events that are wanted; none: all of them. Raises InvalidArgumentError."""
    words = ",".join(request.query.getall("only", []))
    kinds = frozenset(word.strip() for word in words.split(",") if word.strip())
    if unknown := kinds - KINDS:
        raise InvalidArgumentError(
            f"{min(unknown)[:64]!r} is no kind of event: {', '.join(sorted(KINDS))}"
        )
    return kinds
