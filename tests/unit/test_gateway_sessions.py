"""Sessions: placement, frames with credit, broken worker streams, publishers, and their end."""

import asyncio
import dataclasses
import gc
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from services.gateway import metrics
from services.gateway.config import GatewayConfig
from services.gateway.frames.pace import Pace
from services.gateway.sessions import session as session_module
from services.gateway.sessions.arrivals import STALL_S
from services.gateway.sessions.key_gate import KeyGate
from services.gateway.sessions.memory_trimmer import MemoryTrimmer
from services.gateway.sessions.session import Session
from services.gateway.sessions.session_spec import SessionSpec
from services.gateway.sessions.states import ENDED, LIVE, STALLED, WAITING
from services.gateway.sources.source import DecodedFrame
from services.gateway.workers import workers as router
from sightline.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import eventually
from tests.unit.fake_worker import QUEUE, WINDOW, FakeWorker
from tests.unit.gateway_parts import KEY, SECOND_NS, picture, running


def _captured(worker: FakeWorker, session_id: str) -> list[int]:
    """Seconds of the frames that the worker understood."""
    return [frame.capture_ns // SECOND_NS - 1 for frame in worker.frames.get(session_id, [])]


# --- placement ------------------------------------------------------------------------------------


async def test_sessions_go_to_the_emptiest_worker() -> None:
    busy, idle = FakeWorker(max_sessions=16), FakeWorker(max_sessions=16)
    busy.busy_sessions = 12
    async with running(busy, idle) as parts:
        await eventually(lambda: all(worker.answering for worker in parts.workers.all()))
        sessions = [await parts.push_session(key=f"key-{n:05}") for n in range(3)]
        assert {session.feed.placement.worker.address for session in sessions} == {idle.address}
        assert (len(busy.frames), len(idle.frames)) == (0, 3)
        idle.busy_sessions = 12
        await eventually(lambda: parts.workers.all()[1].load.sessions == 15)
        fourth = await parts.push_session(key="key-of-the-fourth")
        assert fourth.feed.placement.worker.address == busy.address


async def test_a_worker_that_refuses_makes_room_for_another() -> None:
    full, spare = FakeWorker(), FakeWorker(max_sessions=1)
    full.full = True
    async with running(full, spare) as parts:
        await eventually(lambda: all(worker.answering for worker in parts.workers.all()))
        session = await parts.push_session()
        assert session.feed.placement.worker.address == spare.address
        with pytest.raises(ResourceExhaustedError):
            await parts.push_session(key="another-key")


async def test_full_draining_and_absent_workers_are_told_apart() -> None:
    worker = FakeWorker(max_sessions=1)
    async with running(worker) as parts:
        await parts.push_session()
        await eventually(lambda: not parts.workers.all()[0].free_sessions)
        with pytest.raises(ResourceExhaustedError):
            await parts.push_session(key="another-key")
        worker.draining = True
        await eventually(lambda: parts.workers.all()[0].load.draining)
        with pytest.raises(UnavailableError, match="about to restart"):
            await parts.push_session(key="another-key")
        await worker.stop()
        await eventually(lambda: not parts.workers.all()[0].answering)
        with pytest.raises(UnavailableError, match="restarting"):
            await parts.push_session(key="another-key")


async def test_a_worker_that_falls_silent_counts_as_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "REPORT_PATIENCE_S", 0.2)
    worker = FakeWorker()
    async with running(worker) as parts:
        await eventually(lambda: parts.workers.all()[0].answering)
        worker.silent = True
        await eventually(lambda: not parts.workers.all()[0].answering)
        worker.silent = False
        await eventually(lambda: parts.workers.all()[0].answering)


async def test_the_gateway_has_a_limit_of_its_own() -> None:
    async with running(FakeWorker(), max_sessions=1) as parts:
        await parts.push_session()
        with pytest.raises(ResourceExhaustedError, match="1 sessions"):
            await parts.push_session(key="another-key")


# --- frames -----------------------------------------------------------------------------------


