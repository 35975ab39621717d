"""Messages that Gemini Live clients send after the first one."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.gateway.api.gemini.fields import bytes_of, kind_of, named, object_in, objects_in
from services.gateway.api.gemini.setup import Setup
from services.gateway.api.realtime.fields import (
    Json,
    WireError,
    fields_of,
    flag_of,
    object_of,
    text_of,
)
from services.gateway.api.realtime.functions import MAX_TOOLS
from services.gateway.api.realtime.items import Item, Part, new_id

USUAL_RATE = 16_000
MAX_TURNS = 1000
PICTURES = ("image/jpeg", "image/png")


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """A piece of a microphone: 16-bit PCM, little endian, mono."""

    pcm: bytes = field(repr=False)
    rate: int = USUAL_RATE


@dataclass(frozen=True, slots=True, kw_only=True)
class RealtimeInput:
    """What is going on at the client's, as it comes."""

    audio: tuple[Audio, ...] = ()
    pictures: tuple[bytes, ...] = field(default=(), repr=False)
    text: str = ""
    begins: bool = False  # somebody speaks, as the client says …
    ends: bool = False  # … or has spoken
    stream_ends: bool = False  # the microphone is off for now


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientContent:
    """What was said, as items of a conversation; `complete`: it is to be answered."""

    items: tuple[Item, ...] = ()
    complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What came of a call. `silent`: it is not to be answered."""

    call_id: str
    output: str
    silent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResponse:
    outputs: tuple[Output, ...] = ()


Message = RealtimeInput | ClientContent | ToolResponse | Setup | None


def parsed(text: str) -> Message:
    """The message in a frame; None for one of a kind that is not known. Raises WireError."""
    fields = named(object_of(text))
    if "setup" in fields:
        return Setup.of(fields_of(fields, "setup"))
    if "clientContent" in fields:
        return _content_of(object_in(fields, "clientContent"))
    if "realtimeInput" in fields:
        return _input_of(object_in(fields, "realtimeInput"))
    if "toolResponse" in fields:
        return _response_of(object_in(fields, "toolResponse"))
    return None


def _input_of(fields: Json) -> RealtimeInput:
    where = "realtimeInput."
    blobs = [
        blob
        for name in ("mediaChunks", "media", "audio", "video")
        for blob in objects_in(fields, name, where)
    ]
    audio: list[Audio] = []
    pictures: list[bytes] = []
    for blob in blobs:
        kind, parameters = kind_of(blob, where)
        data = bytes_of(blob, "data", where)
        if kind in PICTURES:
            pictures.append(data)
        elif kind == "audio/pcm":
            audio.append(Audio(pcm=data, rate=_rate(parameters.get("rate"))))
        else:
            raise WireError(
                "a blob is audio/pcm, image/jpeg or image/png", param=f"{where}mimeType"
            )
    return RealtimeInput(
        audio=tuple(audio),
        pictures=tuple(pictures),
        text=text_of(fields, "text", where),
        begins=fields.get("activityStart") is not None,
        ends=fields.get("activityEnd") is not None,
        stream_ends=flag_of(fields, "audioStreamEnd", where, default=False),
    )


def _rate(text: str | None) -> int:
    if text is None:
        return USUAL_RATE
    if not (text.isascii() and text.isdecimal() and len(text) < 7):
        raise WireError("a rate is a number of samples a second", param="realtimeInput.mimeType")
    return int(text)


def _content_of(fields: Json) -> ClientContent:
    where = "clientContent."
    items: list[Item] = []
    for turn in objects_in(fields, "turns", where, MAX_TURNS):
        items += _items_of(turn, f"{where}turns.")
    complete = flag_of(fields, "turnComplete", where, default=False)
    return ClientContent(items=tuple(items), complete=complete)


def _items_of(turn: Json, where: str) -> list[Item]:
    """The items of one Content: its words and pictures in one, calls and what came of them each in
    its own."""
    role = text_of(turn, "role", where) or "user"
    if role not in ("user", "model", "function", "system"):
        raise WireError("a role is user or model", param=f"{where}role")
    said: list[Part] = []
    items: list[Item] = []
    for part in objects_in(turn, "parts", where):
        inner = f"{where}parts."
        if part.get("thought") is True:
            continue
        if text := text_of(part, "text", inner):
            said.append(Part(type="output_text" if role == "model" else "input_text", text=text))
        elif part.get("inlineData") is not None:
            said.append(_picture_of(object_in(part, "inlineData", inner), f"{inner}inlineData."))
        elif part.get("functionCall") is not None:
            items.append(_call_of(object_in(part, "functionCall", inner)))
        elif part.get("functionResponse") is not None:
            answer = _output_of(object_in(part, "functionResponse", inner), inner)
            items.append(output_item(answer))
        elif part.get("fileData") is not None:
            raise WireError("files are not fetched: send inlineData", param=f"{inner}fileData")
    if said:
        role = {"model": "assistant", "function": "user"}.get(role, role)
        items.insert(0, Item(id=new_id("item"), role=role, content=tuple(said)))
    return items


def _picture_of(blob: Json, where: str) -> Part:
    kind, _ = kind_of(blob, where)
    if kind not in PICTURES:
        raise WireError(
            "inlineData is image/jpeg or image/png; sound goes by realtimeInput.audio",
            param=f"{where}mimeType",
        )
    picture = base64.b64encode(bytes_of(blob, "data", where)).decode()
    return Part(type="input_image", image_url=f"data:{kind};base64,{picture}")


def _call_of(fields: Json) -> Item:
    where = "functionCall."
    return Item(
        id=new_id("item"),
        type="function_call",
        call_id=text_of(fields, "id", where) or text_of(fields, "name", where),
        name=text_of(fields, "name", where, required=True),
        arguments=_json(fields_of(fields, "args", where)),
    )


def _response_of(fields: Json) -> ToolResponse:
    where = "toolResponse."
    found: Sequence[Json] = objects_in(fields, "functionResponses", where, MAX_TOOLS)
    return ToolResponse(outputs=tuple(_output_of(each, where) for each in found))


def _output_of(fields: Json, where: str) -> Output:
    """What came of a call by its id, or by the name of what was called where it has none."""
    name = text_of(fields, "name", where)
    return Output(
        call_id=text_of(fields, "id", where) or name,
        output=_json(fields_of(fields, "response", where)),
        silent=text_of(fields, "scheduling", where) == "SILENT",
    )


def output_item(output: Output) -> Item:
    """The item of what came of a call."""
    return Item(
        id=new_id("item"),
        type="function_call_output",
        call_id=output.call_id,
        output=output.output,
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
