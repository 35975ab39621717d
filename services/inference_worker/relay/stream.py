"""Stream of a chat completion: server-sent events, read as the servers write them. No I/O."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOST_LINE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of an answer. `finish`: why it ends, "" while it goes on. `prompt_tokens`: of the
    question with its pictures, 0 where the event does not tell."""

    text: str = ""
    finish: str = ""
    prompt_tokens: int = 0


class UpstreamFaultError(Exception):
    """The stream holds what is no answer: an error of the server's, or nonsense."""


class EventReader:
    """Chunks of a stream that comes in pieces of any size. `whole` is set by its last event; a
    stream that ends before was cut. Comments, which keep a connection alive, say nothing."""

    def __init__(self) -> None:
        self.whole = False
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Raises UpstreamFaultError."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MOST_LINE_BYTES:
            raise UpstreamFaultError("an event without an end")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            content = line[len(b"data:") :].strip()
            if content == b"[DONE]":
                self.whole = True
            elif content:
                chunk = _chunk(_object(content))
                self.whole = self.whole or bool(chunk.finish)
                yield chunk


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UpstreamFaultError("an event that is no JSON") from error
    if not isinstance(value, dict):
        raise UpstreamFaultError("an event that is no object")
    return value


def _chunk(event: dict[str, Any]) -> Chunk:
    if event.get("error"):
        raise UpstreamFaultError(str(event["error"])[:300])
    usage = event.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else 0
    prompt_tokens = count if isinstance(count, int) else 0
    choice = first_choice(event)
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else None
    finish = choice.get("finish_reason")
    return Chunk(
        text if isinstance(text, str) else "",
        finish if isinstance(finish, str) else "",
        prompt_tokens,
    )


def first_choice(event: dict[str, Any]) -> dict[str, Any]:
    """The first choice; {} where there is none, as in the event that tells the usage."""
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}
