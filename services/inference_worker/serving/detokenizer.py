"""Detokenizer: from an answer's tokens to the text a viewer may see."""

import re
from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what decoding gives for a character whose last bytes are still to come
_THOUGHTS = re.compile(r"<think>.*?(</think>\s*|\Z)", re.DOTALL)


class AnswerText:
    """Text as tokens come: whole characters only, and nothing that may yet become a stop string, or
    is a thought: some models think between <think> and </think>, for nobody to read.

    `decode` turns all tokens so far into text. `text` is what was given out; `stopped` says that a
    stop string came, after which there is no more.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self.stopped = False
        self._decode = decode
        self._stop = tuple(stop)
        self._held_back = (*self._stop, "<think>")
        self._whole = ""

    def add(self, token: int) -> str:
        """The text that this token completes; "" where it completes none."""
        self.tokens.append(token)
        self._whole = _THOUGHTS.sub("", self._decode(self.tokens))
        found = [at for stop in self._stop if (at := self._whole.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._give(min(found))
        ready = self._whole.rstrip(_INCOMPLETE)
        return self._give(len(ready) - self._held(ready))

    def rest(self) -> str:
        """The answer is over: what was held back."""
        return "" if self.stopped else self._give(len(self._whole))

    def _held(self, ready: str) -> int:
        """Number of the last characters that may begin a stop string or a thought."""
        longest = max(len(text) for text in self._held_back) - 1
        for size in range(min(longest, len(ready)), 0, -1):
            if any(text.startswith(ready[-size:]) for text in self._held_back):
                return size
        return 0

    def _give(self, end: int) -> str:
        delta = self._whole[len(self.text) : end]
        self.text += delta
        return delta
