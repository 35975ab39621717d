"""Conversations by HTTP: read by pages, exported whole, and deleted."""

import datetime
import json
from collections.abc import AsyncIterator

from aiohttp import web

from services.gateway.api.callers import Callers
from services.gateway.api.conversations import MAX_ROUNDS, Conversations
from services.gateway.api.messages import as_json, number_of, read_body
from services.gateway.api.operations import JSON, Parameter, operation
from services.gateway.auth.authoriser import audit
from services.gateway.auth.caller import Caller, Permission
from sightline.errors import InvalidArgumentError, SightlineError
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
    """Whoever may ask and knows a conversation's id may read and delete it. zone: of the times in
    what is written for people."""

    def __init__(
        self, conversations: Conversations, callers: Callers, zone: datetime.tzinfo
    ) -> None:
        self._zone = zone
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
    async def export(self, request: web.Request) -> web.StreamResponse:
        caller = await self._check(request)
        kind = request.query.get("format", "json")
        if kind not in ("json", "text"):
            raise InvalidArgumentError("format is json or text")
        name = request.match_info["conversation"]
        wanted = gateway_pb2.GetConversationRequest(conversation=name, page_size=MAX_ROUNDS)
        page = await self._conversations.get(wanted, caller)  # its refusal has a status of its own
        ending, content = ("json", "application/json") if kind == "json" else ("txt", "text/plain")
        response = web.StreamResponse(
            headers={
                "Content-Type": f"{content}; charset=utf-8",
                "Content-Disposition": f'attachment; filename="conversation-{name}.{ending}"',
            }
        )
        await response.prepare(request)
        pages = self._pages(page, wanted, caller)
        try:
            async for part in (
                _json_parts(pages) if kind == "json" else _text_parts(pages, self._zone)
            ):
                await response.write(part.encode())
            await response.write_eof()
        except SightlineError:
            # A file that has begun cannot be refused any more: its missing end tells.
            if request.transport is not None:
                request.transport.abort()
        return response

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

    async def _pages(
        self,
        page: gateway_pb2.GetConversationResponse,
        wanted: gateway_pb2.GetConversationRequest,
        caller: Caller,
    ) -> AsyncIterator[gateway_pb2.GetConversationResponse]:
        """The first page and those after it, of which one is held at a time."""
        yield page
        while page.next_page_token:
            wanted.page_token = page.next_page_token
            page = await self._conversations.get(wanted, caller)
            yield page


Pages = AsyncIterator[gateway_pb2.GetConversationResponse]


async def _json_parts(pages: Pages) -> AsyncIterator[str]:
    """What GetConversation answers, as if all rounds were on one page."""
    begun = False
    async for page in pages:
        said = as_json(page)
        if not begun:
            yield f'{{"conversation": {json.dumps(said.get("conversation", {}))}, "rounds": ['
        rounds = [json.dumps(each) for each in said.get("rounds", [])]
        if rounds:
            yield (", " if begun else "") + ", ".join(rounds)
        begun = True
    yield "]}"


async def _text_parts(pages: Pages, zone: datetime.tzinfo) -> AsyncIterator[str]:
    """A conversation for people. Times say of which zone they are."""
    async for page in pages:
        yield "".join(_as_text(each, zone) for each in page.rounds)


def _as_text(said: dialogue_pb2.Round, zone: datetime.tzinfo) -> str:
    asked = datetime.datetime.fromtimestamp(said.asked_ns // NS, zone)
    broken_off = " …" if said.interrupted else ""
    return f"{asked:%Y-%m-%d %H:%M:%S %Z}\n> {said.question}\n{said.answer}{broken_off}\n\n"
