"""Marks: which answers are right, which facts were told, which events were seen in time.

A model with the world's own words is marked by exact words. One that speaks freely is marked by
containment: case, punctuation and articles are left out, numbers up to twelve may be digits, "grey"
is "gray" and "colour" "color". An answer is then right when it holds the right one's words in a
row; to yes or no it must begin so, and a long answer that names everything would pass, which is why
the mean length of answers is reported beside the marks.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from training.examination.cases import Case, Class, Event, Item, Standing
from training.examination.setups import Answer, Firing, Sat
from training.examination.worlds import IN_TIME_S
from training.recordings import TOLERANCE_S
from training.world import captions

_NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_SAME = {str(number): word for number, word in enumerate(_NUMBERS)}
_SAME |= {"colour": "color", "grey": "gray"}
_ARTICLES = ("a", "an", "the")
_LONGEST_PHRASE, _REPEATS = 8, 3  # words said so often in a row are a repetition


class Mark(NamedTuple):
    """`score` 0…1; of a description it is the F1 of its facts."""

    score: float
    precision: float
    recall: float


def words_of(text: str) -> list[str]:
    """Words of free text that count."""
    found = re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))
    return [_SAME.get(word, word) for word in found if word not in _ARTICLES]


def contains(said: str, right: str) -> bool:
    told, wanted = words_of(said), words_of(right)
    if wanted in (["yes"], ["no"]):
        return told[:1] == wanted
    size = len(wanted)
    return any(told[start : start + size] == wanted for start in range(len(told) - size + 1))


def mark(item: Item, said: str, free: bool) -> Mark:
    """free: the model speaks in words of its own."""
    right = item.question.answer
    if item.by_facts:
        return _f1(*(_free_facts(said, right) if free else captions.score(said, right)))
    score = float(contains(said, right) if free else said == right)
    return Mark(score, score, score)


def _free_facts(said: str, right: str) -> tuple[float, float]:
    """(precision, recall): a clause between commas, full stops and "and" is true that holds a true
    fact; a fact is told that the whole description holds."""
    facts = right.split(" and ")
    clauses = [clause for clause in re.split(r"[.,;:\n]|\band\b", said) if words_of(clause)]
    true = sum(any(contains(clause, fact) for fact in facts) for clause in clauses)
    told = sum(contains(said, fact) for fact in facts)
    return true / max(len(clauses), 1), told / len(facts)


def _f1(precision: float, recall: float) -> Mark:
    together = precision + recall
    return Mark(2 * precision * recall / together if together else 0.0, precision, recall)


class Hits(NamedTuple):
    """Events of watches: seen in time, said for nothing or too early, and missed."""

    true: int = 0
    false: int = 0
    missed: int = 0

    def __add__(self, other: tuple[int, ...]) -> "Hits":  # type: ignore[override]
        return Hits(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def mark(self) -> Mark:
        """Mark of what was said: where there is nothing to see and nothing is said, all is
        right."""
        said, there = self.true + self.false, self.true + self.missed
        precision = self.true / said if said else float(not there)
        recall = self.true / there if there else float(not said)
        return _f1(precision, recall)


def hits(events: Sequence[Event], times_s: Sequence[float]) -> Hits:
    """Match what was said to what happened. In time is from when the event could first be told to
    half a second after it surely was there; each event is seen once, saying it again is false."""
    left = list(times_s)
    true = 0
    for event in events:
        early_s, late_s = event.earliest_s - TOLERANCE_S, event.at_s + IN_TIME_S + TOLERANCE_S
        fit = [time_s for time_s in left if early_s <= time_s <= late_s]
        if fit:
            left.remove(fit[0])
            true += 1
    return Hits(true, len(left), len(events) - true)


def repeats(said: str) -> bool:
    """Whether some words are said three times in a row, with or without "and" between them."""
    words = [word for word in re.findall(r"\w+", said.lower()) if word != "and"]
    for size in range(1, min(_LONGEST_PHRASE, len(words) // _REPEATS) + 1):
        for start in range(len(words) - size * _REPEATS + 1):
            phrase = words[start : start + size]
            if words[start : start + size * _REPEATS] == phrase * _REPEATS:
                return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Figure of one kind, or one class, under one setup. `asked`: questions, or watches set."""

    asked: int
    score: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Column of the table: what one setup gave. Shares of all answers are empty or repeat
    themselves; `words`: the mean length of an answer."""

    kinds: dict[str, Figure]
    classes: dict[str, Figure]
    empty: float = 0.0
    repetitive: float = 0.0
    words: float = 0.0
    seconds: float = 0.0


TEMPORAL, ALL = "temporal", "all"
COUNTED: tuple[Class, ...] = ("realtime", "backward")


def column(sat: Iterable[Sat], free: bool, seconds: float = 0.0) -> Column:
    """The figures of a whole examination. A class is the mean over its questions, whatever their
    kind; forward is the F1 over all watches."""
    sat = list(sat)
    answers = [answer for _, answers, _ in sat for answer in answers]
    firings = [firing for _, _, firings in sat for firing in firings]
    told = [(answer.item, answer.said) for answer in answers]
    spoken = [(i.question.answer, said) for i, said in told if not i.question.is_watch]
    number = max(len(spoken), 1)
    return _column(
        [(item, mark(item, said, free)) for item, said in told],
        [(firing.standing, hits(firing.standing.events, firing.times_s)) for firing in firings],
        empty=sum(not said.strip() for _, said in spoken) / number,
        repetitive=sum(repeats(said) > repeats(right) for right, said in spoken) / number,
        words=sum(len(said.split()) for _, said in spoken) / number,
        seconds=seconds,
    )


def majority(cases: Iterable[Case], free: bool) -> Column:
    """Always the commonest right answer of the kind, and watches that never say a thing."""
    cases = list(cases)
    items = [item for case in cases for item in case.items]
    commonest: dict[str, Counter[str]] = {}
    for item in items:
        commonest.setdefault(item.question.kind, Counter())[item.question.answer] += 1
    said = {kind: counter.most_common(1)[0][0] for kind, counter in commonest.items()}
    marks = [(item, mark(item, said[item.question.kind], free)) for item in items]
    watches = [s for case in cases for s in case.standings]
    return _column(marks, [(standing, hits(standing.events, ())) for standing in watches])


def _column(
    marks: list[tuple[Item, Mark]], watches: list[tuple[Standing, Hits]], **shares: float
) -> Column:
    kinds: dict[str, list[Mark]] = {}
    classes: dict[str, list[Mark]] = {}
    for item, found in marks:
        kinds.setdefault(item.question.kind, []).append(found)
        if item.of in COUNTED:
            classes.setdefault(item.of, []).append(found)
            classes.setdefault(ALL, []).append(found)
        if item.temporal:
            classes.setdefault(TEMPORAL, []).append(found)
    forward = [seen for _, seen in watches]
    by_kind: dict[str, list[Hits]] = {}
    for standing, seen in watches:
        by_kind.setdefault(standing.kind, []).append(seen)
    return Column(
        kinds={kind: _mean(found) for kind, found in kinds.items()}
        | {kind: _pooled(found) for kind, found in sorted(by_kind.items())},
        classes={name: _mean(found) for name, found in classes.items()}
        | ({"forward": _pooled(forward)} if forward else {}),
        **shares,
    )


def _mean(marks: list[Mark]) -> Figure:
    score, precision, recall = (sum(part) / len(marks) for part in zip(*marks, strict=True))
    return Figure(asked=len(marks), score=score, precision=precision, recall=recall)


def _pooled(found: list[Hits]) -> Figure:
    score, precision, recall = sum(found, Hits()).mark
    return Figure(asked=len(found), score=score, precision=precision, recall=recall)


def mistakes(sat: Iterable[Sat], free: bool) -> list[tuple[Case, Answer | Firing]]:
    """Mistakes, in the order of the examination."""
    found: list[tuple[Case, Answer | Firing]] = []
    for case, answers, firings in sat:
        found += [(case, a) for a in answers if mark(a.item, a.said, free).score < 1]
        found += [(case, f) for f in firings if hits(f.standing.events, f.times_s).mark.score < 1]
    return found