async def test_frames_reach_the_worker_in_order_and_within_its_credit() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1)
        sink = session.admit("rtmp").sink
        worker.understanding.clear()
        for number in range(12):
            sink.take(picture(number))
        await eventually(lambda: session.feed.window.num_waiting == QUEUE)
        worker.understanding.set()
        await eventually(lambda: session.counts.processed == 12)
        assert _captured(worker, session.id) == list(range(12))
        assert worker.most_in_flight <= QUEUE
        assert session.state == LIVE
        assert all(len(frame.pixels) == 16 * 16 * 3 for frame in worker.frames[session.id])
        stats = session.message().stats
        assert (stats.frames_received, stats.frames_sampled, stats.frames_processed) == (12, 12, 12)
        assert 0 < stats.frame_latency_p50_ms <= stats.frame_latency_p95_ms
        assert stats.kv_hit_ratio == 0.75
        assert stats.last_capture_ns == 12 * SECOND_NS
        assert (stats.source_width, stats.source_height) == (32, 32)


async def test_a_frame_s_latency_and_age_begin_at_the_sampler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1)
        earlier = SimpleNamespace(monotonic=lambda: time.monotonic() - 0.25)
        monkeypatch.setattr("services.gateway.frames.sampler.time", earlier)
        before = _share_of_latencies(within_s=0.2)
        session.admit("rtmp").sink.take(picture(0))
        await eventually(lambda: session.counts.processed == 1)
        assert session.message().stats.frame_latency_p50_ms > 245
        assert session.staleness_s(time.monotonic()) > 0.25
        within, total = _share_of_latencies(within_s=0.2)
        assert (within, total) == (before[0], before[1] + 1)


def _share_of_latencies(within_s: float) -> tuple[float, float]:
    """How many frames of live sessions were understood in time, and how many in all."""
    histogram = metrics.FRAME_LATENCY.labels("newest")
    samples = {
        sample.labels["le"]: sample.value
        for sample in histogram.collect()[0].samples
        if sample.name.endswith("_bucket")
    }
    return samples[str(within_s)], samples["+Inf"]


async def test_the_newest_frame_s_age_is_told_by_state() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1)
        session.admit("rtmp").sink.take(picture(0))
        await eventually(lambda: session.counts.processed == 1)
        parts.sessions.tick(time.monotonic() + 3)
        for of in ("p50", "p95", "max"):
            assert 3 <= metrics.FRAME_AGE.labels("live", of)._value.get() < 10
        assert metrics.FRAME_AGE.labels("stalled", "max")._value.get() == 0


async def test_live_frames_drop_the_oldest_and_count_it() -> None:
    worker = FakeWorker()
    async with running(worker, ring_frames=2) as parts:
        session = await parts.push_session(fps=1)
        sink = session.admit("rtmp").sink
        worker.understanding.clear()
        for number in range(3):
            sink.take(picture(number))
            await eventually(lambda n=number: session.feed.window.num_waiting == n + 1)
        for number in range(3, 10):
            sink.take(picture(number))
        worker.understanding.set()
        await eventually(lambda: session.counts.processed == 5)
        assert _captured(worker, session.id) == [0, 1, 2, 8, 9]
        assert dict(session.message().stats.dropped) == {"ring_full": 5}


