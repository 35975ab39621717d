"""Events that clients send, by OpenAI's names; `sightline.…` are ours."""

import base64
import binascii
from dataclasses import dataclass, field

from services.gateway.api.realtime.fields import (
    Json,
    WireError,
    fields_of,
    number_of,
    object_of,
    text_of,
    whole_of,
)
from services.gateway.api.realtime.items import Item
from services.gateway.api.realtime.settings import ResponseWish


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEvent:
    """An event of a client's. `event_id` is the client's, for errors about it; None: it has
    none."""

    event_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUpdate(ClientEvent):
    wishes: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemCreate(ClientEvent):
    item: Item
    after: str = ""  # id of the item before it; "": at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRetrieve(ClientEvent):
    item_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDelete(ClientEvent):
    item_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTruncate(ClientEvent):
    item_id: str
    content_index: int
    audio_end_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseCreate(ClientEvent):
    wish: ResponseWish


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseCancel(ClientEvent):
    response_id: str = ""  # "": the one under way


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioAppend(ClientEvent):
    audio: bytes = field(repr=False)
    rate: int = 0  # of PCM; 0: as the session's format has it


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioCommit(ClientEvent):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioClear(ClientEvent):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchCreate(ClientEvent):
    """A standing question. None: as the contract's Watch has it."""

    watch_id: str
    condition: str
    interval_s: float | None = None
    debounce_s: float = 0.0
    cooldown_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchDelete(ClientEvent):
    watch_id: str


def event_id_of(fields: Json) -> str | None:
    """The client's id of an event that may be wrong in any other way."""
    event_id = fields.get("event_id")
    return event_id if isinstance(event_id, str) and event_id else None


def parsed(text: str) -> ClientEvent:
    """The event in a text frame. Raises WireError."""
    return event_of(object_of(text))


def event_of(fields: Json) -> ClientEvent:
    """The event of a JSON object. Raises WireError."""
    event_id = event_id_of(fields)
    kind = text_of(fields, "type", required=True)
    match kind:
        case "session.update":
            return SessionUpdate(event_id=event_id, wishes=_object(fields, "session"))
        case "conversation.item.create":
            item = Item.of(_object(fields, "item"))
            after = text_of(fields, "previous_item_id")
            return ItemCreate(event_id=event_id, item=item, after=after)
        case "conversation.item.retrieve":
            return ItemRetrieve(event_id=event_id, item_id=_id(fields, "item_id"))
        case "conversation.item.delete":
            return ItemDelete(event_id=event_id, item_id=_id(fields, "item_id"))
        case "conversation.item.truncate":
            return ItemTruncate(
                event_id=event_id,
                item_id=_id(fields, "item_id"),
                content_index=whole_of(fields, "content_index"),
                audio_end_ms=whole_of(fields, "audio_end_ms"),
            )
        case "response.create":
            wish = ResponseWish.of(fields_of(fields, "response"))
            return ResponseCreate(event_id=event_id, wish=wish)
        case "response.cancel":
            return ResponseCancel(event_id=event_id, response_id=text_of(fields, "response_id"))
        case "input_audio_buffer.append":
            return AudioAppend(event_id=event_id, audio=_bytes(fields, "audio"))
        case "input_audio_buffer.commit":
            return AudioCommit(event_id=event_id)
        case "input_audio_buffer.clear":
            return AudioClear(event_id=event_id)
        case "sightline.watch.create":
            return _watch(_object(fields, "watch"), event_id)
        case "sightline.watch.delete":
            return WatchDelete(event_id=event_id, watch_id=_id(fields, "watch_id"))
        case _:
            raise WireError(f"no client event has the type {kind[:64]!r}", param="type")


def _watch(fields: Json, event_id: str | None) -> WatchCreate:
    where = "watch."
    return WatchCreate(
        event_id=event_id,
        watch_id=text_of(fields, "id", where, required=True),
        condition=text_of(fields, "condition", where, required=True),
        interval_s=number_of(fields, "interval_s", where),
        debounce_s=number_of(fields, "debounce_s", where) or 0.0,
        cooldown_s=number_of(fields, "cooldown_s", where) or 0.0,
    )


def _object(fields: Json, name: str) -> Json:
    if fields.get(name) is None:
        raise WireError(f"{name} is an object", code="missing_required_parameter", param=name)
    return fields_of(fields, name)


def _id(fields: Json, name: str) -> str:
    return text_of(fields, name, required=True)


def _bytes(fields: Json, name: str) -> bytes:
    try:
        return base64.b64decode(text_of(fields, name, required=True), validate=True)
    except (binascii.Error, ValueError):
        raise WireError(f"{name} is Base64", param=name) from None
