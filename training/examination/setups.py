"""Circumstances under which a case is sat, and the sitting itself: frames, watches, questions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.random import Generator

from services.gateway.frames.sampler import FrameRate
from services.inference_worker.serving.watch_rule import WatchRule, WatchState
from training.examination.cases import Case, Item, Standing
from training.examination.talk import Sort, Talk
from training.recordings import SECOND_NS, TOLERANCE_S, Footage
from training.rendering import Pixels
from training.world.question import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A column of the report; what it leaves at its default is as served.

    window_segments: 0 is the model's own. newest: a new session with so many frames alone.
    talk: the sort of a conversation that goes on beside: a round at every frame, answered by the
    model, and ten of them before each question. worker_changes: before every moment the worker
    forgets the session and gets the gateway's window again. rate: share of the clip's frame rate.
    load: share of these frames that a loaded worker is shown. lost: share of those that are lost at
    random. fill: what stands for frames that are lost or not shown: nothing; "held": the one
    before, for as long as they would have taken, as the gateway tells of gaps; "repeated": the one
    before, shown again. debounce_s: of watches. is_default: asked when nothing is named.
    """

    title: str
    window_segments: int = 0
    newest: int = 0
    dialogue: bool = True
    talk: Sort = ""
    worker_changes: bool = False
    quantization: str = "none"
    rate: float = 1.0
    load: float = 1.0
    lost: float = 0.0
    fill: Literal["", "held", "repeated"] = ""
    debounce_s: float = 0.0
    is_default: bool = True


_OF_8 = 7.5 / 8  # the worlds have 8 frames a second


def _with_gaps(name: str, title: str, *, lost: float = 0.0, load: float = 1.0) -> dict[str, Setup]:
    """Columns of frames that are missing at 7.5 fps, with each that may stand for them."""
    bare = Setup(title=title, rate=_OF_8, lost=lost, load=load, is_default=False)
    fills: tuple[Literal["held", "repeated"], ...] = ("held", "repeated")
    filled = {
        f"{name}_{fill}": replace(bare, title=f"{title}, {fill}", fill=fill) for fill in fills
    }
    return {name: bare, **filled}


FULL, LAST_FRAME = "full", "last_frame"
SETUPS: dict[str, Setup] = {
    FULL: Setup(title="as served"),
    LAST_FRAME: Setup(title="last frame only", newest=1),
    "last_4": Setup(title="last 4 frames only", newest=4),
    "window_8": Setup(title="window 8", window_segments=8),
    "no_dialogue": Setup(title="no dialogue", dialogue=False, is_default=False),
    "history_short": Setup(title="10 short rounds", talk="short", is_default=False),
    "history_descriptions": Setup(title="10 descriptions", talk="descriptions", is_default=False),
    "history_unknown": Setup(title="10 long unknown", talk="unknown", is_default=False),
    "new_worker": Setup(title="new worker", worker_changes=True),
    "fps_7_5": Setup(title="7.5 fps", rate=_OF_8, is_default=False),
    **_with_gaps("lost_5", "5 % lost", lost=0.05),
    **_with_gaps("lost_20", "20 % lost", lost=0.2),
    **_with_gaps("load_2", "2 fps", load=2 / 7.5),
    **_with_gaps("load_1", "1 fps", load=1 / 7.5),
    "half_rate": Setup(title="half fps", rate=0.5, is_default=False),
    "debounce": Setup(title="debounce 0.25 s", debounce_s=0.25, is_default=False),
    "int8": Setup(title="int8", quantization="int8", is_default=False),
}


class Answerer(Protocol):
    """Something that watches one video at a time and answers about it. Calls block."""

    def open(self, window_segments: int = 0) -> None:
        """Begin a new, empty video."""
        ...

    def push(self, frame: Pixels, capture_time_ns: int, missing: int = 0) -> None:
        """Show the next frame [height, width, 3]; it counts for what is asked later. The one before
        stands for those that are `missing`."""
        ...

    def settle(self) -> None:
        """No frame follows: one that waits for a partner is understood without."""
        ...

    def ask(self, questions: Sequence[Question]) -> list[str]: ...

    def scores(self, conditions: Sequence[str]) -> list[float]:
        """Probability that each condition holds now, 0…1."""
        ...

    def change_worker(self) -> None:
        """Lose the session; what is left is what the gateway's window gives back."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to an item, and the newest frame that was shown by then."""

    item: Item
    said: str
    frame: int


@dataclass(frozen=True, slots=True)
class Firing:
    """The moment at which a watch said that its condition came true, in seconds of the clip."""

    standing: Standing
    times_s: tuple[float, ...]


class _Shown(NamedTuple):
    """A frame as it arrives: `picture` is its place in the footage; `until_s`: when the next one
    comes; `missing`: how many before it the one before stands for."""

    picture: int
    time_s: float
    until_s: float
    missing: int