async def test_a_session_that_is_behind_is_shown_fewer_frames_until_it_is_not() -> None:
    def film(number: int) -> DecodedFrame:
        return dataclasses.replace(picture(0), capture_ns=SECOND_NS * (30 + number) // 30)

    worker = FakeWorker()
    async with running(worker, ring_frames=2) as parts:
        session = await parts.push_session(fps=30)
        sink = session.admit("rtmp").sink
        sink.take(picture(0))
        await eventually(lambda: session.counts.processed == 1)
        now_s = time.monotonic()
        parts.sessions.tick(now_s)
        worker.understanding.clear()
        for number in range(1, 40):
            sink.take(film(number))
        parts.sessions.tick(now_s + 1)
        info = session.message()
        assert (info.fps, info.stats.fps_allowed) == (30, 1)
        assert info.stats.degraded == ["rate_lowered"]
        assert session.waiting_frames <= QUEUE + 1, "of those that waited the newest"
        for number in range(40, 70):
            sink.take(film(number))
        stats = session.message().stats
        assert stats.frames_sampled == stats.frames_received == 70
        assert stats.dropped["rate_lowered"] >= 28
        assert stats.frames_sampled == (
            stats.frames_processed + sum(stats.dropped.values()) + session.waiting_frames
        )

        worker.understanding.set()
        await eventually(lambda: not session.waiting_frames)
        for second in range(2, 1000):  # a busy machine makes frames late, and sessions patient
            sink.take(picture(second + 2))
            await eventually(lambda: not session.waiting_frames)
            parts.sessions.tick(now_s + second)
            if session.message().stats.fps_allowed == 30:
                break
        info = session.message()
        assert info.stats.fps_allowed == 30
        assert not info.stats.degraded


@pytest.mark.parametrize(("fill", "missing"), [("hold", [0, 0, 0, 5, 0]), ("none", [0] * 5)])
async def test_a_worker_is_told_what_it_was_not_sent(fill: str, missing: list[int]) -> None:
    """Also a worker that is shown the frames again."""
    worker = FakeWorker()
    async with running(worker, ring_frames=2, fill=fill) as parts:
        session = await parts.push_session(fps=1)
        sink = session.admit("rtmp").sink
        worker.understanding.clear()
        for number in range(QUEUE):
            sink.take(picture(number))
            await eventually(lambda n=number: session.feed.window.num_waiting == n + 1)
        for number in range(QUEUE, 10):  # of these the ring keeps two
            sink.take(picture(number))
        worker.understanding.set()
        await eventually(lambda: session.counts.processed == 5)
        shown = worker.frames[session.id]
        assert _captured(worker, session.id) == [0, 1, 2, 8, 9]
        assert [frame.missing for frame in shown] == missing
        await worker.restart(forget=True)
        await eventually(lambda: len(worker.frames.get(session.id, [])) == WINDOW)
        assert [frame.missing for frame in worker.frames[session.id]] == missing[-WINDOW:]
        assert session.counts.processed == 5


async def test_lossless_frames_wait_for_room() -> None:
    worker = FakeWorker()
    async with running(worker, ring_frames=2) as parts:
        session = await parts.push_session(fps=1, delivery=pb.DELIVERY_LOSSLESS)
        sink = session.admit("push").sink
        worker.understanding.clear()

        def play() -> None:
            for number in range(20):
                sink.take(picture(number))

        playing = asyncio.create_task(asyncio.to_thread(play))
        await eventually(lambda: session.waiting_frames == QUEUE + 2)
        assert session.credit < 64
        worker.understanding.set()
        await playing
        await eventually(lambda: session.waiting_frames == 0)
        assert _captured(worker, session.id) == list(range(20))
        assert not session.message().stats.dropped


async def test_a_stream_that_broke_goes_on_where_the_worker_is() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1)
        sink = session.admit("rtmp").sink
        for number in range(3):
            sink.take(picture(number))
        await eventually(lambda: session.counts.processed == 3)
        await worker.restart(forget=False)
        await eventually(lambda: len(worker.opened) == 2 and session.feed.connected)
        sink.take(picture(3))
        await eventually(lambda: session.counts.processed == 4)
        assert worker.opened[1][1], "the worker knew the session"
        assert _captured(worker, session.id) == [0, 1, 2, 3]


async def test_a_worker_without_room_for_frames_is_named() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1)
        worker.refuse_frames = True
        session.admit("rtmp").sink.take(picture(0))
        await eventually(lambda: "worker_full" in session.message().stats.degraded)
        worker.refuse_frames = False
        await eventually(lambda: session.feed.connected)
        assert session.message().stats.degraded == ["worker_full"], "for some seconds"


