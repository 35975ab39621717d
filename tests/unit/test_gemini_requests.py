"""Gemini's `generateContent` and models, by what Google's clients send."""

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from services.gateway.api.gemini.contents import chat_body
from services.gateway.api.gemini.generate import request_of
from services.gateway.api.realtime.fields import WireError
from services.gateway.auth.keys import new_key
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2 as pb
from tests.unit.fake_worker import ANSWER, FakeWorker
from tests.unit.http_parts import events_of, served
from tests.unit.test_chat_completions import address_of_picture
from tests.unit.test_gemini_codec import OBJECTS

MODELS = "/v1beta/models"
KITCHEN = f"{MODELS}/sightline://kitchen"
WHAT = {"contents": [{"role": "user", "parts": [{"text": "what is there"}]}]}


async def test_a_live_session_is_asked_with_what_was_said_before() -> None:
    worker = FakeWorker()
    worker.confidence = 0.25
    async with served(worker) as (parts, client):
        await parts.push_session(name="kitchen", seen=True)
        kitchen = {"fileData": {"fileUri": "sightline://kitchen"}}
        body = {
            "system_instruction": {"parts": [{"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "what was there"}]},
                {"role": "model", "parts": [{"text": "a cup"}]},
                {"role": "user", "parts": [kitchen, {"text": "and now"}]},
            ],
            "generationConfig": {"temperature": 0.5, "maxOutputTokens": 9, "stopSequences": ["x"]},
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT"}],
        }
        async with client.post(f"{MODELS}/builtin:generateContent", json=body) as reply:
            said = await reply.json()
        [candidate] = said["candidates"]
        assert candidate["content"] == {"role": "model", "parts": [{"text": ANSWER}]}
        assert candidate["finishReason"] == "STOP"
        assert said["modelVersion"] == "builtin"
        assert said["sightline"]["confidence"] == 0.25
        usage = said["usageMetadata"]
        assert usage["totalTokenCount"] == (
            usage["promptTokenCount"] + usage["candidatesTokenCount"]
        )
        [asked] = worker.asked
        assert (asked.question.text, asked.question.instructions) == ("and now", "Be brief.")
        assert (asked.question.max_tokens, list(asked.question.stop)) == (9, ["x"])
        assert [(each.question, each.answer) for each in asked.history] == [
            ("what was there", "a cup")
        ]


async def test_words_come_as_events_or_in_a_list() -> None:
    async with served() as (parts, client):
        await parts.push_session(name="kitchen", seen=True)
        async with client.post(f"{KITCHEN}:streamGenerateContent?alt=sse", json=WHAT) as reply:
            chunks = [event.data async for event in events_of(reply)]
        texts = [each["candidates"][0]["content"]["parts"][0]["text"] for each in chunks]
        assert "".join(texts) == ANSWER
        assert len(chunks) == 2 + len(ANSWER.split())
        assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
        assert chunks[-1]["usageMetadata"]["totalTokenCount"] >= 0
        async with client.post(f"{KITCHEN}:streamGenerateContent", json=WHAT) as reply:
            [whole] = await reply.json()
        newer = f"{KITCHEN.replace('v1beta', 'v1')}:streamGenerateContent"
        async with client.post(newer, json=WHAT) as reply:
            assert (await reply.json())[0]["candidates"] == whole["candidates"]
        assert whole["candidates"][0]["content"]["parts"] == [{"text": ANSWER}]


async def test_pictures_are_asked_about() -> None:
    async with served() as (_, client):
        kind, _, data = address_of_picture("jpeg").partition(";base64,")
        picture = base64.urlsafe_b64encode(base64.b64decode(data)).decode()
        blob = {"mime_type": kind.removeprefix("data:"), "data": picture}
        body = {"contents": {"parts": [{"inline_data": blob}, {"text": "what is there"}]}}
        async with client.post(f"{MODELS}/gemini-flash:generateContent", json=body) as reply:
            told = await reply.json()
            assert (reply.status, told["error"]["status"]) == (404, "NOT_FOUND")
        async with client.post(f"{MODELS}/builtin:generateContent", json=body) as reply:
            assert (await reply.json())["candidates"][0]["content"]["parts"] == [{"text": ANSWER}]


async def test_functions_are_called() -> None:
    worker = FakeWorker()
    worker.answer = ""
    worker.tool_calls = [pb.ToolCall(id="c1", name="lamp", arguments='{"on": true}')]
    lamp = {"name": "lamp", "parameters": {"type": "OBJECT", "properties": {}}}
    config = {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["lamp"]}}
    body: dict[str, Any] = {
        **WHAT,
        "tools": [{"functionDeclarations": [lamp, {"name": "bell"}]}],
        "toolConfig": config,
    }
    async with served(worker) as (parts, client):
        await parts.push_session(name="kitchen", seen=True)
        async with client.post(f"{KITCHEN}:generateContent", json=body) as reply:
            content = (await reply.json())["candidates"][0]["content"]
        call = {"id": "c1", "name": "lamp", "args": {"on": True}}
        assert content["parts"] == [{"functionCall": call}]
        assert [tool.name for tool in worker.asked[0].question.tools] == ["lamp"]
        assert worker.asked[0].question.tool_choice == "required"
        worker.tool_calls, worker.answer = [], ANSWER
        response = {"functionResponse": {"id": "c1", "name": "lamp", "response": {"result": "lit"}}}
        contents = [*body["contents"], content, {"role": "user", "parts": [response]}]
        body |= {"contents": contents, "toolConfig": {}}
        async with client.post(f"{KITCHEN}:generateContent", json=body) as reply:
            assert (await reply.json())["candidates"][0]["content"]["parts"] == [{"text": ANSWER}]
        [called] = worker.asked[1].question.called
        assert (called.name, called.output) == ("lamp", '{"result": "lit"}')


def test_a_schema_is_the_answers() -> None:
    schema = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}}
    generation = {"responseMimeType": "application/json", "responseSchema": schema}
    asked = request_of(
        "sightline://k", json.dumps({**WHAT, "generationConfig": generation}).encode(), stream=False
    )
    assert asked.schema == {"type": "object", "properties": {"n": {"type": "integer"}}}
    del generation["responseSchema"]
    asked = request_of(
        "sightline://k", json.dumps({**WHAT, "generationConfig": generation}).encode(), stream=False
    )
    assert asked.schema == {"type": "object"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"contents": []},
        {"contents": [{"role": "nobody", "parts": [{"text": "x"}]}]},
        {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "*"}}]}]},
        {**WHAT, "generationConfig": {"candidateCount": 2}},
        {**WHAT, "generationConfig": {"temperature": "hot"}},
        {**WHAT, "tools": [{"functionDeclarations": [{}]}]},
    ],
)
async def test_what_is_no_request_is_refused_as_google_does(body: dict[str, Any]) -> None:
    async with served() as (_, client):
        for path in (KITCHEN, KITCHEN.replace("v1beta", "v1")):
            async with client.post(f"{path}:generateContent", json=body) as reply:
                error = (await reply.json())["error"]
        assert (reply.status, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
        assert error["message"]


async def test_models_are_listed_and_keys_asked_for(tmp_path: Path) -> None:
    key, entry = new_key("ada", ["view", "ask"])
    (tmp_path / "keys").write_text(f"{entry}\n")
    async with served(auth="keys", auth_keys=tmp_path / "keys") as (parts, client):
        await parts.push_session(name="kitchen", seen=True)
        async with client.get(MODELS) as reply:
            error = (await reply.json())["error"]
        assert (reply.status, error["status"]) == (401, "UNAUTHENTICATED")
        for query, headers in ((f"?key={key}", {}), ("", {"x-goog-api-key": key})):
            async with client.get(MODELS + query, headers=headers) as reply:
                models = {each["name"] for each in (await reply.json())["models"]}
            assert models == {"models/builtin", "models/sightline://kitchen"}
            path = f"{KITCHEN}:generateContent{query}"
            async with client.post(path, json=WHAT, headers=headers) as reply:
                assert reply.status == 200
        async with client.get(f"{MODELS}/builtin?key={key}") as reply:
            assert (await reply.json())["displayName"] == "builtin"
        async with client.get(f"{MODELS}/none?key={key}") as reply:
            assert reply.status == 404


@settings(max_examples=25)
@given(OBJECTS)
def test_whatever_comes_is_a_request_or_refused(fields: dict[str, Any]) -> None:
    with contextlib.suppress(WireError):
        json.dumps(chat_body("builtin", fields, stream=False))
    with contextlib.suppress(InvalidArgumentError):
        request_of("builtin", json.dumps({"contents": fields}).encode(), stream=True)
