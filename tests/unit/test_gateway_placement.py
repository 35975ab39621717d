"""Sessions that move: to another worker when theirs dies, drains, hangs or has no room."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.gateway import metrics
from services.gateway.sessions.session import Session
from services.gateway.sessions.states import LIVE
from services.gateway.workers import worker
from services.gateway.workers import workers as following
from services.gateway.workers.lookup import Found
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_worker import ANSWER, WINDOW, FakeWorker
from tests.unit.gateway_parts import SECOND_NS, Parts, picture, running


def _captured(worker: FakeWorker, session: Session) -> list[int]:
    """Seconds of the frames that the worker understood."""
    return [frame.capture_ns // SECOND_NS - 1 for frame in worker.frames.get(session.id, [])]


def _of(session: Session) -> str:
    """The address of the session's worker."""
    return session.feed.placement.worker.address


async def _push(session: Session, *numbers: int) -> None:
    """Frames one by one, as a live source's."""
    sink = session._publisher.sink if session._publisher else session.admit("rtmp").sink
    for number in numbers:
        before = session.counts.processed
        sink.take(picture(number))
        await eventually(lambda before=before: session.counts.processed == before + 1)


@asynccontextmanager
async def two_workers(
    first: FakeWorker, second: FakeWorker, frames: int = 10, **settings: Any
) -> AsyncIterator[tuple[Parts, Session]]:
    """A session on `first`, which has been shown `frames`; `second` stands ready."""
    second.busy_sessions = 1  # so that the first is emptier
    async with running(first, second, **settings) as parts:
        await eventually(lambda: all(worker.answering for worker in parts.workers.all()))
        session = await parts.push_session(fps=1, name="cam")
        assert _of(session) == first.address
        await _push(session, *range(frames))
        yield parts, session


async def _ask(parts: Parts) -> pb.AnswerDone:
    question = pb.Question(text="what happened")
    reply = await parts.stub.Ask(pb.AskRequest(session="cam", question=question), timeout=20)
    return reply.answer


async def _until(call: Any, kind: str) -> pb.ServerEvent:
    """The next event of this kind on a line."""
    while (event := await asyncio.wait_for(call.read(), 20)).WhichOneof("event") != kind:
        pass
    return event


async def test_a_session_goes_on_elsewhere_when_its_worker_dies() -> None:
    first, second = FakeWorker(), FakeWorker()
    moved = metrics.SESSIONS_MOVED._value.get()
    async with two_workers(first, second) as (parts, session):
        await first.stop()
        await eventually(lambda: _of(session) == second.address and session.feed.connected)
        await _push(session, 10)
        assert _captured(second, session) == [*range(10 - WINDOW, 10), 10]
        assert [f.replayed for f in second.frames[session.id]] == [True] * WINDOW + [False]
        assert second.opened[-1][0].replays == WINDOW
        assert session.message().worker == "worker 2"
        assert session.counts.processed == 11, "what comes again counts once"
        assert (await _ask(parts)).text == ANSWER
        assert metrics.SESSIONS_MOVED._value.get() == moved + 1
        assert session.state == LIVE


async def test_a_session_leaves_a_worker_that_drains_before_it_ends() -> None:
    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second) as (parts, session):
        broken = metrics.WORKER_STREAMS_BROKEN._value.get()
        first.draining = True
        await eventually(lambda: _of(session) == second.address)
        await _push(session, 10)
        assert _captured(second, session) == [*range(10 - WINDOW, 10), 10]
        assert not session.message().stats.dropped
        assert not session.message().stats.degraded
        assert metrics.WORKER_STREAMS_BROKEN._value.get() == broken
        assert not first.released, "answers may be under way there"
        assert (await _ask(parts)).text == ANSWER
        assert second.asked
        assert not first.asked


async def test_frames_in_flight_when_a_session_moves_are_not_lost() -> None:
    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second, frames=2) as (_, session):
        first.understanding.clear()
        for number in range(2, 5):
            session._publisher.sink.take(picture(number))  # type: ignore[union-attr]
        await eventually(lambda: session.feed.window.num_waiting == 3)
        first.draining = True
        await eventually(lambda: session.counts.processed == 5)
        assert _captured(second, session) == list(range(5 - WINDOW, 5)), "the newest window"
        assert not session.message().stats.dropped
        first.understanding.set()


async def test_answers_under_way_end_where_they_began() -> None:
    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second) as (parts, session):
        first.pause_after = 2
        asking = asyncio.create_task(_ask(parts))
        await first.paused.wait()
        first.draining = True
        await eventually(lambda: _of(session) == second.address)
        await _push(session, 10)
        first.go_on.set()
        assert (await asking).text == ANSWER
        assert not second.asked


async def test_a_worker_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "REPORT_PATIENCE_S", 0.2)
    monkeypatch.setattr(worker, "AWAY_S", 0.0)
    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second) as (_, session):
        first.silent = True
        first.understanding.clear()
        await eventually(lambda: _of(session) == second.address)
        await _push(session, 10)
        assert _captured(second, session)[-1] == 10
        first.understanding.set()


