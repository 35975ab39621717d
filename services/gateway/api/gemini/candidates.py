"""A reply of Gemini's `generateContent`, whole or in chunks: data, no I/O."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from services.gateway.api.completions.chat_reply import shown_of
from services.gateway.api.gemini.errors import error_event
from services.gateway.api.gemini.fields import arguments_of
from sightline.errors import SightlineError
from sightline.v1 import gateway_pb2

_FINISH = {gateway_pb2.FINISH_REASON_LENGTH: "MAX_TOKENS"}


@dataclass(frozen=True, slots=True)
class Candidates:
    """Replies with the one candidate that there is."""

    id: str
    model: str

    def whole(self, done: gateway_pb2.AnswerDone) -> dict[str, Any]:
        said = [{"text": done.text}] if done.text or not done.tool_calls else []
        return self._reply([*said, *_calls(done)], done)

    def first(self) -> dict[str, Any]:
        return self.delta("")

    def delta(self, text: str) -> dict[str, Any]:
        return self._reply([{"text": text}])

    def calls(self, done: gateway_pb2.AnswerDone) -> Iterator[dict[str, Any]]:
        if done.tool_calls:
            yield self._reply(_calls(done))

    def last(self, done: gateway_pb2.AnswerDone) -> dict[str, Any]:
        return self._reply([{"text": ""}], done)

    def ended(
        self, done: gateway_pb2.AnswerDone, *, include_usage: bool
    ) -> Iterator[dict[str, Any] | str]:
        """Nothing comes after the last chunk, which has all of it."""
        yield from ()

    def failed(self, error: SightlineError) -> dict[str, Any]:
        return error_event(error)

    def _reply(
        self, parts: list[dict[str, Any]], done: gateway_pb2.AnswerDone | None = None
    ) -> dict[str, Any]:
        """done: of the last one."""
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
        reply: dict[str, Any] = {
            "candidates": [candidate],
            "modelVersion": self.model,
            "responseId": self.id,
        }
        if done is not None:
            candidate["finishReason"] = _FINISH.get(done.finish_reason, "STOP")
            reply["usageMetadata"] = {
                "promptTokenCount": done.prompt_tokens,
                "candidatesTokenCount": done.answer_tokens,
                "totalTokenCount": done.prompt_tokens + done.answer_tokens,
            }
            reply["sightline"] = shown_of(done, camel_case=True)
        return reply


def _calls(done: gateway_pb2.AnswerDone) -> list[dict[str, Any]]:
    return [
        {"functionCall": {"id": each.id, "name": each.name, "args": arguments_of(each.arguments)}}
        for each in done.tool_calls
    ]