async def test_a_worker_that_forgot_gets_the_newest_window() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1)
        sink = session.admit("rtmp").sink
        for number in range(10):
            sink.take(picture(number))
            await eventually(lambda n=number: session.counts.processed == n + 1)
        await worker.stop()
        await eventually(lambda: not session.feed.connected)
        assert "worker_unavailable" in session.message().stats.degraded
        sink.take(picture(10))
        worker.frames.clear()
        await worker.start()
        await eventually(lambda: session.counts.processed == 11)
        assert _captured(worker, session.id) == list(range(11 - WINDOW, 11)), "the newest window"
        replayed = [frame.replayed for frame in worker.frames[session.id]]
        assert replayed == [True] * (WINDOW - 1) + [False]
        assert session.message().stats.frames_processed == 11, "what comes again counts once"
        assert not session.message().stats.degraded


async def test_frames_in_flight_when_a_worker_forgets_are_sent_again() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1)
        sink = session.admit("rtmp").sink
        sink.take(picture(0))
        await eventually(lambda: session.counts.processed == 1)
        worker.understanding.clear()
        for number in range(1, 4):
            sink.take(picture(number))
        await eventually(lambda: session.feed.window.num_waiting == 3)
        await worker.restart(forget=True)
        worker.understanding.set()
        await eventually(lambda: session.counts.processed == 4)
        assert _captured(worker, session.id) == [0, 1, 2, 3]
        assert not session.message().stats.dropped


async def test_frames_in_flight_when_the_stream_breaks_are_counted_not_repeated() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1)
        sink = session.admit("rtmp").sink
        worker.understanding.clear()
        for number in range(3):
            sink.take(picture(number))
        await eventually(lambda: session.feed.window.num_waiting == 3)
        await worker.restart(forget=False)
        worker.understanding.set()
        await eventually(lambda: session.counts.dropped["worker_stream_broken"] == 3)
        sink.take(picture(3))
        await eventually(lambda: session.counts.processed == 1)


# --- sources that show nothing --------------------------------------------------------------------


async def test_a_source_that_shows_nothing_is_not_live() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(grace_s=60)
        publisher = session.admit("rtmp")
        publisher.sink.take(picture(0))
        await eventually(lambda: session.counts.processed == 1)
        now_s = time.monotonic()
        parts.sessions.tick(now_s)
        assert session.state == LIVE
        parts.sessions.tick(now_s + STALL_S + 1)
        assert session.state == STALLED
        # Its publisher is there all the same, so that nothing ends.
        parts.sessions.tick(now_s + STALL_S + 3600)
        assert session.alive
        publisher.sink.take(picture(1))
        await eventually(lambda: session.state == LIVE)
        publisher.leave("publisher_left")
        assert session.state == STALLED
        parts.sessions.tick(time.monotonic() + 30)
        assert session.alive
        parts.sessions.tick(time.monotonic() + 61)
        assert not session.alive


async def test_a_slow_camera_does_not_stall_between_its_pictures() -> None:
    """Nor is one that is fast waited for longer because it was away once."""
    async with running(FakeWorker()) as parts:
        session = await parts.push_session()
        publisher = session.admit("rtmp")
        now_s = time.monotonic()
        stalled: list[int] = []
        for number, pause_s in enumerate([0, 10, 12, 3, 11, 15, 2, 14]):
            for _ in range(pause_s):
                now_s += 1
                parts.sessions.tick(now_s)
            stalled += [number] * (session.state == STALLED)
            publisher.sink.take(picture(20 * number))
            await eventually(lambda: session.state == LIVE and not session.waiting_frames)
            parts.sessions.tick(now_s)
        assert stalled == [1]  # nobody could know yet
        parts.sessions.tick(now_s + 61)
        assert session.state == STALLED


