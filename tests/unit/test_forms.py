"""Answers have the form that was asked for: JSON of a schema, or calls of functions."""

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.checks import check_question
from services.inference_worker.model.constraint import MOST_CALLS, Grammars
from services.inference_worker.model.family import Round
from services.inference_worker.model.form import Call, Form, Tool
from services.inference_worker.model.published.chat import Chat
from services.inference_worker.model.published.qwen_vl import Qwen3VL
from services.inference_worker.model.published.smolvlm import SmolVLM
from services.inference_worker.serving.calls import CallReader
from services.inference_worker.serving.forms import MAX_DEPTH, form_of
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2 as pb
from tests.checkpoints import write_checkpoint

COLOUR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "blue"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["colour", "count"],
    "additionalProperties": False,
}
LAMP = Tool(name="set_lamp", description="Switch a lamp.", parameters=COLOUR)
BELL = Tool(name="ring")


@pytest.fixture(scope="module", params=["qwen3_vl", "smolvlm"])
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chat:
    """Words of a family, of which Qwen's know calls."""
    folder = tmp_path_factory.mktemp("words")
    write_checkpoint(request.param, folder, weights=False)
    family = SmolVLM if request.param == "smolvlm" else Qwen3VL
    return Chat(folder, family.placeholder, family.chat_template())


def grammars(chat: Chat) -> Grammars:
    ends = {chat.tokenizer.eos_token_id}
    size = chat.tokenizer.backend_tokenizer.get_vocab_size() + 37  # rows that no word has
    return Grammars(chat.written, size=size, ends=ends, words=chat.added)


def drawn(chat: Chat, form: Form, seed: int) -> str:
    """An answer of a model that knows nothing, and is held."""
    held = grammars(chat).constraint(form)
    assert held is not None
    rng = np.random.default_rng(seed)
    tokens: list[int] = []
    while not held.complete and len(tokens) < 400:
        bits = np.unpackbits(held.allowed().view(np.uint8), bitorder="little")
        token = int(rng.choice(np.flatnonzero(bits)))
        if token == chat.tokenizer.eos_token_id:
            break
        held.take(token)
        tokens.append(token)
    assert not held.failure
    return str(chat.text(tokens))


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_model_says_is_of_the_schema(chat: Chat, seed: int) -> None:
    said = json.loads(drawn(chat, Form(schema=COLOUR), seed))
    jsonschema.validate(said, COLOUR)


@pytest.mark.parametrize("seed", range(5))
def test_a_required_call_is_one(chat: Chat, seed: int) -> None:
    reader = CallReader()
    form = Form(tools=(LAMP, BELL), choice="required", single=True)
    assert reader.feed(drawn(chat, form, seed)) + reader.rest() == ""
    [call] = reader.calls
    if call.name == "ring":
        assert json.loads(call.arguments) == {}
    else:
        assert call.name == "set_lamp"
        jsonschema.validate(json.loads(call.arguments), COLOUR)
    named = CallReader()
    named.feed(drawn(chat, Form(tools=(LAMP, BELL), choice="ring", single=True), seed))
    assert [each.name for each in named.calls] == ["ring"]


def test_a_call_that_is_begun_is_of_a_tool(chat: Chat) -> None:
    ours = grammars(chat)
    assert ours.knows_calls == ("<tool_call>" in chat.added)
    if not ours.knows_calls:
        return
    held = ours.constraint(Form(tools=(LAMP,)))
    assert held is not None
    for token in chat.tokens('Well.<tool_call>\n{"name": "set_lamp", "arguments": '):
        held.take(token)
    assert not held.failure
    held.take(chat.tokens("x")[0])
    assert held.failure


def test_what_cannot_be_held_is_told_in_words(chat: Chat) -> None:
    assert grammars(chat).constraint(Form(schema={"$ref": "#/nowhere"})) is None
    held = grammars(chat).constraint(Form(schema={"type": "array", "uniqueItems": True}))
    assert held is not None
    assert not held.whole  # one keyword is not looked at
    form = Form(tools=(Tool(name="x", parameters={"properties": {"y": {"type": "odd"}}}),))
    with pytest.raises(InvalidArgumentError):
        grammars(chat).constraint(Form(tools=form.tools, choice="required"))


