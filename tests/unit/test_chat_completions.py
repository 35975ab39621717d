"""Chat completions and models, by exactly what OpenAI's clients send."""

import base64
import json
from typing import Any

import av
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.gateway.api.completions.answer_format import AnswerFormat, UnmetError
from services.gateway.api.completions.chat_request import chat_request_of
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_worker import ANSWER, FakeWorker
from tests.unit.http_parts import Client, events_of, served

KITCHEN = {"type": "video_url", "video_url": {"url": "sightline://kitchen"}}
PATH = "/v1/chat/completions"


def _user(*parts: Any) -> dict[str, Any]:
    texts = ({"type": "text", "text": part} if isinstance(part, str) else part for part in parts)
    return {"role": "user", "content": list(texts)}


def _body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "builtin", "messages": list(messages), **more}


def address_of_picture(codec: str, *, width: int = 32, height: int = 32) -> str:
    """A grey picture as a `data:` address."""
    encoder = av.CodecContext.create({"jpeg": "mjpeg"}.get(codec, codec), "w")
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "yuvj420p" if codec == "jpeg" else "rgb24"
    pixels = np.full((height, width, 3), 90, np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=encoder.pix_fmt)
    data = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    return f"data:image/{codec};base64,{base64.b64encode(data).decode()}"


async def _refused(client: Client, body: Any) -> tuple[int, dict[str, Any]]:
    reply = await client.post(PATH, json=body)
    assert reply.content_type == "application/json"
    return reply.status, (await reply.json())["error"]


async def test_a_live_session_is_asked_with_what_was_said_before() -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        await parts.push_session(name="kitchen", seen=True)
        body = _body(
            {"role": "system", "content": "Be brief."},
            _user("what was there"),
            {"role": "assistant", "content": "a cup"},
            _user("and now", KITCHEN),
            max_completion_tokens=100_000,
            temperature=0.5,
            seed=-1,
            stop="\n",
            tools=[{"type": "function", "function": {"name": "x"}}],
        )
        reply = await client.post(PATH, json=body)
        said = await reply.json()
        assert (reply.status, said["object"]) == (200, "chat.completion")
        assert said["choices"][0]["message"] == {
            "role": "assistant",
            "content": ANSWER,
            "refusal": None,
        }
        assert said["choices"][0]["finish_reason"] == "stop"
        assert said["usage"]["total_tokens"] == sum(
            said["usage"][name] for name in ("prompt_tokens", "completion_tokens")
        )
        [asked] = worker.asked
        assert asked.question.text == "and now"
        assert asked.question.instructions == "Be brief."
        assert [(each.question, each.answer) for each in asked.history] == [
            ("what was there", "a cup")
        ]
        assert (asked.question.max_tokens, list(asked.question.stop)) == (4096, ["\n"])
        assert asked.conversation == ""
        assert asked.question.HasField("seed")
        assert not asked.question.HasField("top_p")


async def test_words_come_in_chunks_with_usage_at_the_end() -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        await parts.push_session(name="kitchen", seen=True)
        # What clients send that can choose nothing but a model.
        body = {"model": "sightline://kitchen", "messages": [{"role": "user", "content": "what"}]}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        async with client.post(PATH, json=body) as reply:
            *chunks, end = [event.data async for event in events_of(reply)]
        assert end == "[DONE]"
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert len({chunk["id"] for chunk in chunks}) == 1
        *words, last, usage = chunks
        deltas = [chunk["choices"][0]["delta"] for chunk in words]
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert "".join(delta["content"] for delta in deltas) == ANSWER
        assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
        assert usage["choices"] == []
        assert "total_tokens" in usage["usage"]


