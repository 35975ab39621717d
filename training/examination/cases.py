"""Cases of the examination: clips, questions at their moments, watches with their true times.

All times are seconds of the clip's own video, as those of its footage.
"""

from dataclasses import dataclass
from typing import Literal

from training.recordings import Footage
from training.world.question import Question

Class = Literal["realtime", "backward", "forward", "other"]
"""OVO-Bench's three, and what is reported beside them without counting to a class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A question put after the last frame that is not later than `at_s`.

    temporal: no single picture tells the answer. by_facts: the answer is facts joined by "and".
    A question that is a watch's condition has the answer yes or no.
    """

    at_s: float
    of: Class
    question: Question
    temporal: bool = False
    by_facts: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """A condition comes true: surely at `at_s`; before `earliest_s` it surely is not."""

    earliest_s: float
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A watch, checked at every frame from `asked_s` to `until_s`; `events` in order of time."""

    kind: str
    condition: str
    asked_s: float
    until_s: float
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A clip and what is asked about it. The footage has the size that the model takes."""

    name: str
    footage: Footage
    items: tuple[Item, ...]
    standings: tuple[Standing, ...]
