"""Viewers over gRPC: answers, cancelling, watches, breaks, and viewers who do not read."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from services.gateway import metrics
from services.gateway.sessions.states import LIVE
from services.gateway.viewers import answers
from services.gateway.viewers import viewer as converse
from services.gateway.viewers.viewer import conversation_of
from sightline.v1 import dialogue_pb2_grpc
from sightline.v1 import gateway_pb2 as pb
from sightline.v1.dialogue_pb2 import DeleteConversationRequest
from tests.eventually import eventually
from tests.unit.fake_dialogue import FakeDialogue
from tests.unit.fake_worker import ANSWER, FakeWorker
from tests.unit.gateway_parts import Parts, picture, running
from tests.unit.served import served


class Viewer:
    """One Converse stream."""

    def __init__(self, parts: Parts, session: str, **start: Any) -> None:
        self.parts = parts
        self.call = parts.stub.Converse(timeout=30)
        self.start = pb.Start(session=session, **start)
        self.events: list[pb.ServerEvent] = []

    async def begin(self) -> pb.Started:
        await self.call.write(pb.ClientEvent(start=self.start))
        return (await self.until("started")).started

    async def send(self, **event: Any) -> None:
        await self.call.write(pb.ClientEvent(**event))

    async def ask(self, text: str, turn: str = "t1") -> None:
        await self.send(ask=pb.Question(turn=turn, text=text))

    async def read(self) -> pb.ServerEvent | None:
        event = await self.call.read()
        if event is grpc.aio.EOF:
            return None
        self.events.append(event)
        return event

    async def until(self, kind: str) -> pb.ServerEvent:
        """The next event of this kind; what comes before it is kept in `events`."""
        while (event := await self.read()) is not None:
            if event.WhichOneof("event") == kind:
                return event
        raise AssertionError(f"the line ended before {kind}: {await self.call.code()}")

    def texts(self, turn: str = "t1") -> str:
        deltas = [event.text_delta for event in self.events if event.HasField("text_delta")]
        return "".join(delta.text for delta in deltas if delta.turn == turn)

    def kinds(self) -> list[str]:
        return [str(event.WhichOneof("event")) for event in self.events]


async def _viewer(parts: Parts, **start: Any) -> Viewer:
    session = (
        parts.sessions.all()[0] if parts.sessions.all() else await parts.push_session(seen=True)
    )
    viewer = Viewer(parts, session.id, **start)
    await viewer.begin()
    return viewer


@asynccontextmanager
async def _kept(dialogue: FakeDialogue, worker: FakeWorker) -> AsyncIterator[Parts]:
    """A gateway that knows a dialogue service."""
    add = dialogue_pb2_grpc.add_DialogueServiceServicer_to_server
    async with served(add, dialogue) as address, running(worker, dialogue=address) as parts:
        yield parts


async def aiter_of(*events: pb.ClientEvent) -> AsyncIterator[pb.ClientEvent]:
    for event in events:
        yield event


# --- answers ------------------------------------------------------------------------------------


async def test_an_answer_comes_word_by_word() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        done = (await viewer.until("answer_done")).answer_done
        assert viewer.texts() == done.text == ANSWER
        assert done.finish_reason == pb.FINISH_REASON_STOP
        words = len(ANSWER.split())
        assert viewer.kinds() == [
            "started",
            "answer_started",
            *["text_delta"] * words,
            "answer_done",
        ]
        assert [event.sequence for event in viewer.events] == list(range(1, words + 4))
        started = viewer.events[0].started
        assert started.resumed == ""
        assert started.conversation
        assert started.session.model == "builtin"
        assert worker.asked[0].conversation == started.conversation
        assert not worker.asked[0].speech


async def test_speech_and_its_absence_are_relayed() -> None:
    worker = FakeWorker()
    worker.speech_unavailable = True
    async with running(worker) as parts:
        viewer = await _viewer(parts, speech=True, voice="en")
        await viewer.ask("what happened")
        done = (await viewer.until("answer_done")).answer_done
        assert worker.asked[0].voice == "en"
        assert viewer.kinds().count("audio_chunk") == len(ANSWER.split())
        assert "error" not in viewer.kinds()
        assert list(done.degraded) == ["speech_unavailable"]
        stats = parts.sessions.all()[0].message().stats
        assert "speech_unavailable" in stats.degraded


async def test_several_answers_run_at_once_within_a_bound() -> None:
    worker = FakeWorker()
    worker.pause_after = 0
    async with running(worker, max_questions=2) as parts:
        viewer = await _viewer(parts)
        for turn in ("a", "b", "c"):
            await viewer.ask("what happened", turn)
        error = (await viewer.until("error")).error
        assert (error.turn, error.code) == ("c", "RESOURCE_EXHAUSTED")
        worker.go_on.set()
        turns = {(await viewer.until("answer_done")).answer_done.turn for _ in range(2)}
        assert turns == {"a", "b"}


async def test_a_turn_is_not_asked_twice() -> None:
    worker = FakeWorker()
    worker.pause_after = 1
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        await worker.paused.wait()
        await viewer.ask("what happened")
        worker.go_on.set()
        first = (await viewer.until("answer_done")).answer_done
        await viewer.ask("what happened")
        second = (await viewer.until("answer_done")).answer_done
        assert first == second
        assert viewer.texts() == ANSWER
        assert len(worker.asked) == 1


async def test_a_question_without_a_turn_gets_one() -> None:
    async with running(FakeWorker()) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened", turn="")
        started = (await viewer.until("answer_started")).answer_started
        assert started.turn
        assert (await viewer.until("answer_done")).answer_done.turn == started.turn


async def test_cancelling_tells_what_was_said_and_stops_the_worker() -> None:
    worker = FakeWorker()
    worker.pause_after = 2
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        await worker.paused.wait()
        await eventually(lambda: parts.viewers is not None)
        while viewer.texts() != "a red":
            await viewer.read()
        await viewer.send(cancel=pb.Cancel(turn="t1"))
        done = (await viewer.until("answer_done")).answer_done
        assert done.finish_reason == pb.FINISH_REASON_CANCELLED
        assert done.text == "a red"
        await eventually(lambda: worker.cancelled_answers == 1)
        await viewer.send(cancel=pb.Cancel(turn="t1"))  # too late, and no error
        await viewer.send(cancel=pb.Cancel(turn="other"))
        error = (await viewer.until("error")).error
        assert (error.turn, error.code) == ("other", "NOT_FOUND")


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"ask": pb.Question(turn="t", text="")}, "INVALID_ARGUMENT"),
        ({"ask": pb.Question(turn="t", text="x" * 5000)}, "INVALID_ARGUMENT"),
        ({"ask": pb.Question(turn="t", text="x" * 1_000_000)}, "INVALID_ARGUMENT"),
        ({"ask": pb.Question(turn="t" * 200, text="what")}, "INVALID_ARGUMENT"),
        ({"ask": pb.Question(turn="t", text="what", temperature=float("nan"))}, "INVALID_ARGUMENT"),
        ({"watch": pb.Watch(watch="w")}, "INVALID_ARGUMENT"),
        ({"watch": pb.Watch(condition="a cat")}, "INVALID_ARGUMENT"),
        ({"watch": pb.Watch(watch="w", condition="x" * 2000)}, "INVALID_ARGUMENT"),
        ({"watch": pb.Watch(watch="w", condition="c", interval_s=-1)}, "INVALID_ARGUMENT"),
        ({"unwatch": pb.Unwatch(watch="none")}, "NOT_FOUND"),
        ({"cancel": pb.Cancel(turn="none")}, "NOT_FOUND"),
        ({"start": pb.Start()}, "FAILED_PRECONDITION"),
        ({}, "INVALID_ARGUMENT"),
    ],
)
async def test_what_is_wrong_becomes_an_event_and_the_line_goes_on(
    event: dict[str, Any], code: str
) -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.send(**event)
        assert (await viewer.until("error")).error.code == code
        await viewer.ask("what happened")
        await viewer.until("answer_done")
        assert len(worker.asked) == 1


async def test_a_line_begins_with_start_on_a_session_that_exists() -> None:
    async with running(FakeWorker()) as parts:
        await parts.push_session(seen=True)
        for first, code in (
            (pb.ClientEvent(ask=pb.Question(text="x")), grpc.StatusCode.FAILED_PRECONDITION),
            (pb.ClientEvent(start=pb.Start(session="none")), grpc.StatusCode.NOT_FOUND),
        ):
            call = parts.stub.Converse(timeout=10)
            await call.write(first)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is code


async def test_a_worker_that_is_away_is_asked_again() -> None:
    worker = FakeWorker()
    worker.failures["Answer"] = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND]
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        assert (await viewer.until("answer_done")).answer_done.text == ANSWER
        assert len(worker.asked) == 3


async def test_a_worker_that_is_being_shown_the_window_again_is_asked_again() -> None:
    """It was slow to understand it, and whoever asked was told that there was no frame."""
    worker = FakeWorker()
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        decide = pb.DecideRequest(
            session=viewer.start.session, questions=[pb.DecideQuestion(statement="a phone")]
        )
        with parts.sessions.all()[0].admit("rtmp"):
            worker.blind = 2
            await viewer.ask("what happened")
            assert (await viewer.until("answer_done")).answer_done.text == ANSWER
            worker.blind = 2
            assert (await parts.stub.Decide(decide)).decisions[0].probability == 0.5
        # Where nobody shows it anything, that is said at once.
        worker.blind = 2
        await viewer.ask("what happened", "t2")
        assert (await viewer.until("error")).error.reason == "NO_FRAME_YET"
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await parts.stub.Decide(decide)
        assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_question_that_a_stopping_worker_cut_off_is_asked_again() -> None:
    worker = FakeWorker()
    worker.failures["Answer"] = [grpc.StatusCode.CANCELLED]
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        assert (await viewer.until("answer_done")).answer_done.text == ANSWER
        assert len(worker.asked) == 2


async def test_a_refusal_of_the_worker_reaches_the_viewer() -> None:
    worker = FakeWorker()
    worker.failures["Answer"] = [grpc.StatusCode.RESOURCE_EXHAUSTED]
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        error = (await viewer.until("error")).error
        assert (error.turn, error.code, error.message) == ("t1", "RESOURCE_EXHAUSTED", "told to")


async def test_an_answer_that_breaks_in_the_middle_is_made_anew_and_says_so() -> None:
    worker = FakeWorker()
    worker.pause_after = 2
    async with running(worker) as parts:
        viewer = await _viewer(parts, speech=True)
        await viewer.ask("what happened")
        while viewer.texts() != "a red":
            await viewer.read()
        await worker.stop()
        worker.pause_after, worker.answer = None, "a blue square came"
        await worker.start()
        done = (await viewer.until("answer_done")).answer_done
        begun = [
            event.answer_started for event in viewer.events if event.HasField("answer_started")
        ]
        assert [each.restarted for each in begun] == [False, True]
        assert (done.turn, done.text, done.resumed) == ("t1", "a blue square came", "window")
        again = next(i for i, each in enumerate(viewer.events) if each.answer_started.restarted)
        told = "".join(event.text_delta.text for event in viewer.events[again:])
        assert told == done.text, "after the second beginning the whole comes, once"
        first, second = worker.asked
        assert second.asked_ns > first.asked_ns > 0
        await viewer.ask("what happened", "t2")
        assert (await viewer.until("answer_done")).answer_done.resumed == ""


async def test_an_answer_that_breaks_before_its_first_word_is_asked_again_unseen() -> None:
    worker = FakeWorker()
    worker.pause_after = 0
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        await viewer.until("answer_started")
        await worker.paused.wait()
        await worker.stop()
        worker.pause_after = None
        await worker.start()
        done = (await viewer.until("answer_done")).answer_done
        assert (done.text, done.resumed) == (ANSWER, "")
        assert viewer.texts() == ANSWER
        assert viewer.kinds().count("answer_started") == 1
        assert len(worker.asked) == 2


async def test_cancelling_an_answer_that_began_anew_tells_the_second_s_words() -> None:
    worker = FakeWorker()
    worker.pause_after = 2
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        while viewer.texts() != "a red":
            await viewer.read()
        await worker.stop()
        worker.answer = "no cat came"
        await worker.start()
        while not viewer.texts().endswith("no cat"):
            await viewer.read()
        await viewer.send(cancel=pb.Cancel(turn="t1"))
        done = (await viewer.until("answer_done")).answer_done
        assert (done.text, done.finish_reason) == ("no cat", pb.FINISH_REASON_CANCELLED)


async def test_a_question_that_ends_every_worker_is_given_up() -> None:
    worker = FakeWorker()
    worker.break_at = 1
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        error = (await viewer.until("error")).error
        assert (error.turn, error.code) == ("t1", "UNAVAILABLE")
        assert len(worker.asked) == answers.MOST_BEGUN


async def test_what_a_worker_has_no_room_for_is_refused_at_once() -> None:
    """But not where the question had been taken before: the session came with many others."""
    worker = FakeWorker()
    worker.failures["Answer"] = [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ]
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        assert (await viewer.until("answer_done")).answer_done.text == ANSWER
        worker.failures["Answer"] = [grpc.StatusCode.RESOURCE_EXHAUSTED]
        await viewer.ask("what happened", "t2")
        assert (await viewer.until("error")).error.code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE])
async def test_a_worker_that_stays_away_is_told_in_words_for_people(
    code: grpc.StatusCode,
) -> None:
    worker = FakeWorker()
    worker.failures["Answer"] = [code] * 2
    async with running(worker, moving_s=0.0) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        error = (await viewer.until("error")).error
        assert error.code == "UNAVAILABLE"
        assert error.message in ("The model is restarting: try again in some seconds", "told to")


# --- turns that are kept ------------------------------------------------------------------------


async def test_a_turn_that_its_worker_has_not_stored_is_stored_by_the_gateway() -> None:
    worker, dialogue = FakeWorker(), FakeDialogue()
    async with _kept(dialogue, worker) as parts:
        viewer = await _viewer(parts, conversation="c")
        for kept, turn in ((None, "t1"), (True, "t2"), (False, "t3")):
            worker.kept = kept
            await viewer.ask("what happened", turn)
            done = (await viewer.until("answer_done")).answer_done
            assert (done.kept if done.HasField("kept") else None) is kept
        await eventually(lambda: dialogue.turns("c") == ["t3"])
        (round_,) = dialogue.rounds["c"]
        assert (round_.question, round_.answer) == ("what happened", ANSWER)
        assert (round_.asked_ns, round_.interrupted) == (worker.asked[-1].asked_ns, False)
        assert dialogue.sessions["c"] == parts.sessions.all()[0].id


async def test_turns_wait_at_the_gateway_until_dialogue_has_them() -> None:
    worker, dialogue = FakeWorker(), FakeDialogue()
    worker.kept = False
    async with _kept(dialogue, worker) as parts:
        dialogue.refuse = grpc.StatusCode.RESOURCE_EXHAUSTED
        question = pb.Question(turn="t1", text="what happened")
        session = await parts.push_session(seen=True)
        request = pb.AskRequest(session=session.id, conversation="c", question=question)
        assert not (await parts.stub.Ask(request)).answer.kept
        assert parts.viewers.turns.num_waiting == 1
        dialogue.refuse = None
        await eventually(
            lambda: dialogue.turns("c") == ["t1"] and not parts.viewers.turns.num_waiting
        )


async def test_what_was_heard_of_a_cancelled_answer_is_what_is_kept() -> None:
    worker, dialogue = FakeWorker(), FakeDialogue()
    worker.kept = True
    async with _kept(dialogue, worker) as parts:
        viewer = await _viewer(parts, conversation="c")
        await viewer.ask("what happened", "t1")  # from here on it is known that turns are kept
        await viewer.until("answer_done")
        worker.pause_after = 2
        await viewer.ask("what happened", "t2")
        while viewer.texts("t2") != "a red":
            await viewer.read()
        await viewer.send(cancel=pb.Cancel(turn="t2"))
        await eventually(lambda: dialogue.turns("c") == ["t2"])
        (round_,) = dialogue.rounds["c"]
        assert (round_.answer, round_.interrupted) == ("a red", True)
        assert round_.asked_ns > worker.asked[-1].asked_ns, "later than the worker's"


async def test_a_conversation_that_is_deleted_does_not_come_back() -> None:
    worker, dialogue = FakeWorker(), FakeDialogue()
    worker.kept = False
    async with _kept(dialogue, worker) as parts:
        dialogue.refuse = grpc.StatusCode.UNAVAILABLE
        viewer = await _viewer(parts, conversation="c")
        await viewer.ask("what happened", "t1")
        await viewer.until("answer_done")
        with pytest.raises(grpc.aio.AioRpcError) as refused:  # dialogue is away
            await parts.stub.DeleteConversation(DeleteConversationRequest(conversation="c"))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        dialogue.refuse = None
        await eventually(lambda: not parts.viewers.turns.num_waiting)
        assert dialogue.turns("c") == []


@pytest.mark.parametrize("name", ["room 1", "käfer", "a/b", "c" * 129, "a\n"])
async def test_ids_that_could_not_be_kept_are_refused_with_their_rule(name: str) -> None:
    rule = "characters of A-Z a-z 0-9"
    async with running(FakeWorker()) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened", name)
        error = (await viewer.until("error")).error
        assert error.code == "INVALID_ARGUMENT"
        assert rule in error.message
        session = parts.sessions.all()[0].id
        question = pb.Question(text="what happened")
        call: Any
        for call in (
            parts.stub.Ask(pb.AskRequest(session=session, conversation=name, question=question)),
            parts.stub.Converse(
                aiter_of(pb.ClientEvent(start=pb.Start(session=session, conversation=name)))
            ).read(),
            parts.stub.Converse(
                aiter_of(
                    pb.ClientEvent(
                        start=pb.Start(session=session, resume_handle=converse._make_handle(name))
                    )
                )
            ).read(),
            parts.stub.GetConversation(pb.GetConversationRequest(conversation=name)),
            parts.stub.DeleteConversation(DeleteConversationRequest(conversation=name)),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=rule) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# --- breaks ---------------------------------------------------------------------------------------


async def test_a_broken_line_goes_on_where_it_was() -> None:
    worker = FakeWorker()
    worker.pause_after = 2
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        handle = viewer.events[0].started.resume_handle
        await viewer.ask("what happened")
        while viewer.texts() != "a":
            await viewer.read()
        last = viewer.events[-1].sequence
        await worker.paused.wait()
        viewer.call.cancel()
        await eventually(lambda: parts.sessions.all()[0].viewers == 0)
        worker.go_on.set()
        await eventually(lambda: worker.cancelled_answers == 0 and len(worker.asked) == 1)
        again = await _viewer(parts, resume_handle=handle, last_sequence=last)
        started = again.events[0].started
        assert started.resumed == "line"
        assert started.resume_handle == handle
        done = (await again.until("answer_done")).answer_done
        assert viewer.texts() + again.texts() == ANSWER == done.text
        assert [event.sequence for event in again.events] == sorted(
            {event.sequence for event in again.events}
        )
        assert again.events[0].sequence > last
        assert len(worker.asked) == 1


async def test_a_new_connection_takes_the_line_over_from_a_dead_one() -> None:
    async with running(FakeWorker()) as parts:
        old = await _viewer(parts)
        handle = old.events[0].started.resume_handle
        new = await _viewer(parts, resume_handle=handle, last_sequence=1)
        assert new.events[0].started.resumed == "line"
        assert await old.read() is None, "the old stream ended"
        await new.ask("what happened")
        await new.until("answer_done")


async def test_a_line_nobody_came_back_to_is_forgotten_with_its_answers() -> None:
    worker = FakeWorker()
    worker.pause_after = 1
    async with running(worker, resume_s=0) as parts:
        viewer = await _viewer(parts, conversation="talk")
        handle = viewer.events[0].started.resume_handle
        await viewer.ask("what happened")
        await worker.paused.wait()
        viewer.call.cancel()
        session = parts.sessions.all()[0]
        await eventually(lambda: session.viewers == 0)
        parts.sessions.tick(0.0)
        await eventually(lambda: worker.cancelled_answers == 1)
        again = await _viewer(parts, resume_handle=handle)
        started = again.events[0].started
        assert started.resumed == "conversation"
        assert started.conversation == "talk", "the handle tells which conversation it was"
        assert started.resume_handle != handle


async def test_handles_of_other_gateways_continue_the_conversation() -> None:
    async with running(FakeWorker()) as parts:
        viewer = await _viewer(parts, resume_handle="bm9wZQ.whatever")
        assert viewer.events[0].started.resumed == "conversation"
        assert viewer.events[0].started.conversation == "nope"
        strange = await _viewer(parts, resume_handle="\x00.~")
        assert strange.events[0].started.resumed == ""
        known = await _viewer(parts, conversation="talk")
        assert known.events[0].started.resumed == "conversation"
    assert conversation_of("") == conversation_of("...") == conversation_of("é") == ""


async def test_a_viewer_who_only_listens_on_hears_the_end() -> None:
    worker = FakeWorker()
    worker.pause_after = 1
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        await viewer.call.done_writing()
        await worker.paused.wait()
        worker.go_on.set()
        await viewer.until("answer_done")
        assert await viewer.read() is None
        assert await viewer.call.code() is grpc.StatusCode.OK


async def test_one_viewer_too_many_is_refused_unless_another_has_left() -> None:
    async with running(FakeWorker(), max_viewers=2) as parts:
        first = await _viewer(parts)
        await _viewer(parts)
        with pytest.raises(AssertionError, match="RESOURCE_EXHAUSTED"):
            await _refused(parts)
        first.call.cancel()
        await eventually(lambda: parts.sessions.all()[0].viewers == 1)
        await _viewer(parts)


async def _refused(parts: Parts) -> None:
    try:
        await _viewer(parts)
    except grpc.aio.AioRpcError as error:
        raise AssertionError(error.code().name) from None


async def test_deleting_a_session_sends_its_viewers_away() -> None:
    worker = FakeWorker()
    worker.pause_after = 1
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        await worker.paused.wait()
        parts.sessions.delete(parts.sessions.all()[0], "requested")
        away = (await viewer.until("go_away")).go_away
        assert away.reason == "session_deleted"
        assert await viewer.read() is None
        await eventually(lambda: worker.cancelled_answers == 1)


async def test_draining_sends_viewers_to_another_gateway() -> None:
    async with running(FakeWorker()) as parts:
        viewer = await _viewer(parts)
        closing = asyncio.create_task(parts.viewers.aclose())
        away = (await viewer.until("go_away")).go_away
        assert away.reason == "draining"
        assert away.reconnect_within_s > 0
        assert await viewer.read() is None
        await closing


async def test_a_drain_lets_answers_end_and_sends_all_others_away_at_once() -> None:
    worker = FakeWorker()
    worker.pause_after = 1
    async with running(worker) as parts:
        asking, idle = await _viewer(parts), await _viewer(parts)
        await asking.ask("what happened")
        await worker.paused.wait()
        draining = asyncio.create_task(parts.viewers.drain())
        assert (await idle.until("go_away")).go_away.reason == "draining"
        await asking.ask("and then?", turn="t2")
        error = (await asking.until("error")).error
        assert (error.turn, error.code) == ("t2", "UNAVAILABLE")
        assert not draining.done()
        worker.go_on.set()
        done = (await asking.until("answer_done")).answer_done
        assert done.text == asking.texts() == ANSWER
        await asyncio.wait_for(draining, 10)
        closing = asyncio.create_task(parts.viewers.aclose())
        assert (await asking.until("go_away")).go_away.reason == "draining"
        await closing


async def test_a_drain_waits_for_one_shot_questions_also_after_others_have_ended() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(seen=True)
        request = pb.AskRequest(session=session.id, question=pb.Question(text="what"))
        assert (await parts.stub.Ask(request)).answer.text == ANSWER
        worker.pause_after = 1
        asking = asyncio.create_task(_asked(parts, request))
        await worker.paused.wait()
        draining = asyncio.create_task(parts.viewers.asks.drain())
        with pytest.raises(grpc.aio.AioRpcError, match="draining"):
            await parts.stub.Ask(request)
        assert not draining.done()
        worker.go_on.set()
        assert (await asking).answer.text == ANSWER
        await asyncio.wait_for(draining, 10)


async def _asked(parts: Parts, request: pb.AskRequest) -> pb.AskResponse:
    return await parts.stub.Ask(request)


async def test_a_viewer_who_does_not_read_is_cut_off_and_holds_nothing() -> None:
    worker = FakeWorker()
    worker.answer = " ".join(["word" * 50] * 400)
    async with running(worker, pending_events=16, max_questions=8) as parts:
        session = await parts.push_session(seen=True)
        other = await _viewer(parts)
        reads = asyncio.Event()
        sent: list[pb.ServerEvent] = []

        async def send(event: pb.ServerEvent) -> None:
            sent.append(event)
            if len(sent) > 3:
                await reads.wait()

        async def incoming() -> Any:
            yield pb.ClientEvent(start=pb.Start(session=session.id))
            yield pb.ClientEvent(ask=pb.Question(turn="t1", text="what happened"))
            await asyncio.Event().wait()

        serving = asyncio.create_task(parts.viewers.serve(incoming(), send))
        await eventually(lambda: worker.cancelled_answers == 1)
        reads.set()
        await serving
        assert sent[-1].go_away.reason == "slow_reader"
        assert len(sent) < 30
        worker.answer = ANSWER
        await other.ask("what happened")
        assert (await other.until("answer_done")).answer_done.text == ANSWER


async def test_a_stream_nobody_reads_does_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converse, "SEND_TIMEOUT_S", 0.2)
    worker = FakeWorker()
    worker.answer = " ".join(["word" * 20_000] * 60)
    async with running(worker, replay_bytes=1 << 20) as parts:
        viewer = await _viewer(parts)
        await viewer.ask("what happened")
        session = parts.sessions.all()[0]
        await eventually(lambda: session.viewers == 0)
        assert parts.viewers.all()[0].detached_s is not None
        await eventually(lambda: parts.viewers.all()[0].closed)
        parts.sessions.tick(0.0)
        assert not parts.viewers.all()
        other = await _viewer(parts)
        worker.answer = ANSWER
        await other.ask("what happened")
        await other.until("answer_done")


async def test_a_connection_that_breaks_both_ways_at_once_is_no_error_of_ours() -> None:
    """What is never asked for, asyncio reports when it is collected."""
    reported: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(seen=True)
        broken = asyncio.Event()

        async def send(event: pb.ServerEvent) -> None:
            await broken.wait()
            raise ConnectionError("sending")

        async def incoming() -> Any:
            yield pb.ClientEvent(start=pb.Start(session=session.id))
            await broken.wait()
            raise ConnectionError("receiving")

        serving = asyncio.create_task(parts.viewers.serve(incoming(), send))
        await eventually(lambda: len(broken._waiters) == 2)
        broken.set()
        await asyncio.wait({serving})
        assert isinstance(serving.exception(), ConnectionError)
        del serving
        gc.collect()
    assert not reported


async def test_a_draining_gateway_takes_nobody() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(seen=True)
        await parts.viewers.aclose()
        with pytest.raises(grpc.aio.AioRpcError, match="draining"):
            await Viewer(parts, session.id).begin()


# --- state and watches ------------------------------------------------------------------------


async def test_the_session_state_comes_every_second_and_on_changes() -> None:
    async with running(FakeWorker()) as parts:
        viewer = await _viewer(parts)
        session = parts.sessions.all()[0]
        parts.sessions.tick(1.0)
        state = (await viewer.until("session_state")).session_state
        assert state.state == pb.SESSION_STATE_WAITING
        assert not state.key
        session.admit("rtmp").sink.take(picture(0))
        await eventually(lambda: session.state == LIVE)
        state = (await viewer.until("session_state")).session_state
        assert state.state == pb.SESSION_STATE_LIVE


async def test_viewers_hear_how_the_pictures_are_and_whoever_comes_later_too() -> None:
    async with running(FakeWorker(), covered_s=2) as parts:
        viewer = await _viewer(parts)
        session = parts.sessions.all()[0]
        publisher = session.admit("rtmp")
        publisher.sink.take(picture(0))
        await eventually(lambda: session.state == LIVE)
        parts.sessions.tick(1.0)
        assert session.message().source_health.condition == pb.SOURCE_CONDITION_FINE
        for number in range(100, 104):  # grey all over
            publisher.sink.take(picture(number))
        parts.sessions.tick(2.0)
        health = (await viewer.until("source_health")).source_health
        assert health.condition == pb.SOURCE_CONDITION_COVERED
        assert time.time_ns() - health.since_ns < 60e9
        later = Viewer(parts, session.id)
        session_then = (await later.begin()).session
        assert session_then.source_health == health
        publisher.leave("publisher_left")
        for each in (viewer, later):
            health = (await each.until("source_health")).source_health
            assert health.condition == pb.SOURCE_CONDITION_DEAD
        told = metrics.SOURCE_HEALTH_EVENTS.labels("covered")._value.get()
        parts.sessions.tick(3.0)
        assert metrics.SOURCES.labels("dead")._value.get() == 1
        assert metrics.SOURCE_HEALTH_EVENTS.labels("covered")._value.get() == told >= 1
        assert viewer.kinds().count("source_health") == 2  # that it began well is no news


async def test_a_watch_fires_once_per_change_also_across_a_worker_that_was_away() -> None:
    worker = FakeWorker()
    watch = pb.Watch(watch="w1", condition="a cat is there", debounce_s=0.5)
    async with running(worker) as parts:
        viewer = await _viewer(parts)
        await viewer.send(watch=watch)
        await viewer.send(watch=watch)  # the same again changes nothing
        worker.watch_events.put_nowait(pb.WatchEvent(active=True, score=0.9))
        event = (await viewer.until("watch_event")).watch_event
        assert (event.watch, event.condition, event.active) == ("w1", "a cat is there", True)
        status = pb.WatchStatus(watch="w1", active=True, score=0.7, unknown_words=["cat"])
        worker.watch_events.put_nowait(pb.WatchEvent(status=status))  # of no change
        assert (await viewer.until("watch_status")).watch_status == status
        assert viewer.kinds().count("watch_event") == 1
        worker.watch_events.put_nowait(grpc.StatusCode.UNAVAILABLE)
        worker.watch_events.put_nowait(pb.WatchEvent(active=True, score=0.8))
        worker.watch_events.put_nowait(pb.WatchEvent(active=False, score=0.1))
        assert not (await viewer.until("watch_event")).watch_event.active
        first, second = worker.watched
        assert first.watch == second.watch == watch
        assert (first.active, second.active) == (False, True), "it goes on from what was told"
        assert first.status
        assert second.status
        await viewer.send(unwatch=pb.Unwatch(watch="w1"))
        await viewer.send(unwatch=pb.Unwatch(watch="w1"))
        assert (await viewer.until("error")).error.watch == "w1"


async def test_watches_are_bounded_and_refusals_are_told() -> None:
    worker = FakeWorker()
    worker.failures["WatchSession"] = [grpc.StatusCode.RESOURCE_EXHAUSTED]
    async with running(worker, max_watches=1) as parts:
        viewer = await _viewer(parts)
        await viewer.send(watch=pb.Watch(watch="w1", condition="a cat"))
        error = (await viewer.until("error")).error
        assert (error.watch, error.code) == ("w1", "RESOURCE_EXHAUSTED")
        await viewer.send(watch=pb.Watch(watch="w2", condition="a cat"))
        await viewer.send(watch=pb.Watch(watch="w3", condition="a dog"))
        error = (await viewer.until("error")).error
        assert (error.watch, error.code) == ("w3", "RESOURCE_EXHAUSTED")


# --- what was seen ----------------------------------------------------------------------------


async def test_before_a_picture_there_is_no_answer() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(name="cam")
        viewer = await _viewer(parts)
        await viewer.ask("how many are there")
        error = (await viewer.until("error")).error
        assert (error.turn, error.code) == ("t1", "FAILED_PRECONDITION")
        assert error.message == "no frame has been understood yet"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await parts.stub.Ask(pb.AskRequest(session="cam", question=pb.Question(text="what")))
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert not worker.asked
        session.admit("test")  # somebody begins to publish: a frame is on its way, the worker waits
        await viewer.ask("how many are there", turn="t2")
        assert (await viewer.until("answer_done")).answer_done.text == ANSWER


async def test_answers_tell_how_old_their_newest_frame_is() -> None:
    """Since it was sampled, whatever clock its publisher wrote into it."""
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session()
        with session.admit("test") as publisher:
            publisher.sink.take(picture(6))
            await eventually(lambda: session.counts.processed == 1)
        # From now on it only gets older.
        viewer = await _viewer(parts)
        worker.pause_after = 1
        await viewer.ask("what is there")
        await worker.paused.wait()
        (kept,) = session.feed.window._kept
        began_ms = 1000 * (time.monotonic() - kept.sampled_s)
        await asyncio.sleep(0.2)  # words to come make the frame no older,
        session.feed.window._kept.clear()  # even if it leaves the window meanwhile
        worker.go_on.set()
        first = (await viewer.until("answer_done")).answer_done
        assert (first.frames_seen, first.last_capture_ns) == (1, 7_000_000_000)
        assert 0 < first.newest_frame_age_ms < began_ms + 100
        worker.pause_after = None
        session.feed.window._kept.append(kept)
        await viewer.ask("what is there", turn="t2")
        second = (await viewer.until("answer_done")).answer_done
        assert second.newest_frame_age_ms > first.newest_frame_age_ms + 100


# --- one-shot ---------------------------------------------------------------------------------


async def test_ask_gives_the_whole_answer() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(seen=True, name="cam")
        question = pb.Question(text="what happened")
        reply = await parts.stub.Ask(
            pb.AskRequest(session="cam", conversation="talk", question=question)
        )
        assert reply.answer.text == ANSWER
        assert reply.answer.turn
        assert reply.conversation == worker.asked[0].conversation == "talk"
        assert worker.asked[0].session_id == session.id
        new = await parts.stub.Ask(pb.AskRequest(session="cam", question=question))
        assert new.conversation not in ("", "talk")


async def test_ask_is_bounded_and_refuses_what_is_wrong() -> None:
    worker = FakeWorker()
    worker.pause_after = 0
    async with running(worker, max_asks=1) as parts:
        await parts.push_session(seen=True, name="cam")
        cases = [
            ("none", "what", grpc.StatusCode.NOT_FOUND),
            ("cam", "", grpc.StatusCode.INVALID_ARGUMENT),
            ("cam", "x" * 1_000_000, grpc.StatusCode.INVALID_ARGUMENT),
        ]
        for name, text, code in cases:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await parts.stub.Ask(
                    pb.AskRequest(session=name, question=pb.Question(text=text)), timeout=10
                )
            assert caught.value.code() is code
        first = parts.stub.Ask(pb.AskRequest(session="cam", question=pb.Question(text="what")))
        await worker.paused.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await parts.stub.Ask(pb.AskRequest(session="cam", question=pb.Question(text="what")))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()
        await eventually(lambda: worker.cancelled_answers == 1)
