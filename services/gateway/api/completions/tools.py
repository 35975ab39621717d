"""Tools of a chat completion, read out of its JSON: functions, which of them is to be called, and
what was called already. Data, no I/O."""

import json
from typing import Any

from services.gateway.api.completions.errors import ParameterError
from sightline.v1 import gateway_pb2


def read_tools(body: dict[str, Any], question: gateway_pb2.Question) -> None:
    """Put the tools of a body into the question. Raises ParameterError."""
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        raise ParameterError("tools", "is a list of functions")
    question.tools.extend(_tool_of(tool, f"tools[{number}]") for number, tool in enumerate(tools))
    question.single_call = body.get("parallel_tool_calls") is False
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        choice = _allow(choice.get("allowed_tools"), question)
    if isinstance(choice, dict):
        choice = _name_in(choice)
        if choice in ("auto", "none", "required"):  # what a function should not be called
            raise ParameterError("tool_choice", "names no function of tools")
    if choice is None or (choice == "auto" and not question.tools):
        return
    known = ["auto", "none", "required", *(tool.name for tool in question.tools)]
    if choice not in known or (choice == "required" and not question.tools):
        raise ParameterError(
            "tool_choice", "is auto, none, required with tools, or a function that is one of them"
        )
    question.tool_choice = choice


def _tool_of(tool: Any, where: str) -> gateway_pb2.Tool:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type", "function") != "function":
        raise ParameterError(where, "is none of type function")
    name, description = function.get("name"), function.get("description") or ""
    parameters = function.get("parameters")
    if not isinstance(name, str) or not isinstance(description, str):
        raise ParameterError(f"{where}.function", "has a name, and may have a description")
    if not isinstance(parameters, dict | None):
        raise ParameterError(f"{where}.function.parameters", "is a JSON Schema")
    return gateway_pb2.Tool(
        name=name,
        description=description,
        parameters=""
        if parameters is None
        else schema_text(parameters, f"{where}.function.parameters"),
    )


def schema_text(schema: dict[str, Any], where: str) -> str:
    """A schema as JSON. Raises ParameterError for one that nobody goes down to the end of."""
    try:
        return json.dumps(schema)
    except RecursionError:
        raise ParameterError(where, "is too deep") from None


def _allow(allowed: Any, question: gateway_pb2.Question) -> Any:
    """Leave but these tools. Gives the choice among them."""
    listed = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(listed, list):
        raise ParameterError("tool_choice", "allowed_tools has a mode and tools")
    names = [_name_in(each) for each in listed]
    kept = [tool for tool in question.tools if tool.name in names]
    del question.tools[:]
    question.tools.extend(kept)
    return allowed.get("mode")


def _name_in(value: Any) -> Any:
    """Name of the function in {"type": "function", "function": {"name": …}}."""
    function = value.get("function") if isinstance(value, dict) else None
    return function.get("name") if isinstance(function, dict) else None


def calls_of(message: dict[str, Any], where: str) -> list[gateway_pb2.ToolCall]:
    """The calls in a message of the assistant's. Raises ParameterError."""
    given = message.get("tool_calls")
    if not given:
        return []
    if not isinstance(given, list):
        raise ParameterError(f"{where}.tool_calls", "is a list")
    return [_call_of(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(given)]


def _call_of(call: Any, where: str) -> gateway_pb2.ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if isinstance(function, dict):
        texts = (call.get("id"), function.get("name"), function.get("arguments"))
        if all(isinstance(text, str) for text in texts):
            identity, name, arguments = texts
            return gateway_pb2.ToolCall(id=identity, name=name, arguments=arguments)
    raise ParameterError(where, "has an id and a function's name and arguments")
