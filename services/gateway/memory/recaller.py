"""Recaller: finds what a question about the past is about, and gives it to whoever answers.

What it finds goes with the question, into its branch. A question that is not about the past, or
about one that the model's window still holds, goes as it came.
"""

import asyncio
import datetime
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.common.ages import ago, clock
from services.common.jpeg import decode_jpeg
from services.common.threads import on_thread
from services.gateway import metrics
from services.gateway.frames.display import Display
from services.gateway.memory.journal import Journal
from services.gateway.memory.past_question import (
    Kind,
    PastQuestion,
    matches,
    past_question,
    present_question,
    says,
)
from services.gateway.memory.times import NS
from services.gateway.sessions.session_spec import MEMORY_OFF
from sightline.errors import SightlineError
from sightline.v1 import dialogue_pb2, gateway_pb2, inference_pb2

log = logging.getLogger(__name__)

AWAY = "memory_unavailable"
MOST_MOMENTS = 4
SEARCHED = 5000  # moments of one reply, if its bytes allow
MOST_REPLIES = 8
NOTHING = "I remember nothing of that."
BLUR = 3  # by which part of its age a time may be wrong at which somebody said or did a thing
EVENING_NS = 50_000 * 86_400 * NS - NS  # of a day in 2106: whatever may be past is past by then
FOUND_S = 2.0  # that finding may take; the question waits for it


@dataclass(slots=True)
class Found:
    """What an answer is to say of its memory. `past`: the question is about the past."""

    past: bool = False
    recollections: list[gateway_pb2.Recollection] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)


class Remembered(Protocol):
    """Session, as far as its memory is asked."""

    @property
    def id(self) -> str: ...
    def message(self) -> gateway_pb2.Session: ...