async def test_a_stream_goes_on_with_another_worker_s_same_words() -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        await parts.push_session(name="kitchen", seen=True)
        worker.break_at, worker.pause_after = 2, 1
        body = _body(_user("what", KITCHEN), stream=True)
        async with client.post(PATH, json=body) as reply:
            await worker.paused.wait()
            worker.go_on.set()
            await eventually(lambda: len(worker.asked) > 1)
            worker.break_at = None
            texts = [event.data async for event in events_of(reply)]
        said = [each["choices"][0]["delta"].get("content", "") for each in texts[:-1]]
        assert "".join(said) == ANSWER


@pytest.mark.parametrize("codec", ["jpeg", "png"])
async def test_pictures_are_shown_to_a_session_of_the_request_s_own(codec: str) -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        picture = {
            "type": "image_url",
            "image_url": {"url": address_of_picture(codec), "detail": "low"},
        }
        reply = await client.post(PATH, json=_body(_user("what is here", picture, picture)))
        said = await reply.json()
        assert reply.status == 200, said
        assert said["sightline"]["frames_seen"] == 2
        assert not parts.sessions.all()
        await eventually(lambda: worker.released == [worker.asked[0].session_id])


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, 400),
        ({"image_urls": True}, 400),  # but not from this machine
        ({"image_urls": True, "url_allow": ("127.0.0.0/8",)}, 200),
    ],
)
async def test_pictures_are_fetched_where_that_is_allowed(
    settings: dict[str, Any], status: int
) -> None:
    served_pictures = []

    async def picture(request: web.Request) -> web.Response:
        served_pictures.append(request.path)
        return web.Response(body=base64.b64decode(address_of_picture("png").partition(",")[2]))

    app = web.Application()
    app.router.add_get("/a.png", picture)
    async with TestServer(app, host="127.0.0.1") as elsewhere, served(**settings) as (_, client):
        image = {"type": "image_url", "image_url": {"url": str(elsewhere.make_url("/a.png"))}}
        reply = await client.post(PATH, json=_body(_user("what", image)))
        assert reply.status == status, await reply.text()
        assert len(served_pictures) == (status == 200)
        if status == 200:
            image["image_url"] = {"url": str(elsewhere.make_url("/none"))}
            assert (await _refused(client, _body(_user("what", image))))[0] == 400


async def test_an_answer_is_json_of_the_schema_or_asked_once_more() -> None:
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer"}},
        "required": ["count"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "count", "schema": schema}}
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        await parts.push_session(name="kitchen", seen=True)
        body = _body(_user("how many", KITCHEN), response_format=wanted)
        worker.answer = '```json {"count": 2} ```'
        for stream in (False, True):
            async with client.post(PATH, json={**body, "stream": stream}) as reply:
                if stream:
                    chunks = [event.data async for event in events_of(reply)][:-1]
                    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
                    text = "".join(delta.get("content", "") for delta in deltas)
                else:
                    text = (await reply.json())["choices"][0]["message"]["content"]
            assert json.loads(text) == {"count": 2}
        assert json.loads(worker.asked[0].question.answer_schema) == schema
        worker.asked.clear()
        worker.answer = '{"count": "two"}'
        status, error = await _refused(client, body)
        assert (status, error["code"]) == (400, "format_not_met")
        assert len(worker.asked) == 2
        assert "'two' is not of type 'integer'" in worker.asked[1].question.instructions
        worker.asked.clear()
        worker.formed = True  # a worker that holds its model to it is believed
        async with client.post(PATH, json={**body, "stream": True}) as reply:
            chunks = [event.data async for event in events_of(reply)][:-1]
        deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
        assert [delta for delta in deltas if delta] == ['{"count":', ' "two"}']
        assert len(worker.asked) == 1


LAMP = {
    "type": "function",
    "function": {
        "name": "set_lamp",
        "description": "Switch it.",
        "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}},
    },
}
BELL = {"type": "function", "function": {"name": "ring"}}


