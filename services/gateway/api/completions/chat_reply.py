"""A chat completion's reply, whole or in chunks: data, no I/O."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from services.gateway.api.completions.errors import error_event
from sightline.errors import SightlineError
from sightline.v1 import gateway_pb2

_FINISH = {gateway_pb2.FINISH_REASON_LENGTH: "length"}
# Of our own, beside what OpenAI has: what the answer saw, and what it went without.
_SHOWN = (
    "first_capture_ns",
    "last_capture_ns",
    "frames_seen",
    "newest_frame_age_ms",
    "degraded",
    "unfamiliar_picture",
    "strangeness",
    "unsure",
    "memory",
    "confidence",
    "answered_by",
)


def shown_of(done: gateway_pb2.AnswerDone, *, camel_case: bool = False) -> dict[str, Any]:
    """What the wire has no word for, for clients that know us."""
    told = json_format.MessageToDict(done, preserving_proto_field_name=not camel_case)
    fields = done.DESCRIPTOR.fields_by_name
    names = [fields[name].json_name if camel_case else name for name in _SHOWN]
    return {name: told[name] for name in names if name in told}


@dataclass(frozen=True, slots=True)
class ChatReply:
    id: str
    created_s: int
    model: str

    def whole(self, done: gateway_pb2.AnswerDone) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": _message(done),
            "logprobs": None,
            "finish_reason": _finish(done),
        }
        return {
            **self._head("chat.completion", [choice]),
            "usage": _usage(done),
            "sightline": shown_of(done),
        }

    def first(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": ""})

    def delta(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text})

    def calls(self, done: gateway_pb2.AnswerDone) -> Iterator[dict[str, Any]]:
        """The chunks of its calls: which function, and then what it is given."""
        for number, call in enumerate(done.tool_calls):
            named = {"index": number, **_call(call)}
            named["function"] = {**named["function"], "arguments": ""}
            yield self._chunk({"tool_calls": [named]})
            given = {"index": number, "function": {"arguments": call.arguments}}
            yield self._chunk({"tool_calls": [given]})

    def last(self, done: gateway_pb2.AnswerDone) -> dict[str, Any]:
        return {**self._chunk({}, _finish(done)), "sightline": shown_of(done)}

    def ended(
        self, done: gateway_pb2.AnswerDone, *, include_usage: bool
    ) -> Iterator[dict[str, Any] | str]:
        """What comes after the last chunk."""
        if include_usage:
            yield {**self._head("chat.completion.chunk", []), "usage": _usage(done)}
        yield "[DONE]"

    def failed(self, error: SightlineError) -> dict[str, Any]:
        return error_event(error)

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._head("chat.completion.chunk", [choice])

    def _head(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "choices": choices,
        }


def _message(done: gateway_pb2.AnswerDone) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": done.text, "refusal": None}
    if done.tool_calls:
        message["content"] = done.text or None
        message["tool_calls"] = [_call(call) for call in done.tool_calls]
    return message


def _call(call: gateway_pb2.ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _finish(done: gateway_pb2.AnswerDone) -> str:
    if done.tool_calls:
        return "tool_calls"
    return _FINISH.get(done.finish_reason, "stop")


def _usage(done: gateway_pb2.AnswerDone) -> dict[str, int]:
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.answer_tokens,
        "total_tokens": done.prompt_tokens + done.answer_tokens,
    }


def _shown(done: gateway_pb2.AnswerDone) -> dict[str, Any]:
    told = json_format.MessageToDict(done, preserving_proto_field_name=True)
    return {name: told[name] for name in _SHOWN if name in told}
