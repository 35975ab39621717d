"""A chat completion as it was asked for, read out of its JSON: data, no I/O."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from services.common.checks import MAX_ANSWER_TOKENS, MAX_TOP_K
from services.gateway.api.completions.errors import ParameterError
from services.gateway.api.completions.tools import calls_of, read_tools, schema_text
from sightline.errors import InvalidArgumentError
from sightline.v1 import dialogue_pb2, gateway_pb2

SCHEME = "sightline://"
MAX_MESSAGES, MAX_PICTURES = 1000, 32
MAX_ROUNDS, MAX_ROUND_CHARACTERS = 16, 2000  # models read a few; what is older is left out
_TEXTS = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What is asked, of which session or pictures. `schema`: of the answer, {} for any JSON, None
    for text. `pictures`: addresses of images."""

    model: str
    question: gateway_pb2.Question
    history: Sequence[dialogue_pb2.Round] = ()
    session: str = ""
    pictures: Sequence[str] = ()
    stream: bool = False
    include_usage: bool = False
    schema: dict[str, Any] | None = None


@dataclass(slots=True)
class Said:
    """What the messages say, put together."""

    instructions: list[str] = field(default_factory=list)
    rounds: list[tuple[list[str], list[str]]] = field(default_factory=list)
    session: str = ""
    pictures: list[str] = field(default_factory=list)
    called: list[gateway_pb2.ToolCall] = field(default_factory=list)  # for the last question

    @property
    def asks(self) -> bool:
        """Whether there is something to answer: a question, or what came of calls for it."""
        return bool(self.rounds) and not self.rounds[-1][1]


def chat_request_of(text: bytes) -> ChatRequest:
    """Read a request. Raises InvalidArgumentError, naming the field that is wrong."""
    body = object_of(text)
    _refuse(body)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ParameterError("model", "is missing")
    said = _said_in(body.get("messages"))
    if model.startswith(SCHEME) and not said.session:
        said.session = _session_of(model, "model")
    question = _sampling_of(body)
    *before, (asked, _) = said.rounds
    question.text = "\n".join(asked)
    question.instructions = "\n\n".join(said.instructions)
    question.called.extend(said.called)
    read_tools(body, question)
    schema = _schema_of(body.get("response_format"))
    if schema is not None:
        question.answer_schema = schema_text(schema, "response_format")
    options = body.get("stream_options")
    return ChatRequest(
        model=model,
        question=question,
        history=[
            dialogue_pb2.Round(question=_cut(questions), answer=_cut(answers))
            for questions, answers in before[-MAX_ROUNDS:]
        ],
        session=said.session,
        pictures=said.pictures,
        stream=_flag(body, "stream"),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        schema=schema,
    )


