"""Unfamiliar pictures: what is told of them on the way from the encoder to a viewer."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import torch

from services.gateway.sessions.degradation import UNFAMILIAR_PICTURE
from services.inference_worker import metrics
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.jobs import FrameReceipt
from services.inference_worker.kv.look import NEWEST, Look, strangeness_now
from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.family import Encoded, Round
from services.inference_worker.serving import answering
from services.inference_worker.serving.answering import UNFAMILIAR, Answerer
from services.inference_worker.serving.guard import Guard
from services.inference_worker.serving.noting import Noter
from services.inference_worker.serving.scoring import Scorer
from services.inference_worker.serving.sessions import Sessions, WorkerSession
from services.inference_worker.serving.watch_rule import WatchRule, WatchState
from services.inference_worker.serving.watching import Watcher
from sightline.v1 import dialogue_pb2, inference_pb2
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import picture
from tests.unit.http_parts import served
from tests.unit.tiny import Bench, tiny_model

KNOWN, STRANGE = 50, 250  # grey levels; a hundred is as strange as is familiar


class Judging(BuiltinModel):
    """A tiny model to which bright pictures are strange."""

    def encode(self, frames: torch.Tensor) -> Encoded:
        encoded = super().encode(frames)
        encoded.strangeness = frames.flatten(1).float().mean(1) / 100
        return encoded


def judging() -> BuiltinModel:
    model: BuiltinModel = tiny_model()
    model.__class__ = Judging
    return model


def show(bench: Bench, level: int, count: int = NEWEST) -> list[FrameReceipt]:
    start = len(bench.results)
    for number in range(start, start + count):
        picture = np.full((64, 64, 3), level, np.uint8)
        bench.push("s", picture, number)
    bench.run()
    return [each for each in bench.results[start:] if isinstance(each, FrameReceipt)]


def test_the_present_is_as_strange_as_its_newest_pictures() -> None:
    assert strangeness_now([]) == 0
    looks = [Look(each) for each in (3.0, 1.0, 1.0, 1.0, 100.0)]
    assert strangeness_now(looks) == 1.5


@pytest.mark.parametrize("reuse_below", [0.0, 2.0])
def test_frames_and_questions_carry_how_strange_the_pictures_are(reuse_below: float) -> None:
    bench = Bench(judging(), reuse_below=reuse_below, burst=2)
    bench.open("s")
    assert [each.strangeness for each in show(bench, KNOWN)] == [0.5] * NEWEST
    before = metrics.UNFAMILIAR_FRAMES._value.get()
    told = [each.strangeness for each in show(bench, STRANGE)]
    assert told[-1] == 2.5
    assert metrics.UNFAMILIAR_FRAMES._value.get() - before == sum(each > 1 for each in told)
    asked = bench.ask("s", [1, 2])
    bench.run()
    assert asked.seen is not None
    assert (asked.seen.strangeness, asked.seen.unfamiliar) == (2.5, True)


def test_a_model_that_cannot_tell_calls_nothing_strange() -> None:
    bench = Bench(tiny_model())
    bench.open("s")
    assert {each.strangeness for each in show(bench, STRANGE)} == {0.0}


class Talk:
    """A conversation in which an answer was withheld before."""

    available = True

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.sessions: list[str] = []

    async def context(self, *_: Any, **__: Any) -> list[dialogue_pb2.Round]:
        withheld = dialogue_pb2.Round(question="what", answer=UNFAMILIAR)
        return [withheld, dialogue_pb2.Round(question="who", answer="nobody")]

    def append(self, conversation: str, **round_: Any) -> "asyncio.Future[bool]":
        self.kept.append(round_["answer"])
        self.sessions.append(round_["session"])
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        stored.set_result(True)
        return stored


@contextlib.asynccontextmanager
async def running_engine(level: int) -> AsyncIterator[Bench]:
    bench = Bench(judging())
    await asyncio.wrap_future(bench.engine.start())
    try:
        await asyncio.wrap_future(bench.engine.open_session("s"))
        for number in range(NEWEST):
            bench.push("s", np.full((64, 64, 3), level, np.uint8), number)
        await eventually(lambda: len(bench.results) == NEWEST)
        yield bench
    finally:
        bench.engine.stop()


async def answer(bench: Bench, *, withholds: bool = True) -> tuple[pb.AnswerDone, str, Talk]:
    """How it ended, the words as they came, and the conversation."""
    talk = Talk()
    answerer = Answerer(bench.engine, bench.model, talk, None, 64, 4, withholds)
    question = pb.Question(turn="t", text="word1 word2")
    request = inference_pb2.AnswerRequest(session_id="s", question=question, conversation="c")
    words, done = "", pb.AnswerDone()
    async for event in answerer.answer(request):
        words += event.text_delta.text
        done = event.done if event.HasField("done") else done
    return done, words, talk


async def test_a_question_about_strange_pictures_is_answered_by_saying_so() -> None:
    async with running_engine(STRANGE) as bench:
        before = metrics.WITHHELD._value.get()
        done, words, talk = await answer(bench)
        assert words == done.text == UNFAMILIAR
        assert (done.unfamiliar_picture, done.strangeness) == (True, 2.5)
        assert list(done.degraded) == [answering.UNFAMILIAR_PICTURE]
        assert done.finish_reason == pb.FINISH_REASON_STOP
        assert talk.kept == [UNFAMILIAR]
        assert metrics.WITHHELD._value.get() == before + 1
        await eventually(lambda: bench.engine.snapshot().num_running == 0)


async def test_an_operator_may_want_to_be_told_only() -> None:
    async with running_engine(STRANGE) as bench:
        done, words, _ = await answer(bench, withholds=False)
        assert words == done.text != UNFAMILIAR
        assert done.unfamiliar_picture
        assert list(done.degraded) == [answering.UNFAMILIAR_PICTURE]


async def test_what_is_known_is_answered_as_ever_without_what_was_withheld_before() -> None:
    async with running_engine(KNOWN) as bench:
        done, _, _ = await answer(bench)
        assert (done.unfamiliar_picture, done.strangeness) == (False, 0.5)
        assert done.text != UNFAMILIAR
        assert done.history_rounds == 1
        assert not done.degraded
        request = inference_pb2.AnswerRequest(
            history=[dialogue_pb2.Round(answer=UNFAMILIAR), dialogue_pb2.Round(answer="one")]
        )
        answerer = Answerer(bench.engine, bench.model, None, None, 64, 4)
        assert await answerer._rounds(request, []) == [Round("", "one")]


@pytest.mark.parametrize(("level", "withholds"), [(STRANGE, True), (STRANGE, False), (KNOWN, True)])
async def test_no_watch_fires_on_strange_pictures(level: int, withholds: bool) -> None:
    async with running_engine(level) as bench:
        config = WorkerConfig(unfamiliar="withhold" if withholds else "tell")
        answerer = Answerer(bench.engine, bench.model, None, None, 64, 4)
        guard, sessions = Guard(answerer, None, config), Sessions(bench.engine)
        watcher = Watcher(bench.engine, sessions, guard, 64, 4, config.withholds)
        state = WatchState(WatchRule(threshold=-1.0))  # whatever the model says holds
        tokens = bench.model.watch_tokens("word1")
        counted = metrics.WATCH_CHECKS.labels("unfamiliar")
        before = counted._value.get()
        status = pb.WatchStatus()
        event = await watcher._check(
            WorkerSession("s", 1.0, 100), pb.Watch(watch="w"), tokens, state, status
        )
        assert status.unfamiliar_picture == (level == STRANGE)
        assert status.capture_ns == NEWEST - 1
        silent = level == STRANGE and withholds
        assert (event is None) == silent
        assert state.active == (not silent)
        assert counted._value.get() - before == silent


async def test_statements_are_scored_with_a_word_about_the_pictures() -> None:
    async with running_engine(STRANGE) as bench:
        for withholds in (True, False):
            scorer = Scorer(bench.engine, 64, 2, withholds)
            scored = await scorer.score("s", ["word1", "word2"])
            assert (scored.strangeness, len(scored.probabilities)) == (2.5, 2)
            assert scored.cannot_tell == withholds


@pytest.mark.parametrize(("level", "withholds"), [(STRANGE, True), (STRANGE, False), (KNOWN, True)])
async def test_no_note_is_taken_of_strange_pictures(level: int, withholds: bool) -> None:
    async with running_engine(level) as bench:
        bench.model.card = dataclasses.replace(bench.model.card, notes=("what is",))
        noted = await Noter(bench.engine, withholds).note("s")
        assert bool(noted.line) == (level == KNOWN or not withholds)
        assert noted.embedding


async def test_a_session_says_so_while_it_is_so_and_decisions_carry_it() -> None:
    worker = FakeWorker()
    worker.strangeness = 1.5
    async with served(worker) as (parts, client):
        session = await parts.push_session(name="cam")
        session.admit("push").sink.take(picture(0))
        await eventually(lambda: session.counts.strangeness > 0)
        stats = session.message().stats
        assert (stats.strangeness, stats.frames_unfamiliar, stats.frames_processed) == (1.5, 1, 1)
        assert UNFAMILIAR_PICTURE in stats.degraded
        session.note_degraded([UNFAMILIAR_PICTURE])
        session.counts.add_understood(1, 0, 0, 0.5)
        assert UNFAMILIAR_PICTURE not in session.message().stats.degraded
        body = {"questions": [{"statement": "a cup is there"}]}
        decided = await (await client.post("/api/sessions/cam/decide", json=body)).json()
        assert (decided["unfamiliar_picture"], decided["strangeness"]) == (True, 1.5)
