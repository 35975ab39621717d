"""A request of Gemini's `generateContent`, as the chat completion that it is here: data, no I/O."""

import base64
import json
from typing import Any

from services.gateway.api.gemini.fields import bytes_of, kind_of, named, object_in, objects_in
from services.gateway.api.gemini.schema import functions_of, json_schema_of
from services.gateway.api.gemini.setup import STREAM, words_of
from services.gateway.api.realtime.fields import Json, WireError, fields_of, list_of, text_of

MAX_CONTENTS = 1000
_SAME = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "seed": "seed",
    "maxOutputTokens": "max_tokens",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
    "stopSequences": "stop",
    "candidateCount": "n",
}
_MODES = {"ANY": "required", "NONE": "none", "VALIDATED": "auto"}


def chat_body(model: str, fields: Json, *, stream: bool) -> dict[str, Any]:
    """The body of a chat completion. Raises WireError."""
    fields = named(fields)
    generation = object_in(fields, "generationConfig")
    body: dict[str, Any] = {"model": model, "stream": stream, "messages": _messages(fields)}
    for theirs, ours in _SAME.items():
        if generation.get(theirs) is not None:
            body[ours] = generation[theirs]
    if (form := _form(generation)) is not None:
        body["response_format"] = form
    functions = functions_of(fields, "")
    if functions:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": each.name,
                    "description": each.description,
                    **({"parameters": json.loads(each.parameters)} if each.parameters else {}),
                },
            }
            for each in functions
        ]
        body["tool_choice"] = _choice(fields)
    return body


def _messages(fields: Json) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if fields.get("systemInstruction") is not None:
        words = words_of(fields["systemInstruction"], "systemInstruction.")
        messages.append({"role": "system", "content": words})
    for content in objects_in(fields, "contents", "", MAX_CONTENTS):
        messages += _messages_of(content)
    return messages


def _messages_of(content: Json) -> list[dict[str, Any]]:
    """The messages of one Content: what came of calls, each in its own, and then what is said."""
    where = "contents.parts."
    role = text_of(content, "role", "contents.") or "user"
    if role not in ("user", "model", "function"):
        raise WireError("a role is user or model", param="contents.role")
    messages: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for part in objects_in(content, "parts", "contents."):
        if part.get("thought") is True:
            continue
        if text := text_of(part, "text", where):
            said.append({"type": "text", "text": text})
        elif part.get("inlineData") is not None:
            said.append(_picture(object_in(part, "inlineData", where)))
        elif part.get("fileData") is not None:
            said.append(_file(object_in(part, "fileData", where)))
        elif part.get("functionCall") is not None:
            calls.append(_call(object_in(part, "functionCall", where)))
        elif part.get("functionResponse") is not None:
            messages.append(_output(object_in(part, "functionResponse", where)))
    if role == "model":
        words = "\n".join(each["text"] for each in said if "text" in each)
        if words or calls:
            more = {"tool_calls": calls} if calls else {}
            messages.append({"role": "assistant", "content": words, **more})
    elif said:
        messages.append({"role": "user", "content": said})
    return messages


def _picture(blob: Json) -> dict[str, Any]:
    where = "contents.parts.inlineData."
    kind, _ = kind_of(blob, where)
    picture = base64.b64encode(bytes_of(blob, "data", where)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{picture}"}}


def _file(data: Json) -> dict[str, Any]:
    """A live session, or a picture somewhere."""
    address = text_of(data, "fileUri", "contents.parts.fileData.", required=True)
    kind = "video_url" if address.startswith(STREAM) else "image_url"
    return {"type": kind, kind: {"url": address}}


def _call(fields: Json) -> dict[str, Any]:
    where = "contents.parts.functionCall."
    name = text_of(fields, "name", where, required=True)
    arguments = json.dumps(fields_of(fields, "args", where), ensure_ascii=False)
    return {
        "id": text_of(fields, "id", where) or name,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _output(fields: Json) -> dict[str, Any]:
    where = "contents.parts.functionResponse."
    return {
        "role": "tool",
        "tool_call_id": text_of(fields, "id", where) or text_of(fields, "name", where),
        "content": json.dumps(fields_of(fields, "response", where), ensure_ascii=False),
    }


def _form(generation: Json) -> dict[str, Any] | None:
    where = "generationConfig."
    schema: Any = fields_of(generation, "responseJsonSchema", where)
    if not schema and (given := fields_of(generation, "responseSchema", where)):
        schema = json_schema_of(given)
    if schema:
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    kind = text_of(generation, "responseMimeType", where)
    return {"type": "json_object"} if kind == "application/json" else None


def _choice(fields: Json) -> Any:
    where = "toolConfig.functionCallingConfig."
    config = object_in(object_in(fields, "toolConfig"), "functionCallingConfig", "toolConfig.")
    mode = _MODES.get(text_of(config, "mode", where).upper(), "auto")
    names = list_of(config, "allowedFunctionNames", where)
    if not names:
        return mode
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