async def test_a_model_calls_functions_and_is_told_what_came_of_it() -> None:
    worker = FakeWorker()
    async with served(worker) as (parts, client):
        await parts.push_session(name="kitchen", seen=True)
        worker.answer = ""
        worker.tool_calls = [
            pb.ToolCall(id="call_1", name="set_lamp", arguments='{"on": true}'),
            pb.ToolCall(id="call_2", name="ring", arguments="{}"),
        ]
        body = _body(_user("light, please", KITCHEN), tools=[LAMP, BELL], tool_choice="required")
        choice = (await (await client.post(PATH, json=body)).json())["choices"][0]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
        calls = choice["message"]["tool_calls"]
        assert calls[0] == {
            "id": "call_1",
            "type": "function",
            "function": {"name": "set_lamp", "arguments": '{"on": true}'},
        }
        [asked] = worker.asked
        assert asked.question.tool_choice == "required"
        assert [tool.name for tool in asked.question.tools] == ["set_lamp", "ring"]
        assert json.loads(asked.question.tools[0].parameters)["type"] == "object"

        async with client.post(PATH, json={**body, "stream": True}) as reply:
            chunks = [event.data async for event in events_of(reply)][:-1]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert [
            (each["index"], each.get("id"), each["function"])
            for delta in deltas
            for each in delta.get("tool_calls", ())
        ] == [
            (0, "call_1", {"name": "set_lamp", "arguments": ""}),
            (0, None, {"arguments": '{"on": true}'}),
            (1, "call_2", {"name": "ring", "arguments": ""}),
            (1, None, {"arguments": "{}"}),
        ]
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"

        worker.asked.clear()
        worker.answer, worker.tool_calls = "It is on.", []
        body["messages"] += [
            {"role": "assistant", "content": "A moment.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_2", "content": "rung"},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "ok"}]},
        ]
        body |= {"tool_choice": "auto", "parallel_tool_calls": False}
        choice = (await (await client.post(PATH, json=body)).json())["choices"][0]
        assert choice["message"]["content"] == "It is on."
        [asked] = worker.asked
        assert (asked.question.text, asked.question.single_call) == ("light, please", True)
        assert [(each.name, each.output) for each in asked.question.called] == [
            ("set_lamp", "ok"),
            ("ring", "rung"),
        ]


@pytest.mark.parametrize(
    ("choice", "found", "tools"),
    [
        ({"type": "function", "function": {"name": "ring"}}, "ring", ["set_lamp", "ring"]),
        ("none", "none", ["set_lamp", "ring"]),
        (None, "", ["set_lamp", "ring"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [BELL]},
            },
            "required",
            ["ring"],
        ),
    ],
)
def test_the_choice_of_tools_is_read(choice: Any, found: str, tools: list[str]) -> None:
    body = _body(_user("x", KITCHEN), tools=[LAMP, BELL], tool_choice=choice)
    question = chat_request_of(json.dumps(body).encode()).question
    assert question.tool_choice == found
    assert [tool.name for tool in question.tools] == tools


