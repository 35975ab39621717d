"""Pools: which workers a session may have, by model or pool, and which of those it gets."""

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from services.gateway import metrics
from services.gateway.sessions.lease import record_of, spec_of
from services.gateway.sessions.session import Session
from services.gateway.workers import workers as following
from services.gateway.workers.choice import TwoChoices
from services.gateway.workers.lookup import Found
from services.gateway.workers.worker import Worker
from sightline.errors import InvalidArgumentError, NotFoundError, UnavailableError
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import inference_pb2 as ipb
from tests.eventually import eventually
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import Parts, picture, running


async def _create(parts: Parts, model: str = "") -> Session:
    return await parts.sessions.create(pb.CreateSessionRequest(push=pb.Push(), model=model))


async def _all_answer(parts: Parts) -> None:
    await eventually(lambda: all(worker.answering for worker in parts.workers.all()))


def _of(session: Session) -> str:
    return session.feed.placement.worker.address


# --- which workers --------------------------------------------------------------------------------


async def test_a_session_is_placed_by_model_or_by_pool() -> None:
    small, large, gold = (
        FakeWorker(model="one", pool="small"),
        FakeWorker(model="two", pool="large"),
        FakeWorker(model="two", pool="gold"),
    )
    large.busy_sessions = 3
    async with running(small, large, gold) as parts:
        await _all_answer(parts)
        assert _of(await _create(parts, "small")) == small.address
        assert _of(await _create(parts, "one")) == small.address
        assert _of(await _create(parts, "gold")) == gold.address
        assert _of(await _create(parts, "large")) == large.address, "though another is emptier"
        assert _of(await _create(parts, "two")) == gold.address, "the emptier of both pools"
        assert (await _create(parts, "gold")).message().model == "two"


async def test_a_name_that_nobody_has_is_refused_and_says_what_there_is() -> None:
    async with running(FakeWorker(model="one", pool="small"), FakeWorker(model="two")) as parts:
        await _all_answer(parts)
        with pytest.raises(NotFoundError) as refused:
            await _create(parts, "three")
        assert refused.value.reason == "MODEL_NOT_FOUND"
        assert refused.value.message == (
            "there is no model or pool 'three': there is one (pool small), two"
        )
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await parts.stub.CreateSession(
                pb.CreateSessionRequest(push=pb.Push(), model="three"), timeout=10
            )
        assert told.value.code() is grpc.StatusCode.NOT_FOUND
        for absurd in ("x" * 257, "one\n"):
            with pytest.raises(InvalidArgumentError):
                await _create(parts, absurd)


async def test_without_a_name_it_is_the_first_that_is_named() -> None:
    first, second = FakeWorker(model="one", max_sessions=1), FakeWorker(model="two")
    async with running(first, second) as parts:
        await _all_answer(parts)
        assert _of(await _create(parts)) == first.address
        await eventually(lambda: not parts.workers.all()[0].has_room)
        with pytest.raises(Exception, match="no room"):  # another model is no substitute
            await _create(parts)
    async with running(FakeWorker(model="one"), second, default_model="two") as parts:
        await _all_answer(parts)
        assert _of(await _create(parts)) == second.address
    first, second = FakeWorker(model="one"), FakeWorker(model="two")
    first.loading = ipb.LoadingState(phase=ipb.LOADING_PHASE_LOADING)
    async with running(first, second) as parts:
        await eventually(lambda: parts.workers.loading())
        await eventually(lambda: parts.workers.descriptions())
        assert _of(await _create(parts)) == second.address, "the first is not ready"
        with pytest.raises(UnavailableError) as refused:
            await _create(parts, "one")
        assert refused.value.reason == "MODEL_LOADING"


async def test_a_pool_that_is_away_is_not_one_that_never_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "FIRST_CONTACT_S", 0.1)
    first, second = FakeWorker(pool="small"), FakeWorker(pool="large")
    async with running(first, second) as parts:
        await _all_answer(parts)
        await second.stop()
        await eventually(lambda: not parts.workers.all()[1].answering)
        with pytest.raises(UnavailableError) as refused:
            await _create(parts, "large")
        assert refused.value.reason == "MODEL_AWAY"


async def test_a_session_waits_for_the_first_word_of_its_pool() -> None:
    first, second = FakeWorker(pool="small"), FakeWorker(pool="large")
    await first.start()
    async with running(second) as parts:
        parts.workers.set(Found((second.address, first.address)))
        assert _of(await _create(parts, "small")) == first.address
    await first.stop()


async def test_a_session_that_named_a_pool_never_leaves_it() -> None:
    first, other, same = FakeWorker(pool="a"), FakeWorker(pool="b"), FakeWorker(pool="a")
    same.busy_sessions = same.max_sessions
    async with running(first, other, same) as parts:
        await _all_answer(parts)
        named = await _create(parts, "a")
        assert _of(named) == first.address
        first.draining = True
        await eventually(lambda: parts.workers.all()[0].is_ending)
        assert _of(await _create(parts, "builtin")) == other.address
        assert not named.feed.placement.is_ending, "that it could leave for another of its pool"
        same.busy_sessions = 0
        await eventually(lambda: _of(named) == same.address)


async def test_a_gateway_that_adopts_a_session_keeps_to_what_it_asked_for() -> None:
    async with running(FakeWorker(pool="a"), FakeWorker(pool="b")) as parts:
        await _all_answer(parts)
        session = await _create(parts, "b")
        assert spec_of(record_of(session)).model == "b"


