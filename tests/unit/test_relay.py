"""The relay's parts that need no network: address, stream, verdict, and what a question becomes."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from services.common.config import ConfigError
from services.inference_worker.config import WorkerConfig
from services.inference_worker.model.family import Round
from services.inference_worker.model.form import Call, Form, Tool
from services.inference_worker.relay import service, verdict
from services.inference_worker.relay.address import RelayAddress
from services.inference_worker.relay.model import CELL, RelayModel
from services.inference_worker.relay.questions import Asking, Picture
from services.inference_worker.relay.stream import Chunk, EventReader, UpstreamFaultError
from services.inference_worker.serving.calls import CallReader
from sightline.errors import InvalidArgumentError, UnavailableError


def address(model: str, **settings: str) -> RelayAddress:
    environ = {"WORKER_MODEL": model, **settings}
    return RelayAddress.of(WorkerConfig.from_env(environ))


def test_an_address_names_a_server_and_a_model() -> None:
    found = address("openai:http://127.0.0.1:11434/v1/#qwen3-vl:4b", WORKER_RELAY_KEY="k-secret")
    assert (found.url, found.model) == ("http://127.0.0.1:11434/v1", "qwen3-vl:4b")
    assert found.key == "k-secret"
    assert "k-secret" not in repr(found)
    assert address("openai:https://models.example/v1").model == ""


@pytest.mark.parametrize(
    "model",
    [
        *("openai:", "openai:#m", "openai:ftp://host/v1#m", "openai:http://:80/v1#m"),
        *("openai:http://host:port/v1#m", "openai:http://me:pw@host/v1#m", "openai:http://[::1#m"),
        "openai:http://host/v1?key=1#m",
    ],
)
def test_what_is_no_address_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match="WORKER_MODEL"):
        address(model)


def test_a_key_comes_from_a_file_or_from_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("k\n")
    model = "openai:http://host/v1#m"
    assert address(model, WORKER_RELAY_KEY_FILE=str(file)).key == "k"
    with pytest.raises(ConfigError, match="WORKER_RELAY_KEY_FILE"):
        address(model, WORKER_RELAY_KEY_FILE=str(file), WORKER_RELAY_KEY="other")
    with pytest.raises(ConfigError, match="WORKER_RELAY_KEY_FILE"):
        address(model, WORKER_RELAY_KEY_FILE=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        *(("127.0.0.1", True), ("10.1.2.3", True), ("vllm", True), ("vllm.models.svc", True)),
        *(("api.openai.com", False), ("8.8.8.8", False)),
    ],
)
def test_on_an_edge_site_no_server_beyond_it_is_asked(host: str, allowed: bool) -> None:
    model = f"openai:http://{host}/v1#m"
    if allowed:
        assert address(model, WORKER_EDGE="1").model == "m"
    else:
        with pytest.raises(ConfigError, match="WORKER_EDGE"):
            address(model, WORKER_EDGE="1")


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\r\n\r\n"


def said(text: str, finish: str | None = None) -> bytes:
    return event(choices=[{"delta": {"content": text}, "finish_reason": finish}])


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_stream_is_read_however_it_is_cut_in_pieces(size: int) -> None:
    stream = (
        b": ping\n\n"
        + event(choices=[{"delta": {"role": "assistant", "content": None}}])
        + event(choices=[{"delta": {"reasoning_content": "hm"}}])
        + said("Grüße")
        + said("", "stop")
        + event(choices=[], usage={"prompt_tokens": 9})
        + b"data: [DONE]\n\n"
    )
    reader = EventReader()
    chunks = [
        chunk
        for start in range(0, len(stream), size)
        for chunk in reader.feed(stream[start : start + size])
    ]
    assert [chunk for chunk in chunks if chunk != Chunk()] == [
        Chunk(thought=2),
        Chunk("Grüße"),
        Chunk(finish="stop"),
        Chunk(prompt_tokens=9),
    ]
    assert reader.whole


def test_a_stream_without_an_end_is_not_whole() -> None:
    reader = EventReader()
    list(reader.feed(said("half")))
    assert not reader.whole


@pytest.mark.parametrize(
    "data",
    [
        *(event(error={"message": "out of memory"}), b"data: {\n", b"data: 7\n", b"x" * 2**21),
        b"data: " + b"[" * 100_000 + b"\n",
    ],
)
def test_what_is_no_answer_is_a_fault(data: bytes) -> None:
    with pytest.raises(UpstreamFaultError):
        list(EventReader().feed(data))


def told(*entries: tuple[str, float]) -> dict[str, Any]:
    likeliest = [{"token": token, "logprob": logprob} for token, logprob in entries]
    return {"choices": [{"logprobs": {"content": [{"top_logprobs": likeliest}]}}]}


def test_the_probability_of_yes_is_its_share_of_yes_and_no() -> None:
    both = told((" Yes", -0.5), ("yes", -2.0), ("NO", -1.5), ("Maybe", -4.0))
    assert verdict.by_probability(both) == pytest.approx(0.7688, abs=1e-4)
    assert verdict.by_probability(told(("<think>", -0.01), ("Yes", -6.0))) is None
    assert verdict.by_probability({"choices": [{"logprobs": None}]}) is None
    assert not verdict.tells_probabilities({"choices": [{"logprobs": None}]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("Yes, it is.", 1.0), ("**No**", 0.0), ("I cannot tell.", 0.5), ("", 0.5)),
        *(("<think>no, or yes</think>\nYes", 1.0), ("<think>yes yes", 0.5), ("Nobody", 0.5)),
    ],
)
def test_without_probabilities_words_decide(text: str, expected: float) -> None:
    assert verdict.by_words({"choices": [{"message": {"content": text}}]}) == expected


def test_the_model_takes_frames_of_many_sizes() -> None:
    model = RelayModel("m", 4, 200_704)
    assert model.layout(640, 368).segment_tokens <= model.costliest(640 * 368).segment_tokens
    assert model.costliest(0) == model.spec.layout
    for width, height in ((641, 368), (0, CELL), (2**14, 2**14)):
        with pytest.raises(InvalidArgumentError):
            model.layout(width, height)


def test_earlier_rounds_are_messages_before_the_question() -> None:
    messages = RelayModel("m", 4, 4096).question_tokens([Round("a?", "b")], "c?")
    assert [(each["role"], each["content"]) for each in messages] == [
        ("user", "a?"),
        ("assistant", "b"),
        ("user", "c?"),
    ]


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_calls_come_as_text(size: int) -> None:
    def called(*deltas: Any, finish: str | None = None) -> bytes:
        return event(choices=[{"delta": {"tool_calls": list(deltas)}, "finish_reason": finish}])

    name = {"index": 0, "id": "c", "function": {"name": "set", "arguments": ""}}
    stream = (
        said("Well.")
        + called(name)
        + called({"index": 0, "function": {"arguments": '{"on": '}})
        + called({"index": 0, "function": {"arguments": "true}"}})
        + called({"index": 1, "id": "d", "function": {"name": "ring"}})
        + called(None, {"index": 1}, finish="tool_calls")
        + b"data: [DONE]\n\n"
    )
    reader, calls = EventReader(calls=True), CallReader()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    chunks = [chunk for piece in pieces for chunk in reader.feed(piece)]
    words = "".join(calls.feed(chunk.text) for chunk in chunks) + calls.rest()
    assert words == "Well."
    assert [(call.name, call.arguments) for call in calls.calls] == [
        ("set", '{"on": true}'),
        ("ring", "{}"),
    ]


def test_a_form_is_the_server_s_to_hold() -> None:
    model = RelayModel("m", 4, 4096)
    tools = (Tool(name="ring"),)
    schema = {"type": "object", "required": ["a"]}
    held = model.hold(Form(schema=schema, tools=tools, choice="ring", single=True))
    assert held["response_format"]["json_schema"]["schema"] == schema
    assert held["tools"][0]["function"]["name"] == "ring"
    assert held["tool_choice"] == {"type": "function", "function": {"name": "ring"}}
    assert held["parallel_tool_calls"] is False
    assert model.hold(Form(schema={"type": "object"})) == {
        "response_format": {"type": "json_object"}
    }
    call = Call(id="c", name="ring", arguments="{}", output="rung")
    messages = model.question_tokens([], "Ring!", Form(tools=tools, called=(call,)))
    request = Asking(cast(Any, None), "m")._request(messages, [Picture(1, "eA==")], 9)
    asked, made, output = request["messages"]
    assert (asked["content"][-1]["text"], asked["content"][-2]["type"]) == ("Ring!", "image_url")
    assert made["tool_calls"][0]["function"] == {"name": "ring", "arguments": "{}"}
    assert output == {"role": "tool", "tool_call_id": "c", "content": "rung"}


async def test_health_follows_the_model_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look that it misses is nothing; from the second on nobody is sent here."""
    looks = iter([True, False, True, False, False, False, True, True])
    told: list[tuple[int, bool]] = []

    class Server:
        looked = 0

        async def models(self) -> list[str]:
            self.looked += 1
            if (answers := next(looks, None)) is None:
                host.stopping.set()
            if answers is False:
                raise UnavailableError("ClientConnectorError")
            return ["m"]

    class Host:
        stopping = asyncio.Event()

        async def set_serving(self, serving: bool) -> None:
            told.append((server.looked, serving))

    server, host = Server(), Host()
    monkeypatch.setattr(service, "LOOK_S", 0)
    await service._feel(host, server)  # type: ignore[arg-type]
    assert told == [(5, False), (7, True)]
