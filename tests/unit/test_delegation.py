"""Delegation: questions that another model answers, and what becomes of them where it cannot."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from services.common.config import ConfigError
from services.gateway.config import GatewayConfig
from services.gateway.delegates.circuit import FIRST_REST_S, MOST_FAILURES, MOST_REST_S, Circuit
from services.gateway.sessions.session import Session
from services.gateway.viewers.delegation import DELEGATE_UNAVAILABLE
from services.inference_worker.serving.answering import Answerer
from services.inference_worker.serving.symptoms import Outcome
from services.local.config import LocalConfig
from services.local.suite import Suite
from sightline.errors import InvalidArgumentError
from sightline.v1 import dialogue_pb2_grpc, inference_pb2
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_dialogue import FakeDialogue
from tests.unit.fake_worker import SIZE, FakeWorker
from tests.unit.gateway_parts import SECOND_NS, Parts, picture, running
from tests.unit.served import served
from tests.unit.test_gateway_viewers import Viewer
from tests.unit.test_unfamiliar import KNOWN, Talk, running_engine

UNSURE, ALWAYS = pb.DELEGATE_MODE_UNSURE, pb.DELEGATE_MODE_ALWAYS
BIG = "a striped mug of the kind that potters make"


@dataclass
class Site:
    """A gateway with a small model that watches and a big one that is asked."""

    parts: Parts
    small: FakeWorker
    big: FakeWorker
    session: Session

    async def ask(self, text: str = "what is it?") -> pb.AnswerDone:
        question = pb.Question(text=text)
        request = pb.AskRequest(session=self.session.id, conversation="c", question=question)
        return (await self.parts.stub.Ask(request, timeout=30)).answer

    async def viewer(self, **start: Any) -> Viewer:
        viewer = Viewer(self.parts, self.session.id, **start)
        await viewer.begin()
        return viewer


@contextlib.asynccontextmanager
async def site(mode: int = ALWAYS, *, shown: int = 6, **settings: Any) -> AsyncIterator[Site]:
    """shown: pictures of the session, a second apart."""
    small, big = FakeWorker(), FakeWorker(model="qwen3-vl", pool="hard")
    big.answer = BIG
    settings = {"default_model": "builtin", "delegate": "hard"} | settings
    async with running(small, big, **settings) as parts:
        session = await parts.push_session(delegate=mode)
        publisher = session.admit("push")
        for number in range(shown):
            publisher.sink.take(picture(number, width=64, height=48))
        await eventually(lambda: session.counts.processed or not shown)
        yield Site(parts, small, big, session)


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("sightline_delegated_total", {"outcome": outcome}) or 0.0


async def test_a_session_that_delegates_nothing_is_answered_as_ever() -> None:
    async with site(pb.DELEGATE_MODE_UNSPECIFIED) as here:
        here.small.confidence = 0.01
        done = await here.ask()
        assert (done.text, done.answered_by, list(done.degraded)) == (here.small.answer, "", [])
        assert not here.big.opened
        assert not await here.session.glimpses()  # nor are pictures kept for it


async def test_the_delegate_sees_the_last_pictures_and_its_answer_says_whose_it_is() -> None:
    async with site() as here:
        shown: list[inference_pb2.Frame] = []
        here.big.pause_after = 1
        asking = asyncio.create_task(here.ask())
        await here.big.paused.wait()
        [guest] = here.big.frames
        shown = list(here.big.frames[guest])
        here.big.go_on.set()
        done = await asking
        assert (done.text, done.answered_by, list(done.degraded)) == (BIG, "qwen3-vl", [])
        assert [each.capture_ns for each in shown] == [n * SECOND_NS for n in (3, 4, 5, 6)]
        assert {(each.width, each.height) for each in shown} == {(SIZE, SIZE)}
        levels = [each.pixels[0] for each in shown]
        assert all(abs(level - number) < 4 for number, level in enumerate(levels, start=2))
        assert not here.small.asked  # its own model was spared
        asked = here.big.asked[0]
        assert (asked.conversation, asked.home) == ("c", here.session.id)
        await eventually(lambda: here.big.released == [guest])


async def test_who_is_unsure_asks_and_who_is_sure_does_not() -> None:
    async with site(UNSURE) as here:
        small = here.small
        for confidence, unsure, strangeness, delegated in (
            (0.95, False, 0.0, False),
            (None, False, 0.0, False),  # of a model that does not tell
            (0.2, False, 0.0, True),
            (None, True, 0.0, True),
            (0.99, False, 1.5, True),
        ):
            small.confidence, small.unsure, small.strangeness = confidence, unsure, strangeness
            done = await here.ask()
            assert done.text == (BIG if delegated else small.answer), (confidence, unsure)
            assert bool(done.answered_by) == delegated
        small.degraded, small.strangeness = ["answer_repeats"], 0.0
        assert (await here.ask()).answered_by
        small.degraded, small.tool_calls = [], [pb.ToolCall(name="door")]
        small.confidence = 0.1
        assert not (await here.ask()).answered_by  # a call is no guess in words


async def test_a_held_answer_comes_whole_where_it_stands() -> None:
    """Events as they would have come; of one that does not stand none is told."""
    async with site(UNSURE) as here:
        here.small.confidence = 0.9
        viewer = await here.viewer()
        await viewer.ask("what is it?", turn="t1")
        await viewer.until("answer_done")
        assert viewer.texts("t1") == here.small.answer
        here.small.confidence = 0.1
        await viewer.ask("and that?", turn="t2")
        done = (await viewer.until("answer_done")).answer_done
        assert (viewer.texts("t2"), done.answered_by) == (BIG, "qwen3-vl")
        assert viewer.kinds().count("answer_started") == 2
        later = here.big.asked[0].asked_ns  # of two answers of a turn that one is kept
        assert later > here.small.asked[1].asked_ns
        viewer.call.cancel()


@pytest.mark.parametrize("mode", [UNSURE, ALWAYS])
async def test_where_the_delegate_fails_the_own_model_answers_and_says_so(mode: int) -> None:
    async with site(mode) as here:
        here.small.confidence = 0.1
        before = counted("away")
        here.big.failures["Answer"] = [grpc.StatusCode.UNAVAILABLE]
        done = await here.ask()
        assert (done.text, done.answered_by) == (here.small.answer, "")
        assert list(done.degraded) == [DELEGATE_UNAVAILABLE]
        assert DELEGATE_UNAVAILABLE in here.session.message().stats.degraded
        assert len(here.small.asked) == 1  # one that is held is not asked for again
        assert counted("away") == before + 1
        assert (await here.ask()).answered_by
        assert DELEGATE_UNAVAILABLE not in here.session.message().stats.degraded


async def test_words_of_a_delegate_that_breaks_are_taken_back() -> None:
    async with site() as here:
        here.big.break_at = 2
        viewer = await here.viewer()
        await viewer.ask("what is it?")
        done = (await viewer.until("answer_done")).answer_done
        assert (done.text, list(done.degraded)) == (here.small.answer, [DELEGATE_UNAVAILABLE])
        starts = [
            each.answer_started
            for each in viewer.events
            if each.WhichOneof("event") == "answer_started"
        ]
        assert [each.restarted for each in starts] == [False, True]
        viewer.call.cancel()


@pytest.mark.parametrize("where", ["opening", "answering", "amid"])
async def test_a_delegate_that_hangs_is_waited_for_so_long_and_then_left(where: str) -> None:
    async with site(delegate_timeout_s=0.3) as here:
        if where == "opening":
            here.big.understanding.clear()
        elif where == "answering":
            here.big.answering.clear()
        else:
            here.big.pause_after = 2
        done = await here.ask()
        assert (done.text, list(done.degraded)) == (here.small.answer, [DELEGATE_UNAVAILABLE])
        await eventually(lambda: here.big.released)
        here.big.answering.set()
        here.big.understanding.set()
        here.big.go_on.set()


async def test_a_delegate_that_is_away_rests_after_some_failures() -> None:
    async with site() as here:
        here.big.failures["Answer"] = [grpc.StatusCode.UNAVAILABLE] * MOST_FAILURES
        before = counted("resting")
        for _ in range(MOST_FAILURES + 2):
            assert list((await here.ask()).degraded) == [DELEGATE_UNAVAILABLE]
        assert len(here.big.asked) == MOST_FAILURES
        assert counted("resting") == before + 2


async def test_an_unknown_delegate_and_no_picture_are_no_reason_to_say_nothing() -> None:
    async with site() as here:
        update = pb.UpdateSessionRequest(session=here.session.id, delegate_to="nowhere")
        await here.parts.stub.UpdateSession(update, timeout=30)
        assert list((await here.ask()).degraded) == [DELEGATE_UNAVAILABLE]
    async with site(shown=0) as here:
        before = counted("blind")
        here.session.counts.processed += 1  # by another gateway, which had the session
        assert list((await here.ask()).degraded) == [DELEGATE_UNAVAILABLE]
        assert counted("blind") == before + 1


async def test_only_so_many_questions_are_delegated_at_once() -> None:
    async with site(delegate_answers=1) as here:
        here.big.pause_after = 1
        first = asyncio.create_task(here.ask("first"))
        await here.big.paused.wait()
        before = counted("busy")
        assert list((await here.ask("second")).degraded) == [DELEGATE_UNAVAILABLE]
        assert counted("busy") == before + 1
        here.big.go_on.set()
        assert (await first).answered_by


async def test_watching_and_other_questions_go_on_meanwhile() -> None:
    async with site(UNSURE, session_answers=1) as here:
        here.small.confidence = 0.1
        here.big.pause_after = 1
        hard = asyncio.create_task(here.ask("hard"))
        await here.big.paused.wait()
        here.small.confidence = 0.9
        assert (await here.ask("easy")).text == here.small.answer
        processed = here.session.counts.processed
        here.session.sampler.take(picture(9, width=64, height=48))
        await eventually(lambda: here.session.counts.processed > processed)
        here.big.go_on.set()
        assert (await hard).answered_by == "qwen3-vl"


async def test_a_viewer_who_cancels_frees_the_delegate() -> None:
    async with site() as here:
        here.big.pause_after = 1
        viewer = await here.viewer()
        await viewer.ask("what is it?")
        await here.big.paused.wait()
        before = counted("cancelled")
        await viewer.send(cancel=pb.Cancel(turn="t1"))
        await viewer.until("answer_done")
        await eventually(lambda: here.big.cancelled_answers and here.big.released)
        assert counted("cancelled") == before + 1
        here.big.go_on.set()
        viewer.call.cancel()


@pytest.mark.parametrize("mode", [pb.DELEGATE_MODE_NEVER, UNSURE, ALWAYS])
async def test_no_delegate_is_asked_ahead_of_the_question(mode: int) -> None:
    add = dialogue_pb2_grpc.add_DialogueServiceServicer_to_server
    async with served(add, FakeDialogue()) as address, site(mode, dialogue=address) as here:
        here.small.confidence = 0.1
        start = pb.Start(session=here.session.id)
        viewer = here.parts.viewers.open(start, session=here.session)
        viewer.expect(pb.Question(turn="t1", text="what is it?"))
        if mode == pb.DELEGATE_MODE_NEVER:
            await eventually(lambda: here.small.asked)
            assert here.small.asked[0].ahead
        else:
            assert viewer._questions._ahead is None
        viewer.expect(None)
        assert not here.big.asked


async def test_a_session_says_what_it_delegates_and_can_change_that() -> None:
    async with site(UNSURE) as here:
        told = here.session.message()
        assert (told.delegate, told.delegate_to) == (UNSURE, "hard")
        update = pb.UpdateSessionRequest(session=here.session.id, fps=2)
        told = await here.parts.stub.UpdateSession(update, timeout=30)
        assert told.delegate == UNSURE
        update.delegate = pb.DELEGATE_MODE_NEVER
        told = await here.parts.stub.UpdateSession(update, timeout=30)
        assert told.delegate == pb.DELEGATE_MODE_NEVER
        here.small.confidence = 0.1
        assert not (await here.ask()).answered_by


async def test_a_server_without_a_delegate_refuses_to_ask_one() -> None:
    async with running(FakeWorker()) as parts:
        with pytest.raises(InvalidArgumentError, match="no delegate"):
            await parts.push_session(delegate=ALWAYS)
        named = await parts.push_session(delegate=ALWAYS, delegate_to="hard")
        assert named.delegation == (ALWAYS, "hard")
    assert GatewayConfig.from_env({"GATEWAY_DELEGATE": "hard"}).delegate == "hard"
    for wrong in (
        {"GATEWAY_DELEGATE": "openai:http://127.0.0.1:11434/v1#qwen"},
        {"GATEWAY_DELEGATE_MODE": "always"},
    ):
        with pytest.raises(ConfigError, match="GATEWAY_DELEGATE"):
            GatewayConfig.from_env(wrong)


async def test_a_worker_tells_how_sure_it_was_and_keeps_the_turn_with_its_session() -> None:
    talk = Talk()
    async with running_engine(KNOWN) as bench:
        answerer = Answerer(bench.engine, bench.model, talk, None, 64, 4)
        question = pb.Question(turn="t", text="word1 word2")
        request = inference_pb2.AnswerRequest(
            session_id="s", home="kitchen", question=question, conversation="c"
        )
        surprises: list[float] = []

        async def examine(outcome: Outcome) -> list[str]:
            surprises.append(outcome.surprise / len(outcome.tokens))
            return []

        events = [event async for event in answerer.answer(request, examine)]
        assert 0 < events[-1].done.confidence < 1
        assert events[-1].done.confidence == pytest.approx(math.exp(-surprises[0]))
        assert talk.sessions == ["kitchen"]


def test_make_run_gives_the_delegate_a_pool_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_DELEGATE_MODE", raising=False)
    model = "openai:http://127.0.0.1:11434/v1#qwen3-vl:4b"
    config = LocalConfig(delegate=model, dialogue_redis_url="redis://x").on_free_ports()
    suite = Suite(config.with_ports(), tmp_path, tmp_path, lambda process, what: None)
    assert suite.delegate is not None
    worker, delegate = suite.workers[0].environment, suite.delegate.environment
    assert (delegate["WORKER_MODEL"], delegate["WORKER_POOL"]) == (model, "delegate")
    gateway = GatewayConfig.from_env(suite.gateway.environment)
    assert gateway.workers == (suite.workers[0].address, suite.delegate.address)
    assert gateway.default_model == worker["WORKER_POOL"]
    assert (gateway.delegate, gateway.delegate_mode) == ("delegate", "unsure")
    assert suite.workers[0].address != suite.delegate.address


def test_a_circuit_lets_one_question_try_after_a_rest_that_grows() -> None:
    now = 0.0
    circuit = Circuit(lambda: now)
    for _ in range(MOST_FAILURES - 1):
        circuit.begin()
        circuit.failed()
        assert not circuit.rests
    circuit.begin()
    circuit.failed()
    assert circuit.rests
    now += FIRST_REST_S
    assert not circuit.rests
    circuit.begin()
    assert circuit.rests  # for everybody else
    circuit.failed()
    now += FIRST_REST_S * 0.9
    assert circuit.rests  # twice as long, and at least half of that
    now += MOST_REST_S
    circuit.begin()
    circuit.left()
    assert not circuit.rests
    circuit.begin()
    circuit.answered()
    circuit.failed()
    assert not circuit.rests
