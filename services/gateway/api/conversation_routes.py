"""Conversations by HTTP: read by pages, exported whole, and deleted."""

import datetime

from aiohttp import web

from services.gateway.api.callers import Callers
from services.gateway.api.conversations import MAX_ROUNDS, Conversations
from services.gateway.api.messages import as_json, number_of, read_body
from services.gateway.api.operations import JSON, Parameter, operation
from services.gateway.auth.authoriser import audit
from services.gateway.auth.caller import Caller, Permission
from sightline.errors import InvalidArgumentError
from sightline.v1 import dialogue_pb2, gateway_pb2

NS = 1_000_000_000
PAGE = (
    Parameter(
        name="page_size",
        about="At most so many; 0: the usual number",
        schema={"type": "integer", "minimum": 0},
    ),
    Parameter(name="page_token", about="`next_page_token` of the page before"),
)
_ONE = "/api/conversations/{conversation}"
_REFUSALS = (400, 401, 403, 404, 503)


class ConversationRoutes:
    """Whoever may ask and knows a conversation's id may read and delete it."""

    def __init__(self, conversations: Conversations, callers: Callers) -> None:
        self._conversations = conversations
        self._callers = callers

    @operation(
        "GET",
        _ONE,
        "conversations",
        "What was said, oldest first",
        gives=gateway_pb2.GetConversationResponse,
        parameters=PAGE,
        refusals=_REFUSALS,
    )
    async def read(self, request: web.Request) -> web.Response:
        caller = await self._check(request)
        wanted = gateway_pb2.GetConversationRequest(
            conversation=request.match_info["conversation"],
            page_size=number_of(request, "page_size"),
            page_token=request.query.get("page_token", ""),
        )
        return web.json_response(as_json(await self._conversations.get(wanted, caller)))

    @operation(
        "GET",
        _ONE + "/export",
        "conversations",
        "All that was said, as a file",
        gives=gateway_pb2.GetConversationResponse,
        kinds=(JSON, "text/plain"),
        parameters=(
            Parameter(
                name="format",
                about="json, or text to be read by people",
                schema={"type": "string", "enum": ["json", "text"]},
            ),
        ),
        refusals=_REFUSALS,
    )
    async def export(self, request: web.Request) -> web.Response:
        caller = await self._check(request)
        kind = request.query.get("format", "json")
        if kind not in ("json", "text"):
            raise InvalidArgumentError("format is json or text")
        name = request.match_info["conversation"]
        whole = await self._whole(name, caller)
        ending = "json" if kind == "json" else "txt"
        headers = {"Content-Disposition": f'attachment; filename="conversation-{name}.{ending}"'}
        if kind == "json":
            return web.json_response(as_json(whole), headers=headers)
        return web.Response(text=_as_text(whole), headers=headers)

    @operation(
        "DELETE", _ONE, "conversations", "Remove every trace of one", status=204, refusals=_REFUSALS
    )
    async def forget(self, request: web.Request) -> web.Response:
        caller = await self._check(request)
        audit(caller, "forget", "")
        conversation = request.match_info["conversation"]
        unwanted = dialogue_pb2.DeleteConversationRequest(conversation=conversation)
        await self._conversations.delete(unwanted, caller)
        return web.Response(status=204)

    @operation(
        "PUT",
        _ONE + "/turns/{turn}/rating",
        "conversations",
        "Keep what somebody thinks of an answer",
        takes=dialogue_pb2.RateTurnRequest,
        status=204,
        refusals=_REFUSALS,
    )
    async def rate(self, request: web.Request) -> web.Response:
        caller = await self._check(request)
        rating = await read_body(request, dialogue_pb2.RateTurnRequest())
        rating.conversation = request.match_info["conversation"]
        rating.turn = request.match_info["turn"]
        await self._conversations.rate(rating, caller)
        return web.Response(status=204)

    async def _check(self, request: web.Request) -> Caller:
        caller = await self._callers.of_request(request, Permission.ASK)
        caller.check(Permission.ASK)
        return caller

    async def _whole(self, name: str, caller: Caller) -> gateway_pb2.GetConversationResponse:
        wanted = gateway_pb2.GetConversationRequest(conversation=name, page_size=MAX_ROUNDS)
        whole = await self._conversations.get(wanted, caller)
        while whole.next_page_token:
            wanted.page_token = whole.next_page_token
            page = await self._conversations.get(wanted, caller)
            whole.rounds.extend(page.rounds)
            whole.next_page_token = page.next_page_token
        return whole


def _as_text(said: gateway_pb2.GetConversationResponse) -> str:
    """A conversation for people. Times are UTC."""
    lines = []
    for each in said.rounds:
        asked = datetime.datetime.fromtimestamp(each.asked_ns // NS, datetime.UTC)
        broken_off = " …" if each.interrupted else ""
        lines += [f"{asked:%Y-%m-%d %H:%M:%S}", f"> {each.question}", each.answer + broken_off, ""]
    return "\n".join(lines)
