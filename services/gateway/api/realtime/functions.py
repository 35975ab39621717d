"""Functions of a Realtime client that a model may call: which there are, and which is wanted.

Tools of other kinds are the client's own; they are sent back to it, and nothing comes of them here.
"""

import json
from dataclasses import dataclass
from typing import Self

from services.gateway.api.realtime.fields import Json, WireError, fields_of, list_of, text_of

MAX_TOOLS = 128
CHOICES = ("auto", "none", "required")


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function. `parameters`: JSON Schema, as JSON; "": it takes nothing."""

    name: str
    description: str = ""
    parameters: str = ""

    @classmethod
    def of(cls, fields: Json, where: str) -> Self:
        parameters = fields_of(fields, "parameters", where)
        return cls(
            name=text_of(fields, "name", where, required=True),
            description=text_of(fields, "description", where),
            parameters=json.dumps(parameters) if parameters else "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that a model made, with what came of it."""

    id: str
    name: str
    arguments: str
    output: str


def functions_of(fields: Json, where: str) -> tuple[Function, ...] | None:
    """The functions among `tools`; None where nothing is said of them. Raises WireError."""
    if fields.get("tools") is None:
        return None
    tools = list_of(fields, "tools", where)
    if len(tools) > MAX_TOOLS or not all(isinstance(tool, dict) for tool in tools):
        raise WireError(f"tools are at most {MAX_TOOLS} objects", param=f"{where}tools")
    return tuple(
        Function.of(tool, f"{where}tools[{number}].")
        for number, tool in enumerate(tools)
        if text_of(tool, "type", f"{where}tools[{number}].") in ("", "function")
    )


def choice_of(fields: Json, where: str) -> str | None:
    """`auto`, `none`, `required`, or the name of a function; None where nothing is said of it.
    Raises WireError."""
    choice = fields.get("tool_choice")
    if choice is None:
        return None
    if isinstance(choice, dict):
        name = text_of(choice, "name", f"{where}tool_choice.", required=True)
        if name not in CHOICES:
            return name
    elif choice in CHOICES:
        return str(choice)
    raise WireError(
        f"tool_choice is one of {', '.join(CHOICES)}, or names a function",
        param=f"{where}tool_choice",
    )
