"""Forms of answers, read out of questions."""

import json
from typing import Any

from services.inference_worker.model.form import AUTO, Call, Form, Tool
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2

MAX_DEPTH = 64  # of a schema: who compiles it goes down as deep


def form_of(question: gateway_pb2.Question) -> Form | None:
    """The form that a question asks for; None where any answer will do. Raises
    InvalidArgumentError."""
    tools = question.tools if question.tool_choice != "none" else ()
    if not (question.answer_schema or tools or question.called):
        return None
    return Form(
        schema=_object(question.answer_schema, "answer_schema"),
        tools=tuple(
            Tool(
                name=tool.name,
                description=tool.description,
                parameters=_object(tool.parameters, f"parameters of {tool.name}"),
            )
            for tool in tools
        ),
        choice=question.tool_choice or AUTO,
        single=question.single_call,
        called=tuple(
            Call(id=call.id, name=call.name, arguments=call.arguments, output=call.output)
            for call in question.called
        ),
    )


def _object(text: str, what: str) -> dict[str, Any] | None:
    """None for ""."""
    if not text:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{what}: this is no JSON object")
    if _is_deep(value):
        raise InvalidArgumentError(f"{what}: at most {MAX_DEPTH} levels of objects and lists")
    return value


def _is_deep(value: dict[str, Any]) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True
