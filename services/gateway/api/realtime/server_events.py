"""Events that the server sends, by OpenAI's GA names; `sightline.…` are ours."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from services.gateway.api.realtime.items import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """An event of the server's. Its fields are the wire's."""

    type: ClassVar[str]

    def as_json(self, event_id: str) -> dict[str, Any]:
        named = {each.name: _plain(getattr(self, each.name)) for each in fields(self)}
        return {"type": self.type, "event_id": event_id, **named}


def _plain(value: Any) -> Any:
    return value.as_json() if isinstance(value, Item) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCreated(ServerEvent):
    type: ClassVar[str] = "session.created"
    session: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUpdated(ServerEvent):
    type: ClassVar[str] = "session.updated"
    session: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemAdded(ServerEvent):
    type: ClassVar[str] = "conversation.item.added"
    previous_item_id: str | None
    item: Item


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDone(ServerEvent):
    type: ClassVar[str] = "conversation.item.done"
    previous_item_id: str | None
    item: Item


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRetrieved(ServerEvent):
    type: ClassVar[str] = "conversation.item.retrieved"
    item: Item


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDeleted(ServerEvent):
    type: ClassVar[str] = "conversation.item.deleted"
    item_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTruncated(ServerEvent):
    type: ClassVar[str] = "conversation.item.truncated"
    item_id: str
    content_index: int
    audio_end_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseCreated(ServerEvent):
    type: ClassVar[str] = "response.created"
    response: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseDone(ServerEvent):
    type: ClassVar[str] = "response.done"
    response: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputItem(ServerEvent):
    """What happens to one item of a response."""

    response_id: str
    output_index: int
    item: Item


class OutputItemAdded(OutputItem):
    type: ClassVar[str] = "response.output_item.added"


class OutputItemDone(OutputItem):
    type: ClassVar[str] = "response.output_item.done"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfPart(ServerEvent):
    """What happens to one part of an item of a response."""

    response_id: str
    item_id: str
    output_index: int
    content_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentPart(OfPart):
    part: Mapping[str, str]


class ContentPartAdded(ContentPart):
    type: ClassVar[str] = "response.content_part.added"


class ContentPartDone(ContentPart):
    type: ClassVar[str] = "response.content_part.done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta(OfPart):
    delta: str


class TextDelta(Delta):
    type: ClassVar[str] = "response.output_text.delta"


class TranscriptDelta(Delta):
    type: ClassVar[str] = "response.output_audio_transcript.delta"


class AudioDelta(Delta):
    type: ClassVar[str] = "response.output_audio.delta"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDone(OfPart):
    type: ClassVar[str] = "response.output_text.done"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptDone(OfPart):
    type: ClassVar[str] = "response.output_audio_transcript.done"
    transcript: str


class AudioDone(OfPart):
    type: ClassVar[str] = "response.output_audio.done"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentsDelta(ServerEvent):
    type: ClassVar[str] = "response.function_call_arguments.delta"
    response_id: str
    item_id: str
    output_index: int
    call_id: str
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentsDone(ServerEvent):
    type: ClassVar[str] = "response.function_call_arguments.done"
    response_id: str
    item_id: str
    output_index: int
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioCommitted(ServerEvent):
    type: ClassVar[str] = "input_audio_buffer.committed"
    previous_item_id: str | None
    item_id: str


class AudioCleared(ServerEvent):
    type: ClassVar[str] = "input_audio_buffer.cleared"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStarted(ServerEvent):
    type: ClassVar[str] = "input_audio_buffer.speech_started"
    audio_start_ms: int
    item_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStopped(ServerEvent):
    type: ClassVar[str] = "input_audio_buffer.speech_stopped"
    audio_end_ms: int
    item_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionCompleted(ServerEvent):
    type: ClassVar[str] = "conversation.item.input_audio_transcription.completed"
    item_id: str
    content_index: int
    transcript: str
    usage: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionFailed(ServerEvent):
    type: ClassVar[str] = "conversation.item.input_audio_transcription.failed"
    item_id: str
    content_index: int
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchCreated(ServerEvent):
    type: ClassVar[str] = "sightline.watch.created"
    watch_id: str
    condition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchDeleted(ServerEvent):
    type: ClassVar[str] = "sightline.watch.deleted"
    watch_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSaid(ServerEvent):
    """Somebody has said something in the video. Times are seconds since the epoch."""

    type: ClassVar[str] = "sightline.said"
    text: str
    started_at: float
    ended_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchFired(ServerEvent):
    """A watch changed its mind. `score`: probability of yes; `captured_at`: seconds since the
    epoch, of the newest frame it saw."""

    type: ClassVar[str] = "sightline.watch.event"
    watch_id: str
    condition: str
    active: bool
    score: float
    captured_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchFailed(ServerEvent):
    """A watch was refused or has ended. Not an `error`: some clients hang up at those."""

    type: ClassVar[str] = "sightline.watch.failed"
    watch_id: str
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(ServerEvent):
    """An event could not be acted on."""

    type: ClassVar[str] = "error"
    error: Mapping[str, Any]


def error_json(
    message: str,
    *,
    code: str,
    kind: str = "invalid_request_error",
    param: str | None = None,
    event_id: str | None = None,
) -> dict[str, Any]:
    """The `error` of an event. kind: `invalid_request_error`, or `server_error` for what is not the
    client's fault. event_id: of the client's event that it is about."""
    return {
        "type": kind,
        "code": code,
        "message": message,
        "param": param,
        "event_id": event_id,
    }
