"""Exports of conversations: whole, page by page, and visibly cut where a page does not come."""

import datetime
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import aiohttp.web
import grpc
import pytest
from aiohttp.test_utils import TestClient, TestServer

from services.gateway.api.callers import Callers
from services.gateway.api.conversation_routes import ConversationRoutes
from services.gateway.api.conversations import MAX_ROUNDS, Conversations
from services.gateway.auth.caller import ANYBODY
from services.gateway.viewers.turns import Turns
from sightline.v1 import dialogue_pb2, dialogue_pb2_grpc

ROUNDS = 2 * MAX_ROUNDS + 500


class _Dialogue(dialogue_pb2_grpc.DialogueServiceServicer):
    """It holds rounds that are made as they are read, and is away from one of them on."""

    away_from = ROUNDS + 1

    async def History(self, request: Any, context: Any) -> Any:
        first = request.from_round
        if first >= self.away_from:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        numbers = range(first, min(first + request.limit, ROUNDS))
        return dialogue_pb2.HistoryResponse(
            rounds=[
                dialogue_pb2.Round(question=f"question {each}", answer=f"answer {each}")
                for each in numbers
            ],
            first=first,
            end=ROUNDS,
        )


class _Anybody:
    async def of_request(self, *_: Any) -> Any:
        return ANYBODY


@pytest.fixture
async def dialogue() -> AsyncIterator[tuple[_Dialogue, TestClient[Any, Any]]]:
    server, servicer = grpc.aio.server(), _Dialogue()
    dialogue_pb2_grpc.add_DialogueServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    conversations = Conversations(f"127.0.0.1:{port}", Turns(None))
    routes = ConversationRoutes(conversations, cast(Callers, _Anybody()), datetime.UTC)
    app = aiohttp.web.Application()
    app.router.add_get("/{conversation}/export", routes.export)
    async with TestClient(TestServer(app)) as client:
        yield servicer, client
    await conversations.aclose()
    await server.stop(None)


async def test_every_round_of_every_page_is_there_once(dialogue: Any) -> None:
    _, client = dialogue
    reply = await client.get("/one/export")
    whole = json.loads(await reply.text())
    assert whole["conversation"] == {"id": "one"}
    assert [each["question"] for each in whole["rounds"]] == [
        f"question {each}" for each in range(ROUNDS)
    ]
    text = await (await client.get("/one/export?format=text")).text()
    assert text.count("> question ") == ROUNDS
    assert text.startswith("1970-01-01 00:00:00 UTC\n> question 0\nanswer 0\n\n")


async def test_a_file_that_lacks_a_page_is_cut_and_not_short(dialogue: Any) -> None:
    servicer, client = dialogue
    servicer.away_from = MAX_ROUNDS
    with pytest.raises(aiohttp.ClientError):
        await (await client.get("/one/export")).read()