def object_of(text: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises InvalidArgumentError for anything else, and for halves of
    characters, which nothing after this can write down."""
    try:
        decoded = text.decode()
        body = json.loads(decoded)
        if "\\u" in decoded:
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise InvalidArgumentError("the body is no JSON") from None
    if not isinstance(body, dict):
        raise InvalidArgumentError("the body is no JSON object")
    return body


def _refuse(body: dict[str, Any]) -> None:
    """Raise ParameterError for what would be answered otherwise than it was asked."""
    if body.get("n") not in (None, 1):
        raise ParameterError(
            "n", "one answer at a time is to be had here: leave it out, or ask again"
        )
    for name in ("logprobs", "top_logprobs", "audio"):
        if body.get(name):
            raise ParameterError(name, "is not to be had here")
    modalities = body.get("modalities")
    if modalities not in (None, ["text"]):
        raise ParameterError("modalities", 'is ["text"] here')


def _said_in(messages: Any) -> Said:
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise ParameterError("messages", f"is a list of 1 to {MAX_MESSAGES}")
    said = Said()
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise ParameterError(where, "is no object")
        role = message.get("role")
        if role in ("system", "developer"):
            said.instructions.append(text_of(message.get("content"), where, said))
        elif role == "user":
            if not said.asks:
                said.rounds.append(([], []))
            said.rounds[-1][0].append(text_of(message.get("content"), where, said))
        elif role == "assistant":
            if calls := calls_of(message, where):  # its words go with them, and answer nothing yet
                said.called.extend(calls)
            elif said.rounds and message.get("content"):  # a greeting answers nothing
                said.rounds[-1][1].append(text_of(message["content"], where, said))
                said.called.clear()
        elif role == "tool":
            _take_output(message, where, said)
        elif role != "function":
            raise ParameterError(f"{where}.role", "is none of system, user, assistant and tool")
    if not said.asks:
        raise ParameterError("messages", "the last one is the user's, or a tool's")
    return said


def _take_output(message: dict[str, Any], where: str, said: Said) -> None:
    """Put what came of a call to it."""
    for call in said.called:
        if call.id == message.get("tool_call_id"):
            call.output = text_of(message.get("content"), where, said)
            return
    raise ParameterError(f"{where}.tool_call_id", "is that of a call before it")


def text_of(content: Any, where: str, said: Said) -> str:
    """Words of a message; its pictures and the session it names go into `said`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ParameterError(f"{where}.content", "is text or a list of parts")
    words = []
    for number, part in enumerate(content):
        at = f"{where}.content[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXTS and isinstance(part.get("text"), str):
            words.append(part["text"])
        elif kind in ("image_url", "input_image"):
            if len(said.pictures) >= MAX_PICTURES:
                raise ParameterError(at, f"at most {MAX_PICTURES} pictures")
            said.pictures.append(_address_of(part, "image_url", at))
        elif kind == "video_url":
            said.session = _session_of(_address_of(part, kind, at), at)
        else:
            raise ParameterError(at, "is none of text, image_url and video_url")
    return "\n".join(words)


def _address_of(part: dict[str, Any], kind: str, at: str) -> str:
    address = part.get(kind)
    if isinstance(address, dict):
        address = address.get("url")
    if not isinstance(address, str) or not address:
        raise ParameterError(f"{at}.{kind}", "has no url")
    return address


def _session_of(address: str, at: str) -> str:
    name = unquote(address.removeprefix(SCHEME)).strip("/")
    if not address.startswith(SCHEME) or not name:
        raise ParameterError(at, f"a video is a session's: {SCHEME}<name or id>")
    return name


def _sampling_of(body: dict[str, Any]) -> gateway_pb2.Question:
    question = gateway_pb2.Question()
    for name, least, most in (
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("presence_penalty", -2, 2),
        ("frequency_penalty", -2, 2),
        ("repetition_penalty", 1, 10),
    ):
        if (value := _number(body, name, least, most)) is not None:
            setattr(question, name, value)
    if (top_k := _number(body, "top_k", -1, MAX_TOP_K)) is not None:  # -1: vLLM's word for all
        question.top_k = max(0, int(top_k))
    for name in ("max_tokens", "max_completion_tokens"):
        if (tokens := _number(body, name, 1, math.inf)) is not None:
            question.max_tokens = int(min(tokens, MAX_ANSWER_TOKENS))
    seed = body.get("seed")
    if seed is not None:
        if not isinstance(seed, int):
            raise ParameterError("seed", "is a whole number")
        question.seed = seed % 2**63
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(each, str) for each in stops):
        raise ParameterError("stop", "is text or a list of texts")
    question.stop.extend(stops)
    return question


def _number(body: dict[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ParameterError(name, f"is a number from {least:g} to {most:g}")
    return value


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise ParameterError(name, "is true or false")
    return bool(value)


def _schema_of(wanted: Any) -> dict[str, Any] | None:
    if wanted is None:
        return None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema":
        described = wanted.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        if isinstance(schema, dict):
            return schema
    raise ParameterError("response_format", "is text, json_object or json_schema with a schema")


def _cut(texts: list[str]) -> str:
    return "\n".join(texts)[:MAX_ROUND_CHARACTERS]