class Recaller:
    """Recalls for questions. `journal` None: nothing is remembered. zone: of the hours that are
    named in questions, and said in answers."""

    def __init__(self, journal: Journal | None, zone: datetime.tzinfo = datetime.UTC) -> None:
        self._journal = journal
        self._zone = zone

    async def recall(self, session: Remembered, request: inference_pb2.AnswerRequest) -> Found:
        """Put into the request what its question is about, where that is past. Raises nothing."""
        request.ClearField("recall")
        found = Found()
        text = request.question.text
        if self._journal is None or past_question(text, EVENING_NS) is None:
            return found
        found.past = True
        about = session.message()
        now_ns = about.stats.last_capture_ns
        if about.memory in (0, MEMORY_OFF) or not now_ns:
            return found
        asked = past_question(text, now_ns, self._zone)
        since_ns = now_ns - _window_ns(about)
        if asked is None or (asked.kind is Kind.AT and asked.at_ns > since_ns):
            return found
        if asked.kind is Kind.SPAN and asked.from_ns > since_ns:
            return found
        await self._look(about, asked, request, found)
        return found

    async def look_back(
        self, session: Remembered, request: inference_pb2.AnswerRequest, said: str
    ) -> Found:
        """Put into the request what is known of what its question asks of the present, where that
        is past. said: what the model has said of it, and was not sure of. Raises nothing."""
        request.ClearField("recall")
        found, about = Found(), session.message()
        now_ns = about.stats.last_capture_ns
        if self._journal is None or about.memory in (0, MEMORY_OFF) or not now_ns:
            return found
        asked = present_question(request.question.text, now_ns)
        if asked is not None:
            await self._look(about, asked, request, found)
        if found.recollections:
            request.recall.said = said
        else:
            request.ClearField("recall")
        return found

    async def _look(
        self,
        about: gateway_pb2.Session,
        asked: PastQuestion,
        request: inference_pb2.AnswerRequest,
        found: Found,
    ) -> None:
        try:
            async with asyncio.timeout(FOUND_S):
                await self._find(about, asked, request, found)
        except (SightlineError, TimeoutError) as error:
            log.warning("nothing recalled", extra={"session": about.id, "reason": str(error)})
            metrics.RECALLED.labels("away").inc()
            found.degraded.append(AWAY)
        else:
            metrics.RECALLED.labels("found" if found.recollections else "nothing").inc()

    async def _find(
        self,
        about: gateway_pb2.Session,
        asked: PastQuestion,
        request: inference_pb2.AnswerRequest,
        found: Found,
    ) -> None:
        assert self._journal is not None
        now_ns = about.stats.last_capture_ns
        from_ns, to_ns = max(0, asked.from_ns), asked.to_ns
        if asked.is_of_words:
            age_ns = max(0, now_ns - asked.at_ns)
            from_ns, to_ns = max(0, from_ns - age_ns // BLUR), min(now_ns, to_ns + age_ns // BLUR)
        if asked.kind in (Kind.VAGUE, Kind.NOW):
            to_ns = now_ns - _window_ns(about)  # of what is newer the model knows more
        wanted = dialogue_pb2.ListMomentsRequest(
            session=about.id, from_ns=from_ns, to_ns=max(1, to_ns), limit=SEARCHED
        )
        moments = await self._all(self._journal, wanted)
        chosen = chosen_of(asked, moments)
        if not chosen:
            request.recall.now_ns = now_ns  # a model that reads words is told that there is nothing
            if asked.kind in (Kind.AT, Kind.SPAN):
                request.recall.answer = NOTHING
            return
        pictures = await asyncio.gather(*(self._picture(about, each) for each in chosen))
        recall = request.recall
        recall.now_ns = now_ns
        recall.question = asked.present
        recall.answer = told(asked, chosen, now_ns, self._zone)
        for moment, pixels in zip(chosen, pictures, strict=True):
            recall.moments.add(
                start_ns=moment.start_ns,
                end_ns=moment.end_ns,
                line=moment.line,
                heard=moment.heard,
                clock=clock(moment.start_ns, self._zone),
                pixels=pixels,
                width=about.frame_width if pixels else 0,
                height=about.frame_height if pixels else 0,
            )
            found.recollections.append(
                gateway_pb2.Recollection(
                    moment=moment.id,
                    start_ns=moment.start_ns,
                    end_ns=moment.end_ns,
                    line=moment.line,
                    heard=moment.heard,
                    picture=moment.num_pictures > 0,
                )
            )

    @staticmethod
    async def _all(
        journal: Journal, wanted: dialogue_pb2.ListMomentsRequest
    ) -> list[dialogue_pb2.Moment]:
        """The moments of a time, whatever number of replies they take."""
        moments: list[dialogue_pb2.Moment] = []
        for _ in range(MOST_REPLIES):
            reply = await journal.read(wanted)
            moments += reply.moments
            if not reply.more:
                break
            wanted.before = moments[-1].id
        return moments

    async def _picture(self, about: gateway_pb2.Session, moment: dialogue_pb2.Moment) -> bytes:
        """The first picture of a moment as a frame of its session; b"" where there is none."""
        if not moment.num_pictures:
            return b""
        assert self._journal is not None
        wanted = dialogue_pb2.ListMomentsRequest(session=about.id, id=moment.id, pictures=True)
        found = (await self._journal.read(wanted)).moments
        if not found or not found[0].pictures:
            return b""
        width, height = about.frame_width, about.frame_height
        return await on_thread(
            frame_of, found[0].pictures[0], width, height, name=f"{about.id}:recall"
        )


def _window_ns(about: gateway_pb2.Session) -> int:
    """Length of the window that the model of a session holds."""
    return round(about.window / (about.fps or 8.0) * NS)


def chosen_of(
    asked: PastQuestion, moments: Sequence[dialogue_pb2.Moment]
) -> list[dialogue_pb2.Moment]:
    """The moments that answer a question, the best first, of all of its time, the newest first. By
    time where it names one, and then by its words."""
    if asked.kind is Kind.AT:
        near = [each for each in moments if _overlaps(each, asked)]
        if asked.is_of_words:
            near = [each for each in moments if _is_of(each, asked.words)] or near
        near.sort(key=lambda each: _distance_ns(each, asked.at_ns))
        return near[: 1 if asked.present else MOST_MOMENTS]
    matching = [each for each in moments if not asked.words or _is_of(each, asked.words)]
    if asked.kind is Kind.WHEN:
        return _appearances(matching, moments, first=asked.first)
    if asked.kind is Kind.VAGUE and not asked.words:
        return []
    if asked.kind is Kind.NOW:
        return _changes(matching)[:MOST_MOMENTS]
    return _spread(_changes(matching))


def _appearances(
    matching: list[dialogue_pb2.Moment], moments: Sequence[dialogue_pb2.Moment], *, first: bool
) -> list[dialogue_pb2.Moment]:
    """The moments with which something came, the newest first, or the oldest: those that match and
    whose predecessor does not. One of which nothing was noted may have been of the same."""
    moments = [each for each in moments if each.line or each.heard]
    ids = {each.id for each in matching}
    came = [
        each
        for number, each in enumerate(moments)
        if each.id in ids and (number + 1 == len(moments) or moments[number + 1].id not in ids)
    ]
    if first:
        came.reverse()
    return came[:MOST_MOMENTS]


def _changes(moments: list[dialogue_pb2.Moment]) -> list[dialogue_pb2.Moment]:
    """Without those that say what the one before said."""
    kept: list[dialogue_pb2.Moment] = []
    for moment in reversed(moments):
        said = (moment.line, moment.heard)
        if any(said) and (not kept or (kept[-1].line, kept[-1].heard) != said):
            kept.append(moment)
    return kept[::-1]


def _spread(moments: list[dialogue_pb2.Moment]) -> list[dialogue_pb2.Moment]:
    """At most so many, from all over their time."""
    if len(moments) <= MOST_MOMENTS:
        return moments
    last = len(moments) - 1
    return [moments[round(n * last / (MOST_MOMENTS - 1))] for n in range(MOST_MOMENTS)]


def _is_of(moment: dialogue_pb2.Moment, words: tuple[str, ...]) -> bool:
    return matches(moment.line, words) or says(moment.heard, words)


def _overlaps(moment: dialogue_pb2.Moment, asked: PastQuestion) -> bool:
    return moment.start_ns <= asked.to_ns and moment.end_ns >= asked.from_ns


def _distance_ns(moment: dialogue_pb2.Moment, at_ns: int) -> int:
    return max(moment.start_ns - at_ns, at_ns - moment.end_ns, 0)


def told(
    asked: PastQuestion,
    moments: Sequence[dialogue_pb2.Moment],
    now_ns: int,
    zone: datetime.tzinfo = datetime.UTC,
) -> str:
    """An answer by the lines of memory alone."""
    in_order = moments if asked.kind in (Kind.WHEN, Kind.AT) else list(reversed(moments))
    if asked.kind is Kind.WHEN or asked.present:
        in_order = moments[:1]
    said = []
    for moment in in_order:
        when = f"{ago(max(0.0, (now_ns - moment.start_ns) / NS))} ({clock(moment.start_ns, zone)})"
        heard = f'; somebody said "{moment.heard}"' if moment.heard else ""
        said.append(f"{when}: {moment.line or 'nothing was noted'}{heard}")
    return f"From memory, {'. '.join(said)}."


def frame_of(jpeg: bytes, width: int, height: int) -> bytes:
    """A remembered picture as a frame that the model takes, RGB24. b"" for one that is none."""
    try:
        return Display().rgb(decode_jpeg(jpeg), width, height)
    except ValueError:
        return b""
