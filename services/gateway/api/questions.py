"""Questions by HTTP: the whole answer as JSON, or its words as they come as server-sent events."""

import contextlib
import json
from typing import Any

from aiohttp import web

from services.common.bodies import read_text
from services.common.errors import error_event
from services.gateway.api.callers import Callers
from services.gateway.api.event_stream import ClientGoneError, EventStream, while_there
from services.gateway.api.messages import as_json, parsed, place_of_request, read_body
from services.gateway.api.operations import JSON, SSE, Parameter, operation
from services.gateway.api.viewed import session_in_path
from services.gateway.auth.caller import Caller, Permission
from services.gateway.config import GatewayConfig
from services.gateway.sessions.remote_session import AnySession
from services.gateway.sessions.sessions import Sessions
from services.gateway.viewers.viewers import Viewers
from sightline.errors import SightlineError
from sightline.v1 import gateway_pb2, inference_pb2

HANDLE = Parameter(
    name="handle", about="`resume_handle` of a stream of events: what is meant is that viewer's"
)
MAX_DECIDE_BYTES = 1024 * 1024
QUESTION: dict[str, Any] = {
    "type": "object",
    "required": ["question"],
    "properties": {
        "question": {"anyOf": [{"type": "string"}, gateway_pb2.Question]},
        "conversation": {"type": "string", "description": "Left out: a new one"},
    },
}


class QuestionsApi:
    """The questions of callers without a line, and those of viewers who listen by HTTP."""

    def __init__(
        self, config: GatewayConfig, sessions: Sessions, viewers: Viewers, callers: Callers
    ) -> None:
        self._sessions = sessions
        self._viewers = viewers
        self._callers = callers
        self._trusted = config.trusted()

    @operation(
        "POST",
        "/api/sessions/{session}/ask",
        "questions",
        "Ask about what is seen",
        about="The whole answer; with `Accept: text/event-stream` its events `started`, "
        "`answer_started`, `text_delta` and `answer_done`, or `error`. With a turn it is safe to "
        "repeat. With a handle the answer goes to that viewer's events, and the reply is 202.",
        takes=QUESTION,
        gives=gateway_pb2.AskResponse,
        kinds=(JSON, SSE),
        parameters=(HANDLE,),
        refusals=(400, 401, 403, 404, 409, 429, 503),
        also=(202,),
    )
    async def ask(self, request: web.Request) -> web.StreamResponse:
        session, caller = await self._asked(request)
        wanted = await _question_of(request)
        place = place_of_request(request, self._trusted)
        if (handle := request.query.get("handle")) is not None:
            caller.check(Permission.ASK, session)
            viewer = self._viewers.of_handle(handle, session)
            said = gateway_pb2.ClientEvent(ask=wanted.question)
            viewer.act(said)
            body = {"conversation": viewer.conversation, "turn": said.ask.turn}
            return web.json_response(body, status=202)
        if SSE in request.headers.get("Accept", ""):
            return await self._stream(request, wanted, session, caller, place)
        asking = self._viewers.asks.whole(wanted, session, caller, place)
        return web.json_response(as_json(await while_there(request, asking)))

    @operation(
        "POST",
        "/api/sessions/{session}/decide",
        "questions",
        "Decide: probabilities instead of words",
        about="A statement holds or not; with choices or levels, which one makes it hold.",
        takes=gateway_pb2.DecideRequest,
        gives=gateway_pb2.DecideResponse,
        refusals=(400, 401, 403, 404, 409, 429, 503),
    )
    async def decide(self, request: web.Request) -> web.Response:
        session, caller = await self._asked(request)
        caller.check(Permission.ASK, session)
        wanted = await read_body(request, gateway_pb2.DecideRequest(), MAX_DECIDE_BYTES)
        decisions = self._viewers.decisions
        decisions.admit(wanted, session, caller)
        place = place_of_request(request, self._trusted)
        decided = await while_there(request, decisions.decide(wanted, session, place))
        return web.json_response(as_json(decided))

    @operation(
        "DELETE",
        "/api/sessions/{session}/answers/{turn}",
        "questions",
        "Cancel an answer of a viewer's",
        parameters=(HANDLE,),
        status=204,
    )
    async def cancel(self, request: web.Request) -> web.Response:
        session, caller = await self._asked(request)
        caller.check(Permission.ASK, session)
        viewer = self._viewers.of_handle(request.query.get("handle", ""), session)
        unwanted = gateway_pb2.Cancel(turn=request.match_info["turn"])
        viewer.act(gateway_pb2.ClientEvent(cancel=unwanted))
        return web.Response(status=204)

    async def _asked(self, request: web.Request) -> tuple[AnySession, Caller]:
        return await session_in_path(request, self._sessions, self._callers, Permission.ASK)

    async def _stream(
        self,
        request: web.Request,
        wanted: gateway_pb2.AskRequest,
        session: AnySession,
        caller: Caller,
        place: str,
    ) -> web.StreamResponse:
        asks = self._viewers.asks
        asks.admit(wanted, session, caller)
        sequence = 0

        async with EventStream(request) as stream:

            async def send(event: gateway_pb2.ServerEvent) -> None:
                nonlocal sequence
                sequence += 1
                event.sequence = sequence
                await stream.send(as_json(event), kind=event.WhichOneof("event") or "")

            async def relay() -> None:
                events_of = asks.stream(wanted, session, place, caller=caller)
                async with contextlib.aclosing(events_of) as events:
                    async for event in events:
                        if not stream.begun:
                            started = gateway_pb2.Started(
                                session=session.message(), conversation=wanted.conversation
                            )
                            await send(gateway_pb2.ServerEvent(started=started))
                        if (shown := shown_of(event, wanted.question.turn)) is not None:
                            await send(shown)

            try:
                await while_there(request, relay())
            except ClientGoneError:
                pass
            except SightlineError as error:
                if not stream.begun:
                    raise
                failed = error_event(error, turn=wanted.question.turn)
                with contextlib.suppress(ClientGoneError, SightlineError):
                    await send(gateway_pb2.ServerEvent(error=failed))
        return stream.response


def shown_of(event: inference_pb2.AnswerEvent, turn: str) -> gateway_pb2.ServerEvent | None:
    """A worker's event as viewers get it; None: it is not for them."""
    match event.WhichOneof("event"):
        case "started":
            event.started.turn = turn
            return gateway_pb2.ServerEvent(answer_started=event.started)
        case "text_delta":
            delta = gateway_pb2.TextDelta(turn=turn, text=event.text_delta.text)
            return gateway_pb2.ServerEvent(text_delta=delta)
        case "done":
            return gateway_pb2.ServerEvent(answer_done=event.done)
    return None


async def _question_of(request: web.Request) -> gateway_pb2.AskRequest:
    """The question in the body, which may be the bare text of one. Raises InvalidArgumentError."""
    text: str | bytes = await read_text(request)
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None  # protobuf's words for it are as good
    if isinstance(body, dict) and isinstance(body.get("question"), str):
        text = json.dumps({**body, "question": {"text": body["question"]}})
    wanted: gateway_pb2.AskRequest = parsed(text, gateway_pb2.AskRequest())
    return wanted
