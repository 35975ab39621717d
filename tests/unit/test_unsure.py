"""Answers about the present that the model is not sure of, which go on from memory."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.gateway.memory.recaller import AWAY, Recaller
from services.gateway.sessions.session import Session
from services.inference_worker.engine.jobs import FinishReason
from services.inference_worker.serving.doubt import is_unsure, says_doubt
from services.inference_worker.serving.symptoms import Outcome
from sightline.v1 import dialogue_pb2, inference_pb2
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import Parts, picture, running
from tests.unit.test_moments import Journal

OFF, LINES = pb.MEMORY_KIND_OFF, pb.MEMORY_KIND_LINES
NO_PHONE = "there is no phone"
PLACE = "here"
NS = 1_000_000_000
NOW_NS = 1_700_000_000 * NS

# What is doubt


@pytest.mark.parametrize(
    "text",
    [
        "i do not know",
        "I'm not sure, but it may be a cup.",
        "I can’t tell from here.",
        "there is no phone",
        "There are no phones in the picture.",
        "Sorry, I cannot see a phone.",
        "It is unclear what the sign says.",
        "The image does not show a price.",
        "Unknown",
    ],
)
def test_an_answer_that_says_it_is_none_is_doubt(text: str) -> None:
    assert says_doubt(text)


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "nothing",
        "none",
        "No, there is no phone.",
        "a phone is at the left and there is no price",
        "I see a red cap.",
        "it is red",
        "I know it well",
        "there is nothing in the hand",
        "",
    ],
)
def test_a_plain_answer_is_no_doubt(text: str) -> None:
    assert not says_doubt(text)


def test_low_probabilities_are_doubt_too() -> None:
    sure = Outcome(tokens=[1, 2], text="a red cap", reason=FinishReason.STOP, surprise=0.2)
    assert not is_unsure(sure, 0.5)
    assert is_unsure(dataclasses.replace(sure, surprise=1.6), 0.5)
    assert not is_unsure(dataclasses.replace(sure, surprise=1.6), 0.0)
    cut = dataclasses.replace(sure, surprise=1.6, reason=FinishReason.CANCELLED)
    assert not is_unsure(cut, 0.5)


# What the gateway makes of it


@contextlib.asynccontextmanager
async def asking(
    worker: FakeWorker, journal: Journal, memory: pb.MemoryKind = LINES
) -> AsyncIterator[tuple[Parts, Session]]:
    """A session with this memory, whose newest picture is of now."""
    async with running(worker) as parts:
        session = await parts.push_session()
        session.spec = dataclasses.replace(session.spec, memory=memory)
        parts.viewers.asks._recaller = Recaller(journal)  # type: ignore[arg-type]
        session.admit("rtmp").sink.take(picture(NOW_NS // NS - 1))
        await eventually(lambda: session.message().stats.last_capture_ns == NOW_NS)
        yield parts, session


async def ask(
    parts: Parts, session: Session, text: str
) -> tuple[list[inference_pb2.AnswerEvent], pb.AnswerDone]:
    request = pb.AskRequest(question=pb.Question(text=text, turn="t"))
    events = [event async for event in parts.viewers.asks.stream(request, session, PLACE)]
    assert [event.WhichOneof("event") for event in events].count("done") == 1
    return events, events[-1].done


def words(events: list[inference_pb2.AnswerEvent]) -> str:
    return "".join(event.text_delta.text for event in events)


def unsure_worker(answer: str = NO_PHONE) -> FakeWorker:
    worker = FakeWorker()
    worker.answer, worker.unsure = answer, True
    return worker


def remembering() -> Journal:
    """A phone that was there six times, each time beside so many other things."""
    moments = []
    for age_s in (60, 90, 200, 300, 400, 500):
        start_ns = NOW_NS - age_s * NS
        line = f"a phone is at the left and {age_s} things"
        moments.append(
            dialogue_pb2.Moment(id=f"{age_s}-0", start_ns=start_ns, end_ns=start_ns + NS, line=line)
        )
    return Journal(moments)


async def test_an_unsure_answer_goes_on_with_what_is_remembered() -> None:
    worker = unsure_worker()
    async with asking(worker, remembering()) as (parts, session):
        events, done = await ask(parts, session, "How much is the phone?")
        kinds = [event.WhichOneof("event") for event in events]
        assert kinds.count("started") == 1
        assert words(events) == done.text == f"{NO_PHONE} From memory: a blue square"
        first, second = worker.asked
        assert not first.HasField("recall"), "the first words wait for nothing"
        assert second.recall.said == NO_PHONE
        assert second.recall.question == "How much is the phone?"
        assert "From memory, 60 seconds ago" in second.recall.answer
        assert 1 <= len(second.recall.moments) <= 4
        assert [each.start_ns for each in done.memory] == [
            each.start_ns for each in second.recall.moments
        ]
        assert done.unsure
        assert second.asked_ns > first.asked_ns, "the later whole answer is the one that is kept"


async def test_what_was_said_long_ago_is_found_for_who_asks_in_no_time() -> None:
    worker, journal = unsure_worker("i do not know"), remembering()
    journal.moments[3].heard = "the price is nine euros today"
    async with asking(worker, journal) as (parts, session):
        _, done = await ask(parts, session, "What did she say about the price?")
        assert [each.heard for each in done.memory] == ["the price is nine euros today"]
        assert 'somebody said "the price is nine euros' in worker.asked[1].recall.answer


async def test_nothing_is_added_to_what_memory_does_not_know_or_the_model_is_sure_of() -> None:
    worker = unsure_worker()
    async with asking(worker, remembering()) as (parts, session):
        asked = "How much is the zebra?", "What is this?", "Is it a phone?", "When did zebras show?"
        for text in asked:
            _, done = await ask(parts, session, text)
            assert done.text == NO_PHONE
            assert not done.memory
        assert len(worker.asked) == len(asked)
        worker.unsure = False
        _, done = await ask(parts, session, "How much is the phone?")
        assert done.text == NO_PHONE
        assert len(worker.asked) == len(asked) + 1


async def test_without_memory_all_is_as_it_is_for_a_session_that_never_had_one() -> None:
    """To the last byte of what the worker is asked and of what the asker is told."""
    told = []
    for memory, journal in ((OFF, remembering()), (OFF, Journal([])), (LINES, Journal([]))):
        worker = unsure_worker()
        async with asking(worker, journal, memory) as (parts, session):
            events, _ = await ask(parts, session, "How much is the phone?")
            for request in worker.asked:
                request.ClearField("asked_ns")
                request.ClearField("session_id")
                request.ClearField("conversation")
            for event in events:
                event.done.ClearField("newest_frame_age_ms")
            told.append(
                (
                    [request.SerializeToString() for request in worker.asked],
                    [event.SerializeToString() for event in events],
                )
            )
            assert journal.calls == (memory != OFF)
    assert told[0] == told[1] == told[2]


async def test_a_store_that_is_away_leaves_the_answer_as_it_is_and_says_so() -> None:
    worker, journal = unsure_worker(), remembering()
    journal.away = True
    async with asking(worker, journal) as (parts, session):
        _, done = await ask(parts, session, "How much is the phone?")
        assert done.text == NO_PHONE
        assert list(done.degraded) == [AWAY]


class Breaking(Journal):
    """A journal that is read before a worker ends, which it has answered once."""

    worker: FakeWorker

    async def read(self, request: Any) -> Any:
        self.worker.failures["Answer"] = [grpc.StatusCode.INTERNAL]
        return await super().read(request)


async def test_a_worker_that_fails_in_the_afterthought_costs_only_that() -> None:
    worker, journal = unsure_worker(), Breaking(remembering().moments)
    journal.worker = worker
    async with asking(worker, journal) as (parts, session):
        events, done = await ask(parts, session, "How much is the phone?")
        assert len(worker.asked) == 2
        assert words(events) == done.text == NO_PHONE
        assert not done.memory
