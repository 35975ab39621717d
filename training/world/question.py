"""Questions, as every world asks them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from numpy.random import Generator

WINDOW = 30  # frames that the model can look back on
DONT_KNOW = "i do not know"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """A branch: earlier rounds as (question, answer), then a question or a watch condition.

    refers: what "it" is, by the name that an earlier round gave it; "" where there is no "it". Only
    training reads it.
    """

    kind: str
    text: str
    answer: str
    history: tuple[tuple[str, str], ...] = ()
    is_watch: bool = False
    refers: str = field(default="", repr=False, compare=False)


def pick(rng: Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def yes(truth: bool) -> str:
    return "yes" if truth else "no"
