"""Items of a Realtime conversation: messages, and calls of functions with their outputs."""

import secrets
from dataclasses import dataclass, field, replace
from typing import Any, Self

from services.gateway.api.realtime.fields import Json, WireError, list_of, text_of

MAX_ID_CHARACTERS = 128
MAX_PARTS = 64
ROLES = ("user", "assistant", "system")
# What older clients call the parts of a message, by who says it.
_PLAIN = {
    ("user", "text"): "input_text",
    ("system", "text"): "input_text",
    ("assistant", "text"): "output_text",
    ("user", "audio"): "input_audio",
    ("assistant", "audio"): "output_audio",
}
_PARTS = {
    "user": ("input_text", "input_image", "input_audio"),
    "system": ("input_text",),
    "assistant": ("output_text", "output_audio"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a message's content. Pictures and sound are read once, and not kept with it."""

    type: str
    text: str = ""
    transcript: str = ""
    image_url: str = field(default="", repr=False)
    audio: str = field(default="", repr=False)  # Base64

    @classmethod
    def of(cls, value: Any, role: str, where: str) -> Self:
        if not isinstance(value, dict):
            raise WireError(f"{where} is an object", param=where)
        kind = text_of(value, "type", f"{where}.", required=True)
        kind = _PLAIN.get((role, kind), kind)
        if kind not in _PARTS[role]:
            known = ", ".join(_PARTS[role])
            raise WireError(f"a part of a {role} message is one of {known}", param=f"{where}.type")
        names = ("text", "transcript", "image_url", "audio")
        texts = {name: text_of(value, name, f"{where}.") for name in names}
        return cls(type=kind, **texts)

    @property
    def words(self) -> str:
        return self.text or self.transcript

    def as_json(self) -> dict[str, Any]:
        match self.type:
            case "input_text" | "output_text":
                return {"type": self.type, "text": self.text}
            case "input_image":
                return {"type": self.type}
            case "input_audio":
                return {"type": self.type, "transcript": self.transcript or None}
            case _:
                return {"type": self.type, "transcript": self.transcript}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item: a `message`, a `function_call` or a `function_call_output`."""

    id: str
    type: str = "message"
    role: str = ""
    status: str = "completed"
    content: tuple[Part, ...] = ()
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    output: str = ""

    @classmethod
    def of(cls, fields: Json, where: str = "item.") -> Self:
        """The item that a client makes. Raises WireError."""
        given = text_of(fields, "id", where)
        if len(given) > MAX_ID_CHARACTERS or not given.isprintable():
            raise WireError(
                f"an id has at most {MAX_ID_CHARACTERS} printable characters", param=where + "id"
            )
        made = cls(id=given or new_id("item"))
        kind = text_of(fields, "type", where, required=True)
        match kind:
            case "message":
                role = text_of(fields, "role", where, required=True)
                role = "system" if role == "developer" else role
                if role not in ROLES:
                    raise WireError(f"a role is one of {', '.join(ROLES)}", param=where + "role")
                parts = list_of(fields, "content", where)
                if len(parts) > MAX_PARTS:
                    raise WireError(f"a message has at most {MAX_PARTS} parts", param=where[:-1])
                content = tuple(
                    Part.of(part, role, f"{where}content[{index}]")
                    for index, part in enumerate(parts)
                )
                return replace(made, role=role, content=content)
            case "function_call":
                return replace(
                    made,
                    type=kind,
                    call_id=text_of(fields, "call_id", where) or new_id("call"),
                    name=text_of(fields, "name", where, required=True),
                    arguments=text_of(fields, "arguments", where),
                )
            case "function_call_output":
                return replace(
                    made,
                    type=kind,
                    call_id=text_of(fields, "call_id", where, required=True),
                    output=text_of(fields, "output", where),
                )
            case _:
                raise WireError(
                    "an item is a message, a function_call or a function_call_output",
                    param=where + "type",
                )

    @property
    def words(self) -> str:
        """What is said in it."""
        return "\n".join(part.words for part in self.content if part.words)

    @property
    def pictures(self) -> tuple[str, ...]:
        return tuple(part.image_url for part in self.content if part.type == "input_image")

    def kept(self) -> Self:
        """The item as it stays in a conversation: without pictures and sound, which are frames of
        the session and words by then."""
        if self.type != "message":
            return self
        content = tuple(
            replace(part, image_url="", audio="")
            for part in self.content
            if part.type != "input_image"
        )
        return replace(self, content=content)

    def as_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "id": self.id,
            "object": "realtime.item",
            "type": self.type,
            "status": self.status,
        }
        match self.type:
            case "message":
                fields["role"] = self.role
                fields["content"] = [part.as_json() for part in self.content]
            case "function_call":
                fields |= {"call_id": self.call_id, "name": self.name}
                fields["arguments"] = self.arguments
            case _:
                fields |= {"call_id": self.call_id, "output": self.output}
        return fields


def new_id(kind: str) -> str:
    """An id as OpenAI's look: `item_…`, `resp_…`, `event_…`."""
    return f"{kind}_{secrets.token_hex(12)}"
