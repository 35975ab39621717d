"""Score of a rule: what it told beside what was so, and when. No I/O."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

FPS = 8.0
LEAST_S, NEAR_S = 1.0, 1.0  # that something is held; within which an event is of a change
PROHIBITED_GOODS = ("a gun", "a knife")  # in no catalogue
Run = tuple[int, int, str]


@dataclass(slots=True)
class Told:
    """What a rule told of one story: its state at every frame, and the frames of its events."""

    states: list[str] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)
    statements: int = 0


@dataclass(slots=True)
class Score:
    """What was told beside what was so. `areas`: of each thing that was so, the share of its time
    in which it stood as told."""

    changes: int = 0
    found: int = 0
    events: int = 0
    right: int = 0
    delays_s: list[float] = field(default_factory=list)
    errors_s: list[float] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    statements: int = 0

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.events + self.changes) if self.events + self.changes else 1.0

    @property
    def pauc(self) -> float:
        """Area under the curve of what was told, over the time of each thing that was so, as
        ProactiveVideoQA's PAUC, with right or wrong in the place of a judge's marks: late words
        count for what is left of that time, none for nothing."""
        return statistics.mean(self.areas) if self.areas else 1.0

    @property
    def error_s(self) -> float:
        """Mean distance of a right event from the change that it is about."""
        return statistics.mean(self.errors_s) if self.errors_s else 0.0

    def add(self, runs: list[Run], told: Told) -> None:
        """One story more."""
        near = round(NEAR_S * FPS)
        self.statements += told.statements
        events = [(number, value) for number, value in told.events if value]
        self.events += len(events)
        matched: set[int] = set()
        for begin, end, what in _sellable(runs):
            self.changes += 1
            self.found += what in told.states[begin : end + near]
            during = told.states[begin : end + 1]
            self.areas.append(sum(state == what for state in during) / (end + 1 - begin))
            for index, (number, value) in enumerate(events):
                if index not in matched and value == what and begin - near <= number <= end + near:
                    matched.add(index)
                    self.right += 1
                    self.delays_s.append(max(0, number - begin) / FPS)
                    self.errors_s.append(abs(number - begin) / FPS)
                    break


def runs_of(truth: list[str], nothing: str) -> list[Run]:
    """First and last frame of everything that was so for a while, and what that was. Moments of
    which nobody can say belong to what is on both sides of them."""
    runs: list[Run] = []
    for number, what in enumerate(truth):
        if not what:
            continue
        if runs and runs[-1][2] == what:
            runs[-1] = (runs[-1][0], number, what)
        else:
            runs.append((number, number, what))
    least = LEAST_S * FPS
    return [run for run in runs if run[2] != nothing and run[1] - run[0] + 1 >= least]


def _sellable(runs: list[Run]) -> Iterator[Run]:
    """Runs of what a rule could tell."""
    return (run for run in runs if run[2] not in PROHIBITED_GOODS)
