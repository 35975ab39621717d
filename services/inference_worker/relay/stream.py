"""Stream of a chat completion: server-sent events, read as the servers write them. No I/O."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from services.inference_worker.model.form import CALL, CALL_END

MOST_LINE_BYTES = 1024 * 1024
MOST_TOKENS = 2**31 - 1  # that a count of them may say


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of an answer. `finish`: why it ends, "" while it goes on. `prompt_tokens`: of the
    question with its pictures, 0 where the event does not tell. `thought`: characters of what the
    model thought, which nobody reads."""

    text: str = ""
    finish: str = ""
    prompt_tokens: int = 0
    thought: int = 0


class UpstreamFaultError(Exception):
    """The stream holds what is no answer: an error of the server's, or nonsense."""


class EventReader:
    """Chunks of a stream that comes in pieces of any size. `whole` is set by the event that ends
    the answer, `done` by the one after which nothing comes; a stream that ends before was cut.
    `begun`: there was an event. Comments, which keep a connection alive, say nothing. Calls of
    functions come as the text that a model of ours would write for them, where functions were
    offered; what a model calls without says nothing."""

    def __init__(self, *, calls: bool = False) -> None:
        self.begun = self.whole = self.done = False
        self._calls = calls
        self._rest = b""
        self._call: Any = None  # index of the one that is being told
        self._argued = False

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Raises UpstreamFaultError."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MOST_LINE_BYTES:
            raise UpstreamFaultError("an event without an end")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            content = line[len(b"data:") :].strip()
            self.begun = self.begun or bool(content)
            if content == b"[DONE]":
                self.whole = self.done = True
                if end := self._call_ended():
                    yield Chunk(end)
            elif content:
                yield self._chunk(_object(content))

    def end(self) -> Iterator[Chunk]:
        """What a last line without an end says. Raises UpstreamFaultError."""
        return self.feed(b"\n")

    def _chunk(self, event: dict[str, Any]) -> Chunk:
        if event.get("error"):
            raise UpstreamFaultError(str(event["error"])[:300])
        usage = event.get("usage")
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else 0
        choice = first_choice(event)
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        text = _content(delta.get("content")) + self._called(delta.get("tool_calls"))
        thought = _content(delta.get("reasoning_content")) or _content(delta.get("reasoning"))
        finish = _text(choice.get("finish_reason"))
        if finish:
            self.whole = True
            text += self._call_ended()
        if not isinstance(count, int) or not 0 <= count <= MOST_TOKENS:
            count = 0
        return Chunk(text, finish, int(count), len(thought))

    def _called(self, deltas: Any) -> str:
        """More of calls, as text."""
        text = ""
        for delta in deltas if self._calls and isinstance(deltas, list) else ():
            function = delta.get("function") if isinstance(delta, dict) else None
            if not isinstance(function, dict):
                continue
            if delta.get("index", 0) != self._call:
                text += self._call_ended()
                self._call = delta.get("index", 0)
                name = json.dumps(_text(function.get("name")))
                text += f'{CALL}\n{{"name": {name}, "arguments": '
            arguments = _text(function.get("arguments"))
            self._argued = self._argued or bool(arguments)
            text += arguments
        return text

    def _call_ended(self) -> str:
        if self._call is None:
            return ""
        nothing = "" if self._argued else "{}"
        self._call, self._argued = None, False
        return f"{nothing}}}\n{CALL_END}\n"


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise UpstreamFaultError("an event that is no JSON") from error
    if not isinstance(value, dict):
        raise UpstreamFaultError("an event that is no object")
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _content(value: Any) -> str:
    """Text, which some servers tell in parts."""
    if isinstance(value, list):
        return "".join(_text(each.get("text")) for each in value if isinstance(each, dict))
    return _text(value)


def first_choice(event: dict[str, Any]) -> dict[str, Any]:
    """The first choice; {} where there is none, as in the event that tells the usage."""
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}