@pytest.mark.parametrize(
    ("pauses_s", "patience_s"),
    [
        ([], 5),
        ([1, 1, 1], 5),
        ([10], 20),
        ([1, 1, 50, 1], 5),
        ([50, 1], 5),
        ([2, 15, 3, 14], 28),
        ([50, 55, 50], 60),
        ([30, 30, *[1] * 8], 5),
    ],
)
def test_patience_is_that_of_the_usual_pace(pauses_s: list[float], patience_s: float) -> None:
    pace = Pace(5, 60)
    for pause_s in pauses_s:
        pace.paused(pause_s)
    assert pace.patience_s == patience_s


# --- publishers ---------------------------------------------------------------------------------


async def test_a_key_opens_one_session_to_one_publisher() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session()
        gate = KeyGate(parts.sessions, "rtmp")
        with pytest.raises(UnauthenticatedError):
            await gate.accept("wrong-key", "1.2.3.4:5")
        with pytest.raises(UnauthenticatedError):
            await gate.accept("", "1.2.3.4:5")
        await gate.accept(KEY, "1.2.3.4:5")
        with pytest.raises(AlreadyExistsError):
            await KeyGate(parts.sessions, "whip").accept(KEY, "1.2.3.4:6")
        assert session.source_kind == "rtmp"


