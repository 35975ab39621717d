"""JSON that an answer must be: asked for in words, and checked when it has come."""

import json
from typing import Any

from sightline.errors import InvalidArgumentError
from sightline.reasons import Reason

MAX_SCHEMA_BYTES = 4096  # it is part of the question
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

        self._text = json.dumps(schema)
        if len(self._text) > MAX_SCHEMA_BYTES:
            raise InvalidArgumentError(f"a schema has at most {MAX_SCHEMA_BYTES} bytes")
        for word in _REFUSED:
            if _has(schema, word):
                raise InvalidArgumentError(f"a schema with {word!r} is not checked here")
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except (jsonschema.SchemaError, RecursionError) as error:
            words = getattr(error, "message", "it is too deep")
            raise InvalidArgumentError(f"response_format: no JSON Schema: {words[:200]}") from None
        # A registry of its own: otherwise references to other places would be fetched.
        self._validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())

    def asked(self, question: str, unmet: str = "") -> str:
        """The question with the form in words. unmet: what was wrong with the answer before."""
        words = f"{question}\n\nAnswer with JSON of this schema alone: {self._text}"
        return f"{words}\nYour last answer was refused: {unmet}" if unmet else words

    def checked(self, answer: str) -> str:
        """The JSON in an answer. Raises UnmetError."""
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