PATIENT = {"worker_patience_s": 60.0}  # far longer than any of these tests takes


async def test_a_worker_that_gives_no_sign_at_all_is_left_long_before_patience_ends() -> None:
    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second, **PATIENT) as (_, session):
        began_s = time.monotonic()
        first.silent = first.deaf = True
        first.understanding.clear()
        assert session._publisher
        session._publisher.sink.take(picture(10))
        await eventually(lambda: _of(session) == second.address)
        assert time.monotonic() - began_s < PATIENT["worker_patience_s"] / 2
        first.understanding.set()


@pytest.mark.parametrize("sign", ["reports", "a reply", "acknowledgements"])
async def test_a_worker_that_is_only_busy_keeps_its_sessions(sign: str) -> None:
    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second, **PATIENT) as (_, session):
        assert session._publisher
        first.silent = sign != "reports"
        first.deaf = sign != "a reply"
        asked = first.calls["Describe"]
        if sign != "acknowledgements":
            first.understanding.clear()
            session._publisher.sink.take(picture(10))
        if sign == "a reply":
            await eventually(lambda: first.calls["Describe"] >= asked + 3)
        else:
            for number in range(20, 30):
                if sign == "acknowledgements":
                    await _push(session, number)
                await asyncio.sleep(0.1)
        assert not session.worker.hung.is_set()
        assert _of(session) == first.address
        first.understanding.set()


async def test_a_worker_that_hangs_loses_the_answers_it_began() -> None:
    """Nothing breaks: its calls are open, and nothing comes."""
    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second, worker_patience_s=0.2) as (parts, session):
        first.pause_after = 2
        call = parts.stub.Converse()
        await call.write(pb.ClientEvent(start=pb.Start(session="cam")))
        await call.write(pb.ClientEvent(ask=pb.Question(turn="t1", text="what happened")))
        await first.paused.wait()
        first.answering.clear()
        waiting = asyncio.create_task(_ask(parts))
        await eventually(lambda: len(first.asked) == 2)
        first.silent = True
        first.understanding.clear()
        began_s = time.monotonic()
        assert (await waiting).text == ANSWER
        done = await _until(call, "answer_done")
        assert time.monotonic() - began_s < 5.0, "well before it counts as away"
        assert (done.answer_done.text, done.answer_done.resumed) == (ANSWER, "window")
        assert _of(session) == second.address
        await eventually(lambda: first.cancelled_answers == 1)
        first.understanding.set()
        call.cancel()


async def test_a_worker_that_hangs_is_kept_where_there_is_no_other() -> None:
    worker_ = FakeWorker()
    async with running(worker_, worker_patience_s=0.2) as parts:
        session = await parts.push_session(fps=1, name="cam")
        await _push(session, 0)
        worker_.silent = True
        await eventually(lambda: session.worker.hung.is_set())
        assert not session.moving
        assert (await _ask(parts)).text == ANSWER
        assert await parts.push_session(key="another-key"), "it is slow, not full"


async def test_viewers_see_that_a_session_moves() -> None:
    from grpc import StatusCode

    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second) as (parts, session):
        call = parts.stub.Converse()
        await call.write(pb.ClientEvent(start=pb.Start(session="cam")))
        started = (await _until(call, "started")).started
        assert not started.session.moving
        second.failures["StreamFrames"] = [StatusCode.UNAVAILABLE] * 3
        await first.stop()
        moving = [(await _until(call, "session_state")).session_state.moving]
        while moving[-1] or len(moving) < 2:
            moving.append((await _until(call, "session_state")).session_state.moving)
        assert True in moving
        assert _of(session) == second.address
        call.cancel()


async def test_a_question_waits_no_longer_for_a_worker_than_it_may() -> None:
    import grpc

    worker_ = FakeWorker()
    async with running(worker_, moving_s=0.3) as parts:
        session = await parts.push_session(fps=1, name="cam", seen=True)
        await worker_.stop()
        await eventually(lambda: session.moving)
        began_s = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError, match="restarting") as refused:
            await _ask(parts)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert 0.25 < time.monotonic() - began_s < 10


async def test_a_worker_without_room_on_return_is_left() -> None:
    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second) as (_, session):
        first.full = True
        await first.restart(forget=True)
        await eventually(lambda: _of(session) == second.address and session.feed.connected)
        await _push(session, 10)
        assert _captured(second, session)[-1] == 10


async def test_a_worker_without_room_for_frames_is_left() -> None:
    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second, frames=3) as (_, session):
        first.refuse_frames = True
        session._publisher.sink.take(picture(3))  # type: ignore[union-attr]
        await eventually(lambda: session.counts.processed == 4 or session.counts.dropped)
        await eventually(lambda: _of(session) == second.address)
        await _push(session, 4)
        assert _captured(second, session) == [0, 1, 2, 3, 4]
        assert session.message().stats.degraded == ["worker_full"]