async def test_a_publisher_that_fell_silent_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever road the next one comes; one that shows pictures stays."""
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1)
        rtmp, whip = KeyGate(parts.sessions, "rtmp"), KeyGate(parts.sessions, "whip")
        evicted: list[str] = []

        def leaving(gate: KeyGate, name: str) -> Callable[[], None]:
            def evict() -> None:
                evicted.append(name)
                asyncio.get_running_loop().call_later(0.05, gate.released, KEY)

            return evict

        sink = await rtmp.accept(KEY, "a", leaving(rtmp, "first"))
        sink.take(picture(0))
        await eventually(lambda: session.state == LIVE)
        parts.sessions.tick(time.monotonic())
        for gate in (rtmp, whip):
            with pytest.raises(AlreadyExistsError):
                await gate.accept(KEY, "b", leaving(gate, "never"))
        assert not evicted
        monkeypatch.setattr(session_module, "SILENT_S", 0.0)
        await rtmp.accept(KEY, "c", leaving(rtmp, "second"))
        await whip.accept(KEY, "d", leaving(whip, "third"))
        assert evicted == ["first", "second"]
        assert session.source_kind == "whip"


async def test_a_publisher_learns_that_its_session_was_deleted() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session()
        gate = KeyGate(parts.sessions, "rtmp")
        sink = await gate.accept(KEY, "a")
        parts.sessions.delete(session, "requested")
        with pytest.raises(InvalidArgumentError, match="deleted"):
            sink.take(picture(0))
        again = await parts.push_session()
        with pytest.raises(AlreadyExistsError):
            await gate.accept(KEY, "b")
        gate.released(KEY)
        await gate.accept(KEY, "b")
        gate.released("other-key")
        with pytest.raises(AlreadyExistsError):
            again.admit("push")


async def test_a_publisher_that_left_may_come_back_within_the_grace_time() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1, grace_s=30)
        gate = KeyGate(parts.sessions, "rtmp")
        assert session.state == WAITING
        sink = await gate.accept(KEY, "a")
        sink.take(picture(0))
        await eventually(lambda: session.state == LIVE)
        sink.ended("publisher_left")
        await eventually(lambda: session.state == STALLED)
        gate.released(KEY)
        parts.sessions.tick(session.since_s + 29)
        assert parts.sessions.all() == [session]
        again = await gate.accept(KEY, "b")
        again.take(picture(1))
        await eventually(lambda: session.state == LIVE)
        assert session.message().stats.frames_received == 2


async def test_whoever_left_before_says_nothing_of_the_next_publisher() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1)
        first = session.admit("rtmp")
        with pytest.raises(AlreadyExistsError, match="rtmp"):
            session.admit("whip")
        first.sink.take(picture(0))
        await eventually(lambda: session.state == LIVE)
        await asyncio.to_thread(first.sink.ended, "publisher_left")  # from its decode thread
        await eventually(lambda: session.state == STALLED)
        with session.admit("whip") as second:
            second.sink.take(picture(1))
            await eventually(lambda: session.state == LIVE)
            first.leave("publisher_left")
            assert session.state == LIVE
            with pytest.raises(AlreadyExistsError, match="whip"):
                session.admit("push")
        assert session.state == STALLED
        session.admit("push").sink.ended("end")
        assert session.state == ENDED, "at once: it was told on the loop"


async def test_a_session_ends_with_its_grace_time() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1, grace_s=30)
        gate = KeyGate(parts.sessions, "rtmp")
        sink = await gate.accept(KEY, "a")
        sink.take(picture(0))
        await eventually(lambda: session.state == LIVE)
        gate.released(KEY)
        assert session.state == STALLED
        parts.sessions.tick(session.since_s + 31)
        assert not parts.sessions.all()
        with pytest.raises(UnauthenticatedError):
            await gate.accept(KEY, "a")
        await eventually(lambda: worker.released == [session.id])


async def test_a_session_nobody_publishes_to_or_looks_at_ends() -> None:
    async with running(FakeWorker(), unpublished_s=60, ended_s=60) as parts:
        waiting = await parts.push_session()
        source = pb.CreateSessionRequest(source="clip.mp4")
        ended = await parts.sessions.create(source)
        watched = await parts.sessions.create(source)
        parts.sources[0].sink.ended("end")
        parts.sources[1].sink.ended("end")
        await eventually(lambda: ended.state == watched.state == ENDED)
        watched.viewers = 1
        parts.sessions.tick(time.monotonic() + 61)
        assert waiting not in parts.sessions.all()
        assert parts.sessions.all() == [watched]


async def test_a_source_that_fails_says_so() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.sessions.create(pb.CreateSessionRequest(source="clip.mp4"))
        parts.sources[0].sink.take(picture(0))
        await eventually(lambda: session.state == LIVE)
        parts.sources[0].sink.ended("error")
        await eventually(lambda: session.state == ENDED)
        assert session.message().stats.degraded == ["source_failed"]
        parts.sessions.delete(session, "requested")
        await eventually(lambda: parts.sources[0].closed)


# --- creating -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        pb.CreateSessionRequest(),
        pb.CreateSessionRequest(source=""),
        pb.CreateSessionRequest(source="x" * 3000),
        pb.CreateSessionRequest(push=pb.Push(key="short")),
        pb.CreateSessionRequest(push=pb.Push(key="with/slash-and-more")),
        pb.CreateSessionRequest(push=pb.Push(), options=pb.SessionOptions(fps=float("nan"))),
        pb.CreateSessionRequest(push=pb.Push(), options=pb.SessionOptions(fps=-1)),
        pb.CreateSessionRequest(push=pb.Push(), options=pb.SessionOptions(fps=1e9)),
        pb.CreateSessionRequest(push=pb.Push(), options=pb.SessionOptions(name="x" * 99)),
        pb.CreateSessionRequest(push=pb.Push(), options=pb.SessionOptions(name="a\nb")),
        pb.CreateSessionRequest(push=pb.Push(), options=pb.SessionOptions(grace_s=-1)),
        pb.CreateSessionRequest(push=pb.Push(), options=pb.SessionOptions(window=100000)),
        pb.CreateSessionRequest(push=pb.Push(), options=pb.SessionOptions(delivery=77)),
    ],
)
async def test_absurd_requests_are_refused(request_: pb.CreateSessionRequest) -> None:
    async with running(FakeWorker()) as parts:
        with pytest.raises(InvalidArgumentError):
            await parts.sessions.create(request_)
        assert not parts.sessions.all()


async def test_a_session_whose_caller_left_before_it_was_made_frees_the_worker() -> None:
    """The worker held its memory for the grace time, for nobody: a place lost for each try."""
    worker = FakeWorker()
    async with running(worker) as parts:
        worker.admitting.clear()
        creating = asyncio.create_task(parts.push_session())
        await eventually(lambda: len(worker.frames) == 1)
        creating.cancel()
        await eventually(lambda: not worker.frames)
        assert len(worker.released) == 1


async def test_a_source_that_cannot_be_opened_frees_the_worker() -> None:
    worker = FakeWorker()
    async with running(worker, open_timeout_s=0.5) as parts:
        await eventually(lambda: parts.workers.all()[0].answering)
        for source in ("missing.mp4", "slow.mp4"):
            with pytest.raises(InvalidArgumentError):
                await parts.sessions.create(pb.CreateSessionRequest(source=source))
        await eventually(lambda: len(worker.released) == 2)
        assert not parts.sessions.all()
        assert not worker.frames


async def test_keys_are_unique_and_told_once() -> None:
    async with running(FakeWorker()) as parts:
        created = await parts.stub.CreateSession(
            pb.CreateSessionRequest(push=pb.Push(), options=pb.SessionOptions(name="cam"))
        )
        assert len(created.key) >= 20
        assert created.rtmp_url == f"rtmp://localhost/live/{created.key}"
        assert created.whip_url == f"http://localhost:8080/whip/{created.key}"
        seen = [
            await parts.stub.GetSession(pb.GetSessionRequest(session=created.id)),
            await parts.stub.GetSession(pb.GetSessionRequest(session="cam")),
            (await parts.stub.ListSessions(pb.ListSessionsRequest())).sessions[0],
        ]
        assert not any(session.key or session.rtmp_url or session.whip_url for session in seen)
        with pytest.raises(AlreadyExistsError):
            await parts.push_session(key=created.key)


async def test_sessions_are_found_by_id_or_a_name_of_their_own() -> None:
    async with running(FakeWorker()) as parts:
        first = await parts.push_session(key="first-key", name="same")
        second = await parts.push_session(key="second-key", name="same")
        third = await parts.push_session(key="third-key", name="other")
        assert parts.sessions.find(first.id) is first
        assert parts.sessions.find("other") is third
        for name in ("same", "missing", ""):
            with pytest.raises(NotFoundError):
                parts.sessions.find(name)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await parts.stub.DeleteSession(pb.DeleteSessionRequest(session="missing"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        await parts.stub.DeleteSession(pb.DeleteSessionRequest(session=second.id))
        assert parts.sessions.find("same") is first


async def test_draining_ends_every_session_and_takes_no_more() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        for number in range(3):
            await parts.push_session(key=f"key-{number:05}")
        await parts.sessions.aclose()
        assert len(worker.released) == 3
        with pytest.raises(UnavailableError):
            await parts.push_session(key="another-key")
        # Whoever comes back for one is not told that it is gone for good, or that its key is wrong.
        with pytest.raises(UnavailableError):
            parts.sessions.find("session-0")
        with pytest.raises(UnavailableError):
            parts.sessions.find_by_key("key-00000")


async def test_rates_are_means_of_the_last_seconds() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1)
        sink = session.admit("rtmp").sink
        parts.sessions.tick(100.0)
        for number in range(10):
            sink.take(picture(number))
        await eventually(lambda: session.counts.processed == 10)
        parts.sessions.tick(102.0)
        stats = session.message().stats
        assert stats.fps_in == pytest.approx(5.0)
        assert stats.fps_processed == pytest.approx(5.0)


async def _first_frame(session: Session) -> None:
    await eventually(lambda: session.counts.processed)


async def _read_all(call: Any) -> list[pb.PushFramesResponse]:
    return [reply async for reply in call]


@pytest.mark.parametrize("road", ["source", "push", "refused push"])
async def test_a_deleted_session_is_freed_without_the_collector(road: str) -> None:
    """Circles of references would keep its pictures until the collector comes by."""
    async with running(FakeWorker()) as parts:
        gc.collect()
        gc.disable()
        try:
            if road == "source":
                request = pb.CreateSessionRequest(source="clip.mp4")
                session = await parts.sessions.create(request)
                parts.sources[0].sink.take(picture(1))
                parts.sources.clear()
            else:
                session = await parts.push_session(fps=1)
                call = parts.stub.PushFrames(timeout=30)
                opening = pb.PushOpen(session=session.id, key=KEY)
                await call.write(pb.PushFramesRequest(open=opening))
                raw = pb.RawPicture(width=4, height=2, data=bytes(24))
                frame = pb.PushFrame(capture_ns=SECOND_NS, rgb=raw)
                await call.write(pb.PushFramesRequest(frame=frame))
            await _first_frame(session)
            if road == "push":
                call.cancel()
            elif road == "refused push":
                bad = pb.PushFrame(capture_ns=2**63 - 1, rgb=raw)
                await call.write(pb.PushFramesRequest(frame=bad))
                with pytest.raises(grpc.aio.AioRpcError, match="later than this server's clock"):
                    await _read_all(call)
            left = [weakref.ref(session), weakref.ref(session.sampler)]
            parts.sessions.delete(session, "requested")
            del session
            await eventually(lambda: not any(reference() for reference in left))
        finally:
            gc.enable()


async def test_an_absurd_capture_time_ends_nothing() -> None:
    """The issue's: frames after it failed in the feed for good."""
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1)
        raw = pb.RawPicture(width=4, height=2, data=bytes(24))
        now_ns = time.time_ns()
        for number, capture_ns in enumerate((1, 2**63 - 1, now_ns, 2**62, now_ns + SECOND_NS)):
            call = parts.stub.PushFrames(timeout=30)
            opening = pb.PushOpen(session=session.id, key=KEY)
            await call.write(pb.PushFramesRequest(open=opening))
            frame = pb.PushFrame(capture_ns=capture_ns, rgb=raw)
            await call.write(pb.PushFramesRequest(frame=frame))
            await call.write(pb.PushFramesRequest(end=pb.PushEnd()))
            if number % 2:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await _read_all(call)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            else:
                assert (await _read_all(call))[-1].understood == 1
        assert session.counts.processed == 3


