"""Tenants whose callers choose the same id of a conversation: each has one of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.gateway.api.conversations import Conversations
from services.gateway.auth.caller import ANYBODY, Caller, Permission
from services.gateway.auth.keys import new_key
from sightline.v1 import dialogue_pb2 as dialogue
from sightline.v1 import gateway_pb2 as pb
from tests.unit.fake_worker import FakeWorker
from tests.unit.http_parts import served


def _of(tenant: str) -> Caller:
    return Caller(name="x", permissions=frozenset(Permission), tenant=tenant)


def test_a_conversation_is_kept_by_its_tenant_and_its_id() -> None:
    kept = [_of(tenant).conversation("tour-1") for tenant in ("", "north", "south")]
    assert len(set(kept)) == 3
    assert kept[0] == ANYBODY.conversation("tour-1") == "tour-1"
    assert _of("north").conversation("tour-1") == kept[1] != _of("north").conversation("tour-2")
    assert _of("north").conversation("") == ""
    assert _of("a").conversation("b") != _of("ab").conversation("b")


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_question_goes_on_with_the_tenants_own(accept: str, tmp_path: Path) -> None:
    worker, keys = FakeWorker(), {}
    with (tmp_path / "keys").open("w") as file:
        for tenant in ("north", "south", ""):
            keys[tenant], line = new_key(tenant or "all", ["admin"], tenant=tenant)
            file.write(line + "\n")
    async with served(worker, auth="keys", auth_keys=tmp_path / "keys") as (parts, client):
        for tenant, key in keys.items():
            headers = {"Authorization": f"Bearer {key}", "Accept": accept}
            asked: dict[str, Any] = {"push": {}, "options": {"name": f"of-{tenant}"}}
            await client.post("/api/sessions", json=asked, headers=headers)
            parts.sessions.all()[-1].counts.processed += 1
            question = {"question": "what", "conversation": "tour-1"}
            reply = await client.post(
                f"/api/sessions/of-{tenant}/ask", json=question, headers=headers
            )
            told = await reply.text()
            assert reply.status == 200, told
            assert '"tour-1"' in json.dumps(told).replace("\\", "")  # as its asker calls it
    kept = [each.conversation for each in worker.asked]
    assert kept == [_of(tenant).conversation("tour-1") for tenant in keys]


async def test_reading_and_forgetting_are_of_the_tenants_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All three calls name it as it is kept, and what is read as its reader calls it."""
    named = []

    async def call(_: Conversations, method: str, request: Any) -> Any:
        named.append(request.conversation)
        return {
            "History": dialogue.HistoryResponse(
                conversation=dialogue.Conversation(id=request.conversation)
            ),
            "Delete": dialogue.DeleteConversationResponse(),
            "RateTurn": dialogue.RateTurnResponse(),
        }[method]

    class Turns:
        def forget(self, conversation: str) -> None:
            named.append(conversation)

    monkeypatch.setattr(Conversations, "_call", call)
    conversations: Any = Conversations(None, Turns())  # type: ignore[arg-type]
    north = _of("north")
    read = await conversations.get(pb.GetConversationRequest(conversation="tour-1"), north)
    assert read.conversation.id == "tour-1"
    unwanted = dialogue.DeleteConversationRequest(conversation="tour-1")
    await conversations.delete(unwanted, north)
    await conversations.rate(dialogue.RateTurnRequest(conversation="tour-1", turn="t"), north)
    assert named == [north.conversation("tour-1")] * 4