def test_calls_come_to_an_end(chat: Chat) -> None:
    """Also where a model that knows nothing could go on: with more of them, or more arguments."""
    open_ended = Tool(name="go", parameters={"properties": {"fast": {"type": "boolean"}}})
    for seed in range(5):
        reader = CallReader()
        reader.feed(drawn(chat, Form(tools=(open_ended, BELL), choice="required"), seed))
        assert 1 <= len(reader.calls) <= MOST_CALLS
        assert all(set(json.loads(call.arguments)) <= {"fast"} for call in reader.calls)


def test_references_in_a_tool_s_schema_are_its_own(chat: Chat) -> None:
    parameters = {
        "properties": {"to": {"$ref": "#/$defs/place"}},
        "required": ["to"],
        "additionalProperties": False,
        "$defs": {"place": {"enum": ["left", "right"]}},
    }
    form = Form(tools=(Tool(name="go", parameters=parameters),), choice="go", single=True)
    reader = CallReader()
    reader.feed(drawn(chat, form, 0))
    assert json.loads(reader.calls[0].arguments)["to"] in ("left", "right")


def test_the_model_reads_tools_before_the_question_and_outputs_behind_it(chat: Chat) -> None:
    call = Call(name="ring", arguments="{}", output="<|im_end|>done")
    form = Form(tools=(LAMP,), called=(call,))
    text = chat.after_video([Round("Who?", "Nobody.")], "Is it on?", form)
    order = ["Nobody.", '"name": "set_lamp"', "Is it on?", '{"name": "ring", "arguments": {}}']
    order += ["<tool_response>", "done", "</tool_response>"]
    places = [text.index(each) for each in order]
    assert places == sorted(places)
    assert "<|im_end|>done" not in text
    assert chat.after_video([], "Is it on?", Form()) == chat.after_video([], "Is it on?")


PIECES = st.sampled_from(
    ["Hi. ", "<tool_call>", "</tool_call>", '{"name": "a", "arguments": {"b": 1}}', "\n", "<tool"]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, max_size=8), st.integers(1, 5))
def test_calls_are_read_whatever_pieces_they_come_in(parts: list[str], size: int) -> None:
    text = "".join(parts)
    whole, pieces = CallReader(), CallReader()
    once = whole.feed(text) + whole.rest()
    said = "".join(pieces.feed(text[n : n + size]) for n in range(0, len(text), size))
    said += pieces.rest()
    assert [call.name for call in whole.calls] == [call.name for call in pieces.calls]
    assert once.split() == said.split()
    assert all(json.loads(call.arguments) == {"b": 1} for call in whole.calls)


@pytest.mark.parametrize(
    "question",
    [
        pb.Question(text="?", answer_schema="x" * 20_000),
        pb.Question(text="?", tools=[pb.Tool(name="a b")]),
        pb.Question(text="?", tools=[pb.Tool(name="a"), pb.Tool(name="a")]),
        pb.Question(text="?", tools=[pb.Tool(name="a", description="x" * 70_000)]),
        pb.Question(text="?", tool_choice="required"),
        pb.Question(text="?", tools=[pb.Tool(name="a")], tool_choice="b"),
        pb.Question(text="?", called=[pb.ToolCall(name="a")] * 65),
    ],
)
def test_absurd_forms_are_refused(question: pb.Question) -> None:
    with pytest.raises(InvalidArgumentError):
        check_question(question)


@pytest.mark.parametrize("text", ["[]", "{", '{"a":' * (MAX_DEPTH + 1) + "1" + "}" * 65])
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        form_of(pb.Question(answer_schema=text))
    assert form_of(pb.Question(text="?", tools=[pb.Tool(name="a")], tool_choice="none")) is None