async def test_a_session_that_comes_back_brings_its_state_along() -> None:
    """What its first worker still holds is older than what was shown to the other."""
    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second) as (_, session):
        first.draining = True
        await eventually(lambda: _of(session) == second.address)
        await _push(session, 10, 11)
        first.draining = False
        await eventually(lambda: session.feed.placement._workers.all()[0].is_ready)
        await second.stop()
        await eventually(lambda: _of(session) == first.address and session.feed.connected)
        await _push(session, 12)
        assert first.released == [session.id], "first of all the old state was given up"
        assert _captured(first, session) == [*range(12 - WINDOW, 12), 12]


async def test_a_session_stays_with_a_worker_of_its_own_model() -> None:
    class OtherModel(FakeWorker):
        def description(self):  # type: ignore[no-untyped-def]
            description = super().description()
            description.frame_width = 32
            return description

    first, other = FakeWorker(), OtherModel()
    async with two_workers(first, other) as (_, session):
        await first.stop()
        await eventually(lambda: not session.feed.connected)
        assert not await session.wait_placed(0.2), "nobody is there to wait for"
        await first.start()
        await eventually(lambda: session.feed.connected)
        await _push(session, 10)
        assert _of(session) == first.address
        assert not other.opened


async def test_a_question_waits_while_its_session_moves() -> None:
    first, second = FakeWorker(), FakeWorker()
    second.failures["StreamFrames"] = []
    async with two_workers(first, second) as (parts, session):
        from grpc import StatusCode

        second.failures["StreamFrames"] = [StatusCode.UNAVAILABLE] * 4
        await first.stop()
        await eventually(lambda: not session.feed.connected)
        assert (await _ask(parts)).text == ANSWER
        assert _of(session) == second.address
        assert second.calls["StreamFrames"] == 5


async def test_watches_move_with_their_session() -> None:
    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second) as (parts, session):
        call = parts.stub.Converse()
        await call.write(pb.ClientEvent(start=pb.Start(session="cam")))
        watch = pb.Watch(watch="w", condition="a red circle is there")
        await call.write(pb.ClientEvent(watch=watch))
        await eventually(lambda: first.watched)
        first.watch_events.put_nowait(pb.WatchEvent(active=True))
        assert (await _until(call, "watch_event")).watch_event.active
        first.draining = True
        await eventually(lambda: _of(session) == second.address and second.watched)
        assert second.watched[0].active, "it is told what the viewer was told"
        second.watch_events.put_nowait(pb.WatchEvent(active=True))  # nothing new for the viewer
        second.watch_events.put_nowait(pb.WatchEvent(active=False))
        assert not (await _until(call, "watch_event")).watch_event.active
        call.cancel()


async def test_a_session_s_memory_is_freed_wherever_it_was() -> None:
    first, second = FakeWorker(), FakeWorker()
    async with two_workers(first, second) as (parts, session):
        first.draining = True
        await eventually(lambda: _of(session) == second.address)
        parts.sessions.delete(session, "requested")
        await eventually(lambda: first.released == second.released == [session.id])


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_workers_do_no_frame_is_lost_unsaid(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers die, drain, fill up, forget, come back, and are named or not, while frames are
    pushed."""
    monkeypatch.setattr(worker, "AWAY_S", 0.0)
    chance = random.Random(seed)
    fakes = [FakeWorker(max_sessions=8) for _ in range(3)]
    up = set(range(3))
    async with running(*fakes, ring_frames=256) as parts:
        await eventually(lambda: all(worker.answering for worker in parts.workers.all()))
        session = await parts.push_session(fps=1, name="cam")
        sink = session.admit("rtmp").sink
        for number in range(60):
            sink.take(picture(number))
            await asyncio.sleep(0)
            if number % 5 == 4:
                index = chance.randrange(3)
                fake = fakes[index]
                match chance.choice(["die", "drain", "full", "return", "return", "unnamed"]):
                    case "die" if index in up:
                        await fake.stop()
                        up.discard(index)
                        if chance.random() < 0.5:
                            fake.frames.clear()
                    case "return" if index not in up:
                        fake.draining = fake.full = False
                        await fake.start()
                        up.add(index)
                    case "drain":
                        fake.draining = True
                    case "full":
                        fake.full = True
                    case "unnamed":
                        parts.workers.set(Found(tuple({f.address for f in fakes} - {fake.address})))
        parts.workers.set(Found(tuple(fake.address for fake in fakes)))
        for index, fake in enumerate(fakes):
            fake.draining = fake.full = False
            if index not in up:
                await fake.start()
        await eventually(lambda: session.feed.connected and not session.waiting_frames, 20)
        counts = session.counts.copy()
        assert counts.received == counts.sampled == 60
        assert counts.processed + counts.dropped.total() == 60
        assert set(counts.dropped) <= {"worker_stream_broken"}
        for fake in fakes:  # each saw what it knows of in order, and nothing twice
            seen = _captured(fake, session)
            assert seen == sorted(set(seen))
        assert _captured(next(f for f in fakes if f.address == _of(session)), session)[-1] == 59
        assert (await _ask(parts)).text == ANSWER
