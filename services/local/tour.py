"""Three questions about what is shown, each at a moment when its answer is interesting."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from services.local.clip import Clip, Fact
from sightline import aio

LEAST_SHOWN_S = 0.6  # how long a fact must have held when it is asked about …
LEAST_LEFT_S = (1.6, 0.8)  # … and must still hold: better longer, for a machine that is busy
PATIENCE_S = 10.0  # for a longer one
ANYTHING = ("What is in the scene?", "How many objects are there?", "What came last?")
KINDS = (("held", "direction"), ("price", "scene"), ("before", "change"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An answered question. `truth` is None where nobody can say. Times as the asker saw them."""

    question: str
    answer: str
    truth: str | None
    first_token_ms: float
    total_ms: float

    @property
    def right(self) -> bool | None:
        return None if self.truth is None else self.answer.strip() == self.truth

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"right": self.right}


class Stage:
    """Place of a session in the looped clip: the first frame it saw was the clip's first."""

    def __init__(self, clip: Clip, session: aio.Session) -> None:
        stats = session.stats
        sampled_before = max(0, stats.frames_processed - 1)
        self.clip = clip
        self.first_ns = stats.last_capture_ns - round(sampled_before * 1e9 / session.info.fps)
        self._seen_s = time.monotonic()
        self._seen_ns = stats.last_capture_ns

    def position_s(self) -> float:
        """Since the clip began, loops included, by the clock of this machine."""
        elapsed_s = time.monotonic() - self._seen_s
        return (self._seen_ns - self.first_ns) / 1e9 + elapsed_s

    def position_of(self, capture_ns: int) -> float:
        return (capture_ns - self.first_ns) / 1e9


def plan(clip: Clip, now_s: float) -> list[tuple[float, Fact]]:
    """(when, what) to ask: one question of each group of KINDS that the coming loop allows."""
    chosen = (_first_of(clip, kinds, now_s) for kinds in KINDS)
    return sorted((item for item in chosen if item is not None), key=lambda item: item[0])


def _first_of(clip: Clip, kinds: Sequence[str], now_s: float) -> tuple[float, Fact] | None:
    """The earliest good moment for a question of these kinds."""
    facts = [fact for fact in clip.facts if fact.kind in kinds]
    # Something that is there says more than an empty picture.
    telling = [fact for fact in facts if fact.answer != "nothing"]
    found: list[tuple[float, Fact]] = []
    for left_s in LEAST_LEFT_S:
        moments = [
            (when, fact)
            for fact in telling or facts
            if (when := _next_moment(clip, fact, now_s, left_s)) is not None
        ]
        found += sorted(moments, key=lambda item: item[0])[:1]
        if found and found[0][0] - now_s <= PATIENCE_S:
            break
    return min(found, key=lambda item: item[0], default=None)


def _next_moment(clip: Clip, fact: Fact, now_s: float, left_s: float) -> float | None:
    """The first moment from now at which `fact` holds, with some room to both sides."""
    loop = int(now_s // clip.seconds)
    for offset_s in (loop * clip.seconds, (loop + 1) * clip.seconds):
        when = max(now_s, offset_s + fact.time_s + LEAST_SHOWN_S)
        if when + left_s <= offset_s + fact.until_s:
            return when
    return None


class Audience(Protocol):
    """A listener that is told of the wait for a question's moment, the question, its answer by
    pieces, all."""

    def waiting(self, text: str) -> AbstractContextManager[None]: ...

    def question(self, question: str, position_s: float | None) -> None: ...

    def piece(self, text: str) -> None: ...

    def answered(self, told: Told) -> None: ...


async def ask(session: aio.Session, stage: Stage | None, show: Audience) -> list[Told]:
    """Ask, and tell `show` of it."""
    told: list[Told] = []
    if stage is None:
        agenda: Sequence[tuple[float | None, str]] = [(None, question) for question in ANYTHING]
    else:
        agenda = [(when, fact.question) for when, fact in plan(stage.clip, stage.position_s())]
    async with session.conversation() as conversation:
        for when, question in agenda:
            if stage is not None and when is not None:
                with show.waiting("waiting for a good moment to ask"):
                    await asyncio.sleep(max(0.0, when - stage.position_s()))
            show.question(
                question, None if stage is None else stage.position_s() % stage.clip.seconds
            )
            asked_s = time.perf_counter()
            first_ms = 0.0
            answer = conversation.ask(question)
            async for piece in answer:
                first_ms = first_ms or (time.perf_counter() - asked_s) * 1000
                show.piece(piece)
            result = await answer.result()
            total_ms = (time.perf_counter() - asked_s) * 1000
            truth = None
            if stage is not None:
                truth = stage.clip.truth(question, stage.position_of(result.last_capture_ns))
            told.append(
                Told(
                    question=question,
                    answer=result.text,
                    truth=truth,
                    first_token_ms=first_ms,
                    total_ms=total_ms,
                )
            )
            show.answered(told[-1])
    return told
