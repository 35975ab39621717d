"""A conversation that goes on beside an examination: what a viewer asked before each question.

Answers in it are the model's own, given over the frames of their moment and with the rounds before
them, as in a conversation that is served.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Literal

import numpy as np

from training.examination.cases import Case, Item
from training.world.conversation import ROUNDS, unknown_round
from training.world.question import DONT_KNOW, Question

Sort = Literal["", "short", "descriptions", "unknown"]
_DESCRIBE = "What do you see?"
_NUM_UNKNOWN = 24


class Talk:
    """A conversation about a clip. `ask` puts questions to the model and gives what it says."""

    def __init__(
        self, case: Case, sort: Sort, ask: Callable[[Sequence[Question]], list[str]]
    ) -> None:
        self._questions = _of_sort(case, sort)
        self._ask = ask
        self._rounds: list[tuple[str, str]] = []

    def go_on(self) -> None:
        """Ask one more round, now."""
        text = next(self._questions, None)
        if text is None:
            return
        question = Question("talk", text, "", tuple(self._rounds[-ROUNDS:]))
        self._rounds.append((text, self._ask([question])[0]))

    def fill(self) -> None:
        """Rounds until there are as many as a model is given."""
        while len(self._rounds) < ROUNDS:
            before = len(self._rounds)
            self.go_on()
            if len(self._rounds) == before:
                return

    def before(self, question: Question) -> Question:
        """The question with this conversation before its own rounds. One about "it" without rounds
        of its own would be about something else then, and stays as it is."""
        if question.is_watch or (question.kind == "followup" and not question.history):
            return question
        history = (*self._rounds, *question.history)[-ROUNDS:]
        return Question(question.kind, question.text, question.answer, history)


def _of_sort(case: Case, sort: Sort) -> Iterator[str]:
    """Texts without end: of the case's own questions, or of what nobody can know."""
    if sort == "unknown":
        rng = np.random.default_rng((len(case.items), 7))
        return cycle([unknown_round(rng)[0] for _ in range(_NUM_UNKNOWN)])
    asked = [item.question.text for item in case.items if _fits(item, sort)]
    if sort == "descriptions":
        asked.append(_DESCRIBE)
    return cycle(asked)


def _fits(item: Item, sort: Sort) -> bool:
    question = item.question
    if question.is_watch or question.history or question.answer == DONT_KNOW:
        return False
    return item.by_facts is (sort == "descriptions")
