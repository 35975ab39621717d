"""Python functions that a model may call while it answers."""

import asyncio
import inspect
import json
import logging
import secrets
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from sightline.errors import InvalidArgumentError
from sightline.types import Called
from sightline.v1 import gateway_pb2 as pb

__all__ = ["Tool", "Tools", "called_of", "question_after"]

log = logging.getLogger(__name__)

Tool = Callable[..., Any]
MOST_CALLS = 16  # for one question; then the model answers with what it knows
_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    dict: {"type": "object"},
    list: {"type": "array"},
    type(None): {"type": "null"},
}


class Tools:
    """Functions by name. A function is described by its docstring, its parameters by their types:
    str, int, float, bool, lists, dicts, Literal, enumerations, unions of them; Annotated[…, "text"]
    says what one means.
    """

    def __init__(self, functions: Iterable[Tool]) -> None:
        """Raises InvalidArgumentError for what a model cannot call by names and values."""
        self._functions = {function.__name__: function for function in functions}

    def messages(self) -> list[pb.Tool]:
        """The functions as the model reads of them."""
        return [
            pb.Tool(
                name=name,
                description=inspect.getdoc(function) or "",
                parameters=json.dumps(_parameters(function)),
            )
            for name, function in self._functions.items()
        ]

    async def call(self, calls: Sequence[pb.ToolCall]) -> list[pb.ToolCall]:
        """Call them side by side; the calls with what came of each. What goes wrong is told to the
        model. A function that is no coroutine runs in a thread."""
        outputs = await asyncio.gather(*(self._output(each) for each in calls))
        return [
            pb.ToolCall(id=each.id, name=each.name, arguments=each.arguments, output=output)
            for each, output in zip(calls, outputs, strict=True)
        ]

    async def _output(self, call: pb.ToolCall) -> str:
        function = self._functions.get(call.name)
        if function is None:
            return f"error: there is no function {call.name}"
        try:
            arguments = json.loads(call.arguments or "{}")
            inspect.signature(function).bind(**arguments)
            if inspect.iscoroutinefunction(function):
                found = await function(**arguments)
            else:
                found = await asyncio.to_thread(function, **arguments)
            return found if isinstance(found, str) else json.dumps(found, default=str)
        except Exception as error:  # of the function, or of what it does not take
            log.warning("a function failed", extra={"function": call.name}, exc_info=error)
            return f"error: {error}"


def question_after(question: pb.Question, called: Iterable[pb.ToolCall]) -> pb.Question:
    """The question as it is asked again, with what came of its calls; without any more of them
    where it had enough."""
    asked = pb.Question()
    asked.CopyFrom(question)
    asked.turn = secrets.token_hex(8)
    asked.called.extend(called)
    if len(asked.called) >= MOST_CALLS:
        asked.tool_choice = "none"
    return asked


def called_of(calls: Iterable[pb.ToolCall]) -> tuple[Called, ...]:
    """Calls as an answer's result has them."""
    return tuple(
        Called(name=each.name, arguments=json.loads(each.arguments or "{}"), output=each.output)
        for each in calls
    )


def _parameters(function: Tool) -> Mapping[str, Any]:
    """JSON Schema of what a function takes."""
    hints = typing.get_type_hints(function, include_extras=True)
    properties, required = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InvalidArgumentError(f"{function.__name__}: {name} cannot be given by its name")
        try:
            properties[name] = _schema(hints.get(name, str))
        except TypeError as error:
            raise InvalidArgumentError(f"{function.__name__}: {name} {error}") from None
        if parameter.default is parameter.empty:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _schema(hint: Any) -> dict[str, Any]:
    """JSON Schema of a type. Raises TypeError for one that JSON does not have."""
    if hint is Any:
        return {}
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [each.value for each in hint]}
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        told = [each for each in inside[1:] if isinstance(each, str)]
        return _schema(inside[0]) | ({"description": told[0]} if told else {})
    if origin is typing.Literal:
        return {"enum": list(inside)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(each) for each in inside]}
    if origin in (list, Sequence):
        return {"type": "array", "items": _schema(inside[0])}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _schema(inside[1])}
    raise TypeError(f"has a type that no model can give: {hint}")
