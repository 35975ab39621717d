"""Calls in an answer: told apart from its words, as they come."""

import json
import secrets

from services.inference_worker.model.form import CALL, CALL_END
from sightline.v1 import gateway_pb2


class CallReader:
    """Reader of an answer's text, of which calls are no part. What only looks like a call stays in
    the words."""

    def __init__(self) -> None:
        self.calls: list[gateway_pb2.ToolCall] = []
        self._waiting = ""  # what may be part of a call yet

    def feed(self, text: str) -> str:
        """The words that this text completes."""
        self._waiting += text
        words = ""
        while True:
            before, found, after = self._waiting.partition(CALL)
            if not found:
                kept = _begun(before)
                words += before[: len(before) - kept]
                self._waiting = before[len(before) - kept :]
                return self._tidied(words)
            inside, ended, rest = after.partition(CALL_END)
            if not ended:
                words += before
                self._waiting = CALL + after
                return self._tidied(words)
            words += before
            if not self._take(inside):
                words += CALL + inside + CALL_END
            self._waiting = rest

    def rest(self) -> str:
        """The answer is over: what was held back."""
        waiting, self._waiting = self._waiting, ""
        if waiting.startswith(CALL) and self._take(waiting.removeprefix(CALL)):
            return ""
        return self._tidied(waiting)

    def _tidied(self, words: str) -> str:
        """Words without the line breaks that stand between calls."""
        return words.lstrip("\n") if self.calls and not words.strip() else words

    def _take(self, text: str) -> bool:
        """Whether this is a call."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return False
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return False
        arguments = value.get("arguments", {})
        if not isinstance(arguments, dict):
            return False
        self.calls.append(
            gateway_pb2.ToolCall(
                id=f"call_{secrets.token_hex(12)}",
                name=value["name"],
                arguments=json.dumps(arguments, ensure_ascii=False),
            )
        )
        return True


def _begun(text: str) -> int:
    """Number of the last characters that may begin a call."""
    for size in range(min(len(CALL) - 1, len(text)), 0, -1):
        if CALL.startswith(text[-size:]):
            return size
    return 0