def test_schemas_of_strangers_fetch_nothing_and_run_no_expressions() -> None:
    for schema, word in (
        ({"type": 5}, "no JSON Schema"),
        ({"const": "x" * 20_000}, "bytes"),
    ):
        with pytest.raises(InvalidArgumentError, match=word):
            AnswerFormat(schema)
    with pytest.raises(InvalidArgumentError, match="pattern"):
        AnswerFormat({"type": "string", "pattern": "(a+)+$"}).checked('"a"')
    with pytest.raises(InvalidArgumentError, match="cannot be used"):
        AnswerFormat({"$ref": "http://127.0.0.1:1/x.json"}).checked("1")
    circle = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    with pytest.raises(InvalidArgumentError, match="cannot be used"):
        AnswerFormat(circle).checked("1")
    with pytest.raises(UnmetError):
        AnswerFormat({"type": "object"}).checked("no")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "builtin"}, 400, "messages"),
        ({"messages": [_user("x", KITCHEN)]}, 400, "model"),
        (_body(_user("x")), 400, "messages"),
        (_body({"role": "assistant", "content": "x"}), 400, "messages"),
        (_body(_user("x", KITCHEN), n=2), 400, "n"),
        (_body(_user("x", KITCHEN), logprobs=True), 400, "logprobs"),
        (_body(_user("x", KITCHEN), tool_choice="required"), 400, "tool_choice"),
        (_body(_user("x", KITCHEN), tools=[BELL], tool_choice="lamp"), 400, "tool_choice"),
        (_body(_user("x", KITCHEN), tools=[{"type": "custom"}]), 400, "tools[0]"),
        (
            _body(_user("x", KITCHEN), {"role": "tool", "tool_call_id": "a", "content": "x"}),
            400,
            "messages[1].tool_call_id",
        ),
        (_body(_user("x", KITCHEN), temperature="hot"), 400, "temperature"),
        (_body(_user("x", KITCHEN), top_p=float("inf")), 400, "top_p"),
        (_body(_user("x", KITCHEN), stream="yes"), 400, "stream"),
        (_body(_user({"type": "input_audio"})), 400, "messages[0].content[0]"),
        (
            _body(_user("x", {"type": "image_url", "image_url": {"url": "http://a/b"}})),
            400,
            "image_url",
        ),
        (
            _body(_user("x", {"type": "image_url", "image_url": "data:;base64,eHh4"})),
            400,
            "image_url",
        ),
        (_body(_user({"type": "video_url", "video_url": {"url": "http://a"}})), 400, None),
        (_body(_user("x", {**KITCHEN, "video_url": {"url": "sightline://no"}})), 404, None),
    ],
)
async def test_what_is_wrong_is_named(body: Any, status: int, param: str | None) -> None:
    async with served() as (parts, client):
        await parts.push_session(name="kitchen", seen=True)
        found, error = await _refused(client, body)
        assert (found, error["type"]) == (
            status,
            "not_found_error" if status == 404 else "invalid_request_error",
        )
        assert param is None or error["param"] == param, error
        assert not [each for each in parts.sessions.all() if each.name != "kitchen"]


async def test_what_is_not_served_is_told_with_what_is() -> None:
    async with served() as (_, client):
        other = await client.post("/v1/responses", json={"model": "builtin", "input": "x"})
        error = (await other.json())["error"]
        assert (other.status, error["type"]) == (404, "not_found_error")
        assert "/v1/chat/completions" in error["message"]
        wrong = await client.get("/v1/chat/completions")
        assert wrong.status == 405
        assert (await wrong.json())["error"]["message"].endswith("POST")


async def test_models_are_those_of_workers_and_the_sessions() -> None:
    async with served() as (parts, client):
        await eventually(parts.workers.descriptions)
        await parts.push_session(name="kitchen")
        listed = (await (await client.get("/v1/models")).json())["data"]
        assert [each["id"] for each in listed] == ["builtin", "sightline://kitchen"]
        one = await client.get("/v1/models/sightline:%2F%2Fkitchen")
        assert (await one.json())["id"] == "sightline://kitchen"
        none = await client.get("/v1/models/gpt")
        assert (none.status, (await none.json())["error"]["code"]) == (404, "model_not_found")


async def test_a_bomb_of_a_picture_is_refused_before_it_is_decoded() -> None:
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4) * 2
    address = "data:image/png;base64," + base64.b64encode(header).decode()
    async with served() as (parts, client):
        picture = {"type": "image_url", "image_url": {"url": address}}
        status, error = await _refused(client, _body(_user("x", picture)))
        assert (status, "too large" in error["message"]) == (400, True)
        assert not parts.sessions.all()


def test_a_request_is_read_whole() -> None:
    asked = chat_request_of(json.dumps(_body(_user("a", KITCHEN, "b"))).encode())
    assert (asked.session, asked.question.text) == ("kitchen", "a\nb")
