"""Fields of JSON objects that clients send, read with errors that name them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Json: TypeAlias = Mapping[str, Any]

MAX_NUMBER = 1e15
MAX_DEPTH = 32  # of what is kept and sent back


class WireError(Exception):
    """What is wrong with an event, as the `error` event says it."""

    def __init__(
        self, message: str, *, code: str = "invalid_value", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


def object_of(text: str) -> Json:
    """The JSON object in a text frame. Raises WireError."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:  # half of a character can be written so, and is none
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise WireError("an event is one JSON object", code="invalid_json") from None
    if not isinstance(value, dict):
        raise WireError("an event is one JSON object", code="invalid_json")
    if not _is_shallow(value, MAX_DEPTH):
        raise WireError(f"at most {MAX_DEPTH} levels of objects and lists", code="invalid_json")
    return value


def text_of(fields: Json, name: str, where: str = "", *, required: bool = False) -> str:
    """A string; "" where it is left out or null."""
    value = fields.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        raise WireError(f"{where}{name} is a string", param=where + name)
    return value


def flag_of(fields: Json, name: str, where: str = "", *, default: bool) -> bool:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise WireError(f"{where}{name} is true or false", param=where + name)
    return value


def whole_of(fields: Json, name: str, where: str = "", *, default: int = 0) -> int:
    """A whole number that is not negative."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise WireError(f"{where}{name} is a whole number", param=where + name)
    return value


def number_of(fields: Json, name: str, where: str = "") -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) < MAX_NUMBER:
        raise WireError(f"{where}{name} is a number", param=where + name)
    return float(value)


def fields_of(fields: Json, name: str, where: str = "") -> Json:
    """An object; an empty one where it is left out or null."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WireError(f"{where}{name} is an object", param=where + name)
    return value


def list_of(fields: Json, name: str, where: str = "") -> Sequence[Any]:
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise WireError(f"{where}{name} is a list", param=where + name)
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _is_shallow(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return True
    return depth > 0 and all(_is_shallow(each, depth - 1) for each in value)
