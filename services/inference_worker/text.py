"""From an answer's tokens to the text a viewer may see."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what decoding gives for a character whose last bytes are still to come


class AnswerText:
    """Text as tokens come: whole characters only, and nothing that may yet become a stop string.

    `decode` turns all tokens so far into text. `text` is what was given out; `stopped` says that a
    stop string came, after which there is no more.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self.stopped = False
        self._decode = decode
        self._stop = tuple(stop)
        self._whole = ""

    def add(self, token: int) -> str:
        """The text that this token completes; "" where it completes none."""
        self.tokens.append(token)
        self._whole = self._decode(self.tokens)
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
        """How many of the last characters may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for size in range(min(longest, len(ready)), 0, -1):
            if any(stop.startswith(ready[-size:]) for stop in self._stop):
                return size
        return 0

    def _give(self, end: int) -> str:
        delta = self._whole[len(self.text) : end]
        self.text += delta
        return delta
