"""Requests of OpenAI's clients with every odd value: refused as such, or read."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.api.completions.chat_request import chat_request_of
from services.gateway.api.completions.decision_request import decision_request_of
from services.gateway.viewers.decisions import statements_of
from sightline.errors import InvalidArgumentError
from tests.unit.http_parts import served

KINDS = (
    *("text", "image_url", "video_url", "user", "system", "assistant"),
    *("predicate", "choice", "score", "json_schema"),
)
TEXTS = ("", "what", "sightline://cam", "sightline://", "data:,", "\ud800", "\0", "é" * 5000)
KEYS = (
    *("type", "text", "url", "role", "content", "value", "label", "description", "name"),
    *("instructions", "choices", "levels", "image_url", "video_url", "schema", "json_schema"),
)
SETTINGS = (
    *("temperature", "top_p", "top_k", "seed", "stop", "max_tokens", "stream", "n"),
    *("response_format", "stream_options", "tools", "tool_choice", "logprobs", "tool_calls"),
)
_TEXT = st.sampled_from((*KINDS, *TEXTS))
_SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | _TEXT
ODD = st.recursive(
    _SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=5,
)
_URL = _TEXT | st.fixed_dictionaries({"url": _TEXT}) | ODD
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS[:3]), "text": _TEXT, "image_url": _URL, "video_url": _URL}
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(KINDS[3:6]), "content": _TEXT | st.lists(PART, max_size=3) | ODD}
)
CHAT = st.fixed_dictionaries(
    {"model": _TEXT, "messages": st.lists(MESSAGE, min_size=1, max_size=4)},
    optional=dict.fromkeys(SETTINGS, ODD),
)
QUESTION = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS[6:9]), "instructions": _TEXT},
    optional=dict.fromkeys(("choices", "levels", "name"), ODD),
)
DECISION = st.fixed_dictionaries(
    {"model": _TEXT, "input": _TEXT | ODD | st.lists(MESSAGE, max_size=3)},
    optional={"questions": st.lists(QUESTION, min_size=1, max_size=3)},
)


@pytest.mark.parametrize("field", ["tools", "response_format"])
@pytest.mark.parametrize("depth", [100, 900, 980, 5000])
async def test_a_schema_of_any_depth_breaks_nothing(field: str, depth: int) -> None:
    deep = '{"a":' * depth + "1" + "}" * depth
    said: dict[str, Any] = {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"deep": 0}}}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"deep": 0}}},
    }
    asked = {"model": "sightline://cam", "messages": [{"role": "user", "content": "x"}]}
    body = json.dumps({**asked, field: said[field]}).replace('{"deep": 0}', deep)
    async with served() as (parts, client):
        await parts.push_session(name="cam", seen=True)
        async with client.post("/v1/chat/completions", data=body) as reply:
            assert reply.status in (200, 400)


def _bytes(body: Any) -> bytes:
    return json.dumps(body).encode()


@given(CHAT)
@settings(max_examples=120)
def test_no_chat_request_is_a_defect(body: Any) -> None:
    try:
        asked = chat_request_of(_bytes(body))
    except InvalidArgumentError:
        return
    asked.question.SerializeToString()
    assert asked.model


@given(DECISION)
@settings(max_examples=120)
def test_no_decision_request_is_a_defect(body: Any) -> None:
    try:
        asked = decision_request_of(_bytes(body))
    except InvalidArgumentError:
        return
    for question in asked.request.questions:
        assert statements_of(question)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"\xff", b"[" * 5000, b'{"model": 5}', b'{"model": "\\ud800"}']
)
async def test_what_is_no_request_is_refused(body: bytes) -> None:
    async with served() as (_, client):
        for path in ("/v1/chat/completions", "/v1/decisions"):
            reply = await client.post(path, data=body)
            assert (reply.status, "error" in await reply.json()) == (400, True)
