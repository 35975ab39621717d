"""Messages that the server sends to Gemini Live clients; `sightline` is ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.gateway.api.realtime.settings import PCM_RATE

AUDIO = f"audio/pcm;rate={PCM_RATE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMessage:
    """A message of the server's."""

    def as_json(self) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupComplete(ServerMessage):
    def as_json(self) -> dict[str, Any]:
        return {"setupComplete": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said(ServerMessage):
    """More words of the model's turn."""

    text: str

    def as_json(self) -> dict[str, Any]:
        return _content(modelTurn={"role": "model", "parts": [{"text": self.text}]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken(ServerMessage):
    """More speech of the model's turn: PCM in Base64."""

    pcm: str

    def as_json(self) -> dict[str, Any]:
        blob = {"mimeType": AUDIO, "data": self.pcm}
        return _content(modelTurn={"role": "model", "parts": [{"inlineData": blob}]})


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTranscription(ServerMessage):
    """Words that were heard."""

    text: str

    def as_json(self) -> dict[str, Any]:
        return _content(inputTranscription={"text": self.text, "finished": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTranscription(ServerMessage):
    """More words of what is spoken; `finished`: they were the last."""

    text: str = ""
    finished: bool = False

    def as_json(self) -> dict[str, Any]:
        words = {"text": self.text} if self.text else {}
        return _content(outputTranscription=words | ({"finished": True} if self.finished else {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationComplete(ServerMessage):
    def as_json(self) -> dict[str, Any]:
        return _content(generationComplete=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted(ServerMessage):
    """What was said of the turn, and is not played yet, is not to be."""

    def as_json(self) -> dict[str, Any]:
        return _content(interrupted=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnComplete(ServerMessage):
    """The model's turn is over. `tokens`: those of the question and of the answer; `reason`: why
    there is none; `answer`: what the answer saw and whose it is, for clients that know us."""

    tokens: tuple[int, int] | None = None
    reason: str = ""
    answer: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        why = {"turnCompleteReason": self.reason} if self.reason else {}
        message = _content(turnComplete=True, **why)
        if self.tokens is not None:
            prompt, response = self.tokens
            message["usageMetadata"] = {
                "promptTokenCount": prompt,
                "responseTokenCount": response,
                "totalTokenCount": prompt + response,
            }
        if self.answer is not None:
            message["sightline"] = {"answer": dict(self.answer)}
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that a model makes."""

    id: str
    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall(ServerMessage):
    calls: tuple[Call, ...]

    def as_json(self) -> dict[str, Any]:
        calls = [{"id": each.id, "name": each.name, "args": each.args} for each in self.calls]
        return {"toolCall": {"functionCalls": calls}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallCancellation(ServerMessage):
    """Nobody waits for what comes of these calls."""

    ids: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {"toolCallCancellation": {"ids": list(self.ids)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResumptionUpdate(ServerMessage):
    """What a client goes on with after it has connected again. `index`: of its newest message that
    is in it; the first one, the setup, is 0."""

    handle: str
    index: int | None = None

    def as_json(self) -> dict[str, Any]:
        update: dict[str, Any] = {"newHandle": self.handle, "resumable": True}
        if self.index is not None:
            update["lastConsumedClientMessageIndex"] = str(self.index)  # int64 of protobuf JSON
        return {"sessionResumptionUpdate": update}


@dataclass(frozen=True, slots=True, kw_only=True)
class GoAway(ServerMessage):
    """The connection will be closed soon."""

    time_left_s: float

    def as_json(self) -> dict[str, Any]:
        return {"goAway": {"timeLeft": f"{self.time_left_s:g}s"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension(ServerMessage):
    """What this wire has no word for, for clients that know us."""

    kind: str
    fields: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {"sightline": {self.kind: dict(self.fields)}}


def _content(**fields: Any) -> dict[str, Any]:
    return {"serverContent": fields}