def shown(footage: Footage, setup: Setup, rng: Generator) -> list[_Shown]:
    """The frames that reach the worker."""
    wanted = _chosen(footage, range(len(footage.times_s)), setup.rate)
    fresh = set(_chosen(footage, wanted, setup.rate * setup.load))
    fresh -= {index for index in wanted[1:] if rng.random() < setup.lost}
    repeated = setup.fill == "repeated"
    kept = [place for place, index in enumerate(wanted) if repeated or index in fresh]
    found: list[_Shown] = []
    for number, place in enumerate(kept):
        later = wanted[kept[number + 1]] if number + 1 < len(kept) else None
        until_s = float("inf") if later is None else float(footage.times_s[later])
        index = wanted[place]
        picture = index if index in fresh else found[-1].picture
        missing = place - kept[number - 1] - 1 if number and setup.fill == "held" else 0
        found.append(_Shown(picture, float(footage.times_s[index]), until_s, missing))
    return found


def _chosen(footage: Footage, of: Sequence[int], rate: float) -> Sequence[int]:
    """Frames that a share of the clip's rate chooses."""
    if rate == 1 or len(footage.times_s) < 2:
        return of
    chooser = FrameRate(rate / float(np.median(np.diff(footage.times_s))))
    return [index for index in of if chooser.chooses(round(footage.times_s[index] * SECOND_NS))]


def sit(
    answerer: Answerer, case: Case, setup: Setup, rng: Generator
) -> tuple[list[Answer], list[Firing]]:
    """Show a case's frames one after another; at each one check its watches and ask its items."""
    frames = shown(case.footage, setup, rng)
    rule = WatchRule(debounce_s=setup.debounce_s)
    watches = [_Watched(standing, rule) for standing in case.standings]
    answers: list[Answer] = []
    talk = Talk(case, setup.talk, answerer.ask) if setup.talk else None
    if not setup.newest:
        answerer.open(setup.window_segments)
    waiting = sorted(case.items, key=lambda item: item.at_s)
    for place, frame in enumerate(frames):
        due = [item for item in waiting if item.at_s + TOLERANCE_S < frame.until_s]
        del waiting[: len(due)]
        active = [watch for watch in watches if watch.is_checked_at(frame.time_s)]
        if setup.newest and not (due or active):
            continue
        if setup.newest:
            answerer.open()
            newest = frames[max(place + 1 - setup.newest, 0) : place + 1]
        else:
            newest = [frame]
        for each in newest:
            pixels = case.footage.pixels[each.picture]
            answerer.push(pixels, round(each.time_s * SECOND_NS), each.missing)
        if setup.newest:
            answerer.settle()
        if due and setup.worker_changes:
            answerer.change_worker()
        if active:
            scores = answerer.scores([watch.standing.condition for watch in active])
            for watch, score in zip(active, scores, strict=True):
                watch.update(score, frame.time_s)
        if talk is not None:
            talk.go_on()
        if due:
            if talk is not None:
                talk.fill()
            said = _put(answerer, due, setup.dialogue, talk)
            answers += [Answer(i, s, frame.picture) for i, s in zip(due, said, strict=True)]
        if setup.newest:
            answerer.close()
    if not setup.newest:
        answerer.close()
    return answers, [Firing(watch.standing, tuple(watch.times_s)) for watch in watches]


def _put(answerer: Answerer, items: list[Item], dialogue: bool, talk: Talk | None) -> list[str]:
    """Answers to the items: words, or a condition's yes or no as a watch decides it."""
    asked = [item.question for item in items if not item.question.is_watch]
    if not dialogue:
        asked = [Question(q.kind, q.text, q.answer) for q in asked]
    if talk is not None:
        asked = [talk.before(question) for question in asked]
    conditions = [item.question.text for item in items if item.question.is_watch]
    words = iter(answerer.ask(asked) if asked else [])
    scores = iter(answerer.scores(conditions) if conditions else [])
    return [
        ("yes" if next(scores) > WatchRule().threshold else "no")
        if item.question.is_watch
        else next(words)
        for item in items
    ]


class _Watched:
    """A watch under way: the worker's own rule turns scores into events."""

    def __init__(self, standing: Standing, rule: WatchRule) -> None:
        self.standing = standing
        self.times_s: list[float] = []
        self._state = WatchState(rule)

    def is_checked_at(self, time_s: float) -> bool:
        asked_s, until_s = self.standing.asked_s, self.standing.until_s
        return asked_s - TOLERANCE_S <= time_s <= until_s + TOLERANCE_S

    def update(self, score: float, time_s: float) -> None:
        if self._state.update(score, round(time_s * SECOND_NS)) and self._state.active:
            self.times_s.append(time_s)


Sat = tuple[Case, list[Answer], list[Firing]]


def sit_all(answerer: Answerer, cases: Iterable[Case], setup: Setup) -> list[Sat]:
    """Every case under one setup. Which frames are lost depends on the case's place alone."""
    return [
        (case, *sit(answerer, case, setup, np.random.default_rng((index, 6))))
        for index, case in enumerate(cases)
    ]