async def test_what_ended_sessions_left_is_given_back_once_and_later() -> None:
    trimmer = MemoryTrimmer()
    assert not await trimmer.advance(100.0)
    trimmer.noted()
    trimmer.noted()
    assert not await trimmer.advance(101.0)
    assert not await trimmer.advance(110.0)
    assert await trimmer.advance(111.5)
    assert not await trimmer.advance(200.0)


async def test_nobody_sees_the_password_of_a_source() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.sessions.create(pb.CreateSessionRequest(source="clip.mp4"))
        secret = "rtsp://admin:hunter2@cam.lan/live?token=hunter2&channel=1"
        session.spec = dataclasses.replace(session.spec, source=secret)
        found = await parts.stub.GetSession(pb.GetSessionRequest(session=session.id))
        listed = await parts.stub.ListSessions(pb.ListSessionsRequest())
        for message in (found, *listed.sessions, parts.addresses.with_keys(session)):
            assert message.source == "rtsp://***@cam.lan/live?token=***&channel=1"


@pytest.mark.parametrize(
    ("given", "is_meant"),
    [
        ({"push": pb.Push()}, True),  # its publisher begins again
        ({"source": "https://example.com/clip.mp4"}, True),
        ({"source": "RTSP://camera.example.com/1"}, False),  # which `loop` says nothing of
    ],
)
def test_what_loops_on_purpose_is_known(given: dict[str, Any], is_meant: bool) -> None:
    for loop in (True, False):
        request = pb.CreateSessionRequest(**given, options=pb.SessionOptions(loop=loop))
        spec = SessionSpec.of(request, GatewayConfig())
        assert spec.repeats == (loop and is_meant)


async def test_what_loops_on_purpose_is_neither_frozen_nor_repeating() -> None:
    async with running(FakeWorker()) as parts:
        for loop in (False, True):
            session = await parts.push_session(
                name=f"loop {loop}", key=f"key-{loop}-12345", loop=loop
            )
            limits = session._health_limits
            assert (limits.frozen_s > 0, limits.repeating_s > 0) == (not loop, not loop)
            assert limits.dark_s > 0
