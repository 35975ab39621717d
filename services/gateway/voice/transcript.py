"""What was said in a session's video: the last of it, to be read again."""

from collections import deque
from collections.abc import Iterable, Sequence

from sightline.v1 import gateway_pb2

MAX_CHARACTERS = 256 * 1024  # of all of it
MAX_LATELY_CHARACTERS = 2000  # that a question is given
SECOND_NS = 1_000_000_000


class Transcript:
    """A ring of what was said, bounded by seconds and characters. One event loop.

    seconds: how long it is kept. lately_s: how much of it a question knows of.
    """

    def __init__(self, seconds: float, lately_s: float) -> None:
        self._seconds = seconds
        self._lately_s = lately_s
        self._said: deque[gateway_pb2.Said] = deque()
        self._num_characters = 0

    def add(self, said: gateway_pb2.Said) -> None:
        self._said.append(said)
        self._num_characters += len(said.text)
        oldest_ns = said.end_ns - round(self._seconds * SECOND_NS)
        while self._said and (
            self._num_characters > MAX_CHARACTERS or self._said[0].end_ns < oldest_ns
        ):
            self._num_characters -= len(self._said.popleft().text)

    def between(self, from_ns: int, to_ns: int = 0) -> list[gateway_pb2.Said]:
        """What ended after `from_ns` and began before `to_ns`, capture times; 0: there is no end.
        The oldest first."""
        return [
            said
            for said in self._said
            if said.end_ns > from_ns and (not to_ns or said.start_ns < to_ns)
        ]

    def text_between(self, from_ns: int, to_ns: int) -> str:
        """Words that were said between two moments, and nothing else."""
        return " ".join(said.text for said in self.between(from_ns, to_ns))

    def lately(self, now_ns: int) -> list[gateway_pb2.Said]:
        """What a question knows of that is asked now."""
        found: list[gateway_pb2.Said] = []
        characters = 0
        for said in reversed(self.between(now_ns - round(self._lately_s * SECOND_NS))):
            characters += len(said.text)
            if characters > MAX_LATELY_CHARACTERS:
                break
            found.append(said)
        return found[::-1]


def lines_of(said: Iterable[gateway_pb2.Said], now_ns: int) -> str:
    """Lines for a model: every sentence with its age."""
    return "\n".join(f"{_age(each, now_ns)}: {each.text}" for each in said)


def newer(said: Sequence[gateway_pb2.Said], than_ns: int) -> list[gateway_pb2.Said]:
    """Sentences that began later."""
    return [each for each in said if each.start_ns > than_ns]


def _age(said: gateway_pb2.Said, now_ns: int) -> str:
    return f"{max(0, now_ns - said.end_ns) / SECOND_NS:.0f} s ago"
