"""JSON that an answer must be, checked when it has come from a model that is not held to it."""

import json
from typing import Any

from services.common.checks import MAX_SCHEMA_BYTES
from sightline.errors import InvalidArgumentError
from sightline.reasons import Reason

# A regular expression of a stranger's can be made to take for ever.
_REFUSED = ("pattern", "patternProperties")


class UnmetError(Exception):
    """The answer is not of this form; the words say how."""


class AnswerFormat:
    """A JSON Schema for answers."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Raises InvalidArgumentError for what is no schema, or one that is not to be checked."""
        import jsonschema  # of the few who ask for this alone
        import referencing

        if len(json.dumps(schema).encode()) > MAX_SCHEMA_BYTES:
            raise InvalidArgumentError(f"a schema has at most {MAX_SCHEMA_BYTES} bytes")
        self._unchecked = [word for word in _REFUSED if _has(schema, word)]
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except (jsonschema.SchemaError, RecursionError) as error:
            words = getattr(error, "message", "it is too deep")
            raise InvalidArgumentError(f"response_format: no JSON Schema: {words[:200]}") from None
        # A registry of its own: otherwise references to other places would be fetched.
        self._validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())

    def checked(self, answer: str) -> str:
        """The JSON in an answer. Raises UnmetError, and InvalidArgumentError where that cannot be
        told."""
        for word in self._unchecked:
            raise InvalidArgumentError(
                f"a schema with {word!r} is for models that can be held to it, as this one cannot"
            )
        try:
            value = json.loads(_bare(answer))
        except (ValueError, RecursionError):
            raise UnmetError("it is no JSON") from None
        try:
            error = next(self._validator.iter_errors(value), None)
        except Exception as failure:  # a reference that leads nowhere, or in a circle
            raise InvalidArgumentError(
                f"response_format: the schema cannot be used: {type(failure).__name__}"
            ) from None
        if error is not None:
            raise UnmetError(error.message[:200])
        return json.dumps(value)


def refused(unmet: UnmetError) -> str:
    """What is added to the instructions of who is asked once more; "" where nothing was wrong."""
    return f"\n\nYour last answer was refused: {unmet}" if str(unmet) else ""


def unmet_refusal(unmet: UnmetError) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the model did not answer in the form that was asked for, twice: {unmet}",
        reason=Reason.FORMAT_NOT_MET,
    )


def _bare(answer: str) -> str:
    """The answer without the fence that models put around JSON."""
    text = answer.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    return text


def _has(value: Any, word: str) -> bool:
    """Whether a schema has a keyword anywhere; a property of that name counts, too."""
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            if word in each:
                return True
            todo.extend(each.values())
        elif isinstance(each, list):
            todo.extend(each)
    return False
