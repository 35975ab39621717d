"""Form of an answer: JSON of a schema, or calls of the asker's functions. Data, no I/O.

Calls are written as Hermes and Qwen write them, `<tool_call>` around a JSON object with `name` and
`arguments`, and read with the words that their templates have for it. Those stand before the video
there; it is understood already, so that here they stand before the question.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CALL, CALL_END = "<tool_call>", "</tool_call>"
AUTO, REQUIRED = "auto", "required"
_CLOSED: Mapping[str, Any] = {"type": "object", "additionalProperties": False}
_NOTHING: Mapping[str, Any] = {**_CLOSED, "properties": {}}
# Where it stands in more than one place what an object has.
_ELSEWHERE = {"$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that may be called. `parameters`: JSON Schema of an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None

    @property
    def schema(self) -> Mapping[str, Any]:
        """What it is given: nothing but what is named, where nothing is said of that."""
        given = _NOTHING if self.parameters is None else self.parameters
        if "properties" in given and not _ELSEWHERE & given.keys():
            return {**_CLOSED, **given}
        return {"type": "object", **given}

    def as_json(self) -> dict[str, Any]:
        """The tool in OpenAI's form, which is what models are trained on."""
        function = {"name": self.name, "description": self.description}
        return {"type": "function", "function": {**function, "parameters": dict(self.schema)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that was made. `arguments`: JSON; `output`: what came of it."""

    id: str = ""
    name: str
    arguments: str
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What an answer is to be. `schema`: of its JSON. `choice`: `auto`, `required`, or the name of
    the tool that is called. `single`: one call at most. `called`: for this question already."""

    schema: Mapping[str, Any] | None = None
    tools: Sequence[Tool] = ()
    choice: str = AUTO
    single: bool = False
    called: Sequence[Call] = ()

    @property
    def callable(self) -> Sequence[Tool]:
        """The tools that this answer may call."""
        if self.choice in (AUTO, REQUIRED):
            return self.tools
        return [tool for tool in self.tools if tool.name == self.choice]

    @property
    def must_call(self) -> bool:
        return bool(self.tools) and self.choice != AUTO

    def words(self, plain: Callable[[str], str] = str) -> str:
        """What the model is told of it. plain: takes the power from control tokens in what others
        wrote."""
        parts = []
        if self.tools:
            parts.append(_told_of(self.tools, plain))
        if self.must_call:
            names = " or ".join(tool.name for tool in self.callable)
            parts.append(f"Answer by calling {names}.")
        if self.schema is not None:
            text = plain(json.dumps(self.schema, ensure_ascii=False))
            parts.append(f"Answer with JSON of this schema alone: {text}")
        return "\n\n".join(parts)


def _told_of(tools: Sequence[Tool], plain: Callable[[str], str]) -> str:
    lines = "\n".join(plain(json.dumps(tool.as_json(), ensure_ascii=False)) for tool in tools)
    return (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n"
        f"<tools>\n{lines}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within "
        f"{CALL}{CALL_END} XML tags:\n"
        f'{CALL}\n{{"name": <function-name>, "arguments": <args-json-object>}}\n{CALL_END}'
    )


def written(call: Call, plain: Callable[[str], str] = str) -> str:
    """A call as a model writes it."""
    arguments = plain(call.arguments or "{}")
    return f'{CALL}\n{{"name": "{call.name}", "arguments": {arguments}}}\n{CALL_END}'


def returned(call: Call, plain: Callable[[str], str] = str) -> str:
    """What came of a call, as a model reads it."""
    return f"<tool_response>\n{plain(call.output)}\n</tool_response>"