async def test_the_server_tells_every_model_with_its_pools() -> None:
    workers = (
        FakeWorker(model="one", pool="b", max_sessions=3),
        FakeWorker(model="one", pool="a", max_sessions=2),
        FakeWorker(model="one", pool="a", max_sessions=2),
        FakeWorker(model="two", max_sessions=1),
    )
    async with running(*workers) as parts:
        await _all_answer(parts)
        info = await parts.stub.GetServerInfo(pb.GetServerInfoRequest())
        one, two = info.models
        assert (one.name, one.workers, one.max_sessions, one.free_sessions) == ("one", 3, 7, 7)
        pools = [(each.name, each.workers, each.max_sessions) for each in one.pools]
        assert pools == [("b", 1, 3), ("a", 2, 4)]
        assert (two.name, list(two.pools)) == ("two", [])


# --- which of them --------------------------------------------------------------------------------


def _known(promised: int, **more: Any) -> Any:
    return SimpleNamespace(fullness=(promised / 100, 0.0, 0.0), **more)


def test_of_two_at_random_the_one_with_more_pages_free_is_asked_first() -> None:
    workers = [_known(promised) for promised in range(10)]
    choice = TwoChoices(random.Random(1))
    firsts = Counter(next(choice(workers)).fullness[0] for _ in range(4500))
    assert 0.09 not in firsts, "the fullest is never the better one"
    for place in range(9):  # of 45 pairs, 9 − place have this one as the better
        assert firsts[place / 100] == pytest.approx(4500 * (9 - place) / 45, rel=0.2)
    assert sorted(each.fullness for each in choice(workers)) == [w.fullness for w in workers]
    assert list(choice([])) == []


async def test_pages_count_that_are_promised_and_those_that_are_about_to_be() -> None:
    worker = Worker("unix:/nowhere", "worker 1")
    worker.description = ipb.ModelDescription(window_segments=10, max_sessions=9)
    report = ipb.LoadReport(
        sessions=2,
        max_sessions=9,
        kv_pages_promised=20,
        kv_pages_used=1,
        kv_pages_total=100,
        kv_session_pages=10,
    )
    worker.report(report)
    assert (worker.fullness[0], worker.free_sessions) == (0.2, 7)
    worker.admit("a", 0)
    worker.admit("b", 20)
    worker.admit("c", 5)
    assert (worker.fullness[0], worker.free_sessions) == (0.55, 4)
    worker.admitted("a", taken=True)
    worker.admitted("c", taken=False)
    assert (worker.fullness[0], worker.free_sessions) == (0.5, 5)
    worker.report(report)
    assert worker.fullness[0] == 0.4, "the report shows the first; the second is still asked for"
    worker.admitted("b", taken=True)
    worker.report(report)
    assert worker.fullness[0] == 0.2
    await worker.channel.close()


async def test_a_worker_with_fewer_sessions_and_more_promised_pages_is_fuller() -> None:
    first, second = FakeWorker(), FakeWorker()
    first.pages, second.pages = (70, 100, 10), (40, 100, 10)
    second.busy_sessions = 3
    async with running(first, second) as parts:
        await _all_answer(parts)
        assert _of(await _create(parts)) == second.address


async def test_sessions_that_are_asked_for_at_once_do_not_meet_on_one_worker() -> None:
    first, second = FakeWorker(max_sessions=9), FakeWorker(max_sessions=9)
    first.silent = second.silent = True  # no report shows any of them
    async with running(first, second) as parts:
        await _all_answer(parts)
        sessions = [await _create(parts) for _ in range(6)]
        assert Counter(map(_of, sessions)) == {first.address: 3, second.address: 3}


async def test_what_a_worker_refused_or_lost_is_promised_no_more() -> None:
    worker = FakeWorker()
    worker.silent = True
    async with running(worker) as parts:
        await _all_answer(parts)
        [known] = parts.workers.all()
        worker.full = True
        with pytest.raises(Exception, match="no room"):
            await _create(parts)
        assert known.free_sessions == worker.max_sessions
        worker.full = False
        session = await _create(parts)
        session.admit("rtmp").sink.take(picture(0))
        await eventually(lambda: session.counts.processed == 1)
        assert known.free_sessions == worker.max_sessions - 1


# --- what is told of them -------------------------------------------------------------------------


def _away() -> dict[str, float]:
    [family] = metrics.WORKER_AWAY.collect()
    return {sample.labels["worker"]: sample.value for sample in family.samples}


async def test_a_worker_that_is_away_is_named_until_it_is_back_or_gone() -> None:
    first, second = FakeWorker(), FakeWorker()
    async with running(first, second) as parts:
        await _all_answer(parts)
        assert _away() == {}
        await first.stop()
        await second.stop()
        await eventually(lambda: _away() == {first.address: 1, second.address: 1})
        await first.start()
        await eventually(lambda: _away() == {second.address: 1})
        parts.workers.set(Found((first.address,)))
        await eventually(lambda: _away() == {})


async def test_how_long_no_worker_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert following.Workers().silent_s() == float("inf")
    worker = FakeWorker()
    worker.loading = ipb.LoadingState(phase=ipb.LOADING_PHASE_LOADING)
    async with running(worker) as parts:
        await eventually(lambda: parts.workers.silent_s() < 5)  # one that loads is there
        worker.loading = None
        await _all_answer(parts)
        await worker.stop()
        await eventually(lambda: not parts.workers.all()[0].answering)
        now_s = following.time.monotonic()
        clock = SimpleNamespace(monotonic=lambda: now_s + 60)
        monkeypatch.setattr(following, "time", clock)
        assert 55 < parts.workers.silent_s() < 65
