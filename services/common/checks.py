"""Checks of what the contract allows in a request, for every service that takes it from
strangers."""

import math
import re
from collections.abc import Sequence

from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2

MAX_QUESTION_BYTES = 4096
MAX_INSTRUCTIONS_BYTES = 16 * 1024
MAX_ID_CHARACTERS = 128
MAX_ANSWER_TOKENS = 4096
MAX_TOP_K = 100_000
MAX_SCHEMA_BYTES = 16 * 1024
MAX_TOOLS, MAX_CALLED, MAX_TOOLS_BYTES = 128, 64, 64 * 1024
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 64
MAX_CONDITION_BYTES = 1024
MAX_STATEMENTS = 4096
MAX_SECONDS = 86400

_TOOL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ID = re.compile(rf"[A-Za-z0-9_.:-]{{1,{MAX_ID_CHARACTERS}}}")


def check_question(question: gateway_pb2.Question) -> None:
    """Raise InvalidArgumentError for a question no engine should see."""
    check_id("turn", question.turn)
    size_bytes = len(question.text.encode())
    if size_bytes > MAX_QUESTION_BYTES:
        raise InvalidArgumentError(
            f"a question of {size_bytes} bytes is too long: at most {MAX_QUESTION_BYTES}"
        )
    if not question.text.strip():
        raise InvalidArgumentError("the question is empty")
    if len(question.instructions.encode()) > MAX_INSTRUCTIONS_BYTES:
        raise InvalidArgumentError(f"instructions have at most {MAX_INSTRUCTIONS_BYTES} bytes")
    if question.max_tokens > MAX_ANSWER_TOKENS:
        raise InvalidArgumentError(f"max_tokens is at most {MAX_ANSWER_TOKENS}")
    if not (math.isfinite(question.temperature) and 0 <= question.temperature <= 10):
        raise InvalidArgumentError("temperature is between 0 and 10")
    if not 0 <= question.top_p <= 1:  # so that NaN is refused as well
        raise InvalidArgumentError("top_p is between 0 and 1")
    if question.repetition_penalty and not 1 <= question.repetition_penalty <= 10:
        raise InvalidArgumentError("repetition_penalty is between 1 and 10")
    if question.top_k > MAX_TOP_K:
        raise InvalidArgumentError(f"top_k is at most {MAX_TOP_K}")
    for name in ("presence_penalty", "frequency_penalty"):
        if not -2 <= getattr(question, name) <= 2:
            raise InvalidArgumentError(f"{name} is between -2 and 2")
    if len(question.stop) > MAX_STOPS:
        raise InvalidArgumentError(f"at most {MAX_STOPS} stop strings")
    if not all(0 < len(stop) <= MAX_STOP_CHARACTERS for stop in question.stop):
        raise InvalidArgumentError(f"a stop string has 1 to {MAX_STOP_CHARACTERS} characters")
    if len(question.answer_schema.encode()) > MAX_SCHEMA_BYTES:
        raise InvalidArgumentError(f"answer_schema has at most {MAX_SCHEMA_BYTES} bytes")
    _check_tools(question)


def check_wishes(question: gateway_pb2.Question) -> None:
    """The same for what questions ask for whose words are not known yet."""
    asked = gateway_pb2.Question()
    asked.CopyFrom(question)
    asked.text = "?"
    check_question(asked)


def _check_tools(question: gateway_pb2.Question) -> None:
    names = [tool.name for tool in question.tools]
    if len(names) > MAX_TOOLS or len(set(names)) < len(names):
        raise InvalidArgumentError(f"tools: at most {MAX_TOOLS}, each with a name of its own")
    if len(question.called) > MAX_CALLED:
        raise InvalidArgumentError(f"called: at most {MAX_CALLED}")
    for name in (*names, *(call.name for call in question.called)):
        if not _TOOL.fullmatch(name):
            raise InvalidArgumentError(
                f"{name[:64]!r} is no name of a tool: it has 1 to 64 characters of A-Z a-z 0-9 _ -"
            )
    for what, messages in (("tools", question.tools), ("called", question.called)):
        if sum(message.ByteSize() for message in messages) > MAX_TOOLS_BYTES:
            raise InvalidArgumentError(f"{what} have at most {MAX_TOOLS_BYTES} bytes together")
    choice = question.tool_choice
    if choice not in ("", "auto", "none") and not (
        names if choice == "required" else choice in names
    ):
        raise InvalidArgumentError(f"tool_choice: there is no tool for {choice[:64]!r}")


def check_watch(watch: gateway_pb2.Watch) -> None:
    """Raise InvalidArgumentError for a standing question no engine should see."""
    if not 0 < len(watch.watch) <= MAX_ID_CHARACTERS:
        raise InvalidArgumentError(f"a watch's id has 1 to {MAX_ID_CHARACTERS} characters")
    if not watch.condition.strip():
        raise InvalidArgumentError("the condition is empty")
    if len(watch.condition.encode()) > MAX_CONDITION_BYTES:
        raise InvalidArgumentError(f"a condition has at most {MAX_CONDITION_BYTES} bytes")
    for name in ("interval_s", "debounce_s", "cooldown_s"):
        check_seconds(name, getattr(watch, name))


def check_statements(statements: Sequence[str]) -> None:
    """Raise InvalidArgumentError for what no engine should score."""
    if not 0 < len(statements) <= MAX_STATEMENTS:
        raise InvalidArgumentError(f"1 to {MAX_STATEMENTS} statements at once")
    for statement in statements:
        if not statement.strip():
            raise InvalidArgumentError("a statement is empty")
        if len(statement.encode()) > MAX_CONDITION_BYTES:
            raise InvalidArgumentError(f"a statement has at most {MAX_CONDITION_BYTES} bytes")


def check_id(what: str, text: str, *, required: bool = False) -> None:
    """Raise InvalidArgumentError for what is no id of a conversation or a turn. An empty one stands
    for an id that the server draws, where it is not `required`."""
    if (text or required) and not _ID.fullmatch(text):
        shown = f"{text[:32]!r}{'…' if len(text) > 32 else ''}"
        raise InvalidArgumentError(
            f"{shown} is no id of a {what}: it has 1 to {MAX_ID_CHARACTERS} characters of "
            "A-Z a-z 0-9 _ . : -"
        )


def check_seconds(name: str, value: float) -> None:
    """Raise InvalidArgumentError for what is no time to wait: a NaN would never end, or at once."""
    if not (math.isfinite(value) and 0 <= value <= MAX_SECONDS):
        raise InvalidArgumentError(f"{name} is between 0 and {MAX_SECONDS} seconds")
