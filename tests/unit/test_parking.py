"""Idle sessions leave the device's memory and come back bit for bit."""

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference_worker import metrics
from services.inference_worker.engine.jobs import FinishReason, FrameJob, FrameReceipt, Generation
from services.inference_worker.engine.parking import YIELD_S
from services.inference_worker.engine.warm_up import warm_up
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.runner.batch import Run, RunOutput
from sightline.errors import InternalError, NotFoundError, ResourceExhaustedError
from tests.unit.tiny import Bench, Recorder, random_picture, tiny_model

QUESTION = [1, 10, 11, 12, 7]
AFTER_S = 60.0


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


class ClockedBench(Bench):
    """Time passes while the device waits."""

    def __init__(self, model: StreamingModel, clock: Clock, **options: Any) -> None:
        super().__init__(model, clock=clock, **options)
        self.clock = clock

    def run(self) -> None:
        while self.busy:
            self.pass_or_turn(None)

    def run_for(self, seconds: float) -> None:
        """What the device loop does in that time, if steps take none."""
        end_s = self.clock.now_s + seconds
        while self.clock.now_s < end_s:
            self.pass_or_turn(end_s)

    def pass_or_turn(self, end_s: float | None) -> None:
        idle_s = self.core.idle_s(self.clock())
        if self.engine._inbox or idle_s == 0.0:
            self.engine.turn()
        elif idle_s is None or (end_s is not None and self.clock.now_s + idle_s > end_s):
            assert end_s is not None, "work that nobody does"
            self.clock.now_s = end_s
        else:
            self.clock.now_s += idle_s


class Place:
    """A bench with a clock of its own, and room for so many sessions; None: for all."""

    def __init__(
        self,
        room: int | None = None,
        *,
        after_s: float = AFTER_S,
        window: int = 3,
        horizon: int = 4096,
    ) -> None:
        model = tiny_model(window=window, horizon=horizon)
        cost = Bench(model).core.admission.shape().cost(4)
        self.clock = Clock()
        self.bench = ClockedBench(
            model,
            self.clock,
            num_pages=512 if room is None else room * cost + 1,
            park_after_s=after_s,
        )
        self.core, self.cache, self.runner = self.bench.core, self.bench.cache, self.bench.runner
        self.rng = np.random.default_rng(0)
        self.captured = 0
        for gauge in (metrics.PARKED_SESSIONS, metrics.PARKED_BYTES):
            gauge.set(0)  # of the tests before

    def show(self, name: str) -> object:
        """One new frame of a session. Gives its receipt or error."""
        self.captured += 1
        layout = self.bench.model.spec.layout
        frame = FrameJob(
            random_picture(self.rng).tobytes(),
            layout,
            self.captured,
            self.captured,
            self.clock(),
            self.bench.results.append,
        )
        self.bench.engine.submit_frame(name, frame)
        self.bench.run()
        return self.bench.results[-1]

    def ask(self, name: str, max_tokens: int = 1) -> Recorder:
        recorder = self.bench.ask(name, QUESTION, max_tokens=max_tokens)
        self.bench.run()
        return recorder

    def logits(self, name: str) -> torch.Tensor:
        recorder = self.ask(name)
        assert recorder.error is None
        return self.runner.logits[-1]

    def fill(self, *names: str, frames: int = 5) -> "Place":
        """Open sessions one second apart and show each a few frames."""
        for name in names:
            self.clock.now_s += 1
            self.bench.open(name)
            for _ in range(frames):
                self.show(name)
        return self

    def pass_time(self, seconds: float) -> "Place":
        """Turn the device loop for as long as it has something to do without waiting."""
        self.clock.now_s += seconds
        while self.idle_s() == 0.0:
            self.bench.engine.turn()
        self.check()
        return self

    def idle_s(self) -> float | None:
        return self.core.idle_s(self.clock())

    def parked(self) -> list[str]:
        return [name for name, session in self.core.sessions.items() if session.parked is not None]

    def content(self, name: str) -> torch.Tensor:
        return self.runner.save(self.cache.pages(self.core.sessions[name].trunk))

    def check(self) -> None:
        self.cache.check_integrity()
        sessions = self.core.sessions.values()
        for session in sessions:
            assert (session.parked is None) == (session.trunk.parked is None)
            assert session.parked is None or not session.running
        copies = [session.parked for session in sessions if session.parked is not None]
        assert metrics.PARKED_SESSIONS._value.get() == len(copies)
        assert metrics.PARKED_BYTES._value.get() == sum(copy.nbytes for copy in copies)


def counted(counter: object, label: str) -> float:
    return float(counter.labels(label)._value.get())  # type: ignore[attr-defined]


def test_an_idle_session_holds_no_pages_and_no_promise() -> None:
    place = Place().fill("s")
    admissible = place.core.num_admissible()
    parks = counted(metrics.PARKS, "idle")
    assert place.idle_s() == AFTER_S
    place.pass_time(AFTER_S - 1)
    assert place.parked() == []
    place.pass_time(1)
    assert place.parked() == ["s"]
    assert place.cache.pool.num_used == 0
    assert place.cache.pool.num_reserved == 0
    assert place.core.num_admissible() >= admissible
    assert counted(metrics.PARKS, "idle") == parks + 1
    assert metrics.KV_PAGES_USED._value.get() == 0
    assert place.idle_s() is None  # the device sleeps until something comes


def test_pages_and_answers_are_bit_identical_after_a_return() -> None:
    place, other = Place().fill("s"), Place(after_s=0.0).fill("s")
    before = place.content("s")
    pages = place.cache.pages(place.core.sessions["s"].trunk)
    returns = counted(metrics.RETURNS, "returned")
    place.pass_time(AFTER_S)
    place.fill("t")  # takes the pages that were freed
    assert torch.equal(place.logits("s"), other.logits("s"))
    assert place.cache.pages(place.core.sessions["s"].trunk) != pages
    assert torch.equal(place.content("s"), before)
    assert counted(metrics.RETURNS, "returned") == returns + 1
    place.check()


def test_a_frame_brings_a_session_back_and_the_stream_goes_on_as_ever() -> None:
    place, other = Place().fill("s"), Place(after_s=0.0).fill("s")
    for _ in range(4):
        place.pass_time(AFTER_S)
        assert place.parked() == ["s"]
        for each in (place, other):
            assert isinstance(each.show("s"), FrameReceipt)
        assert place.parked() == []
    assert torch.equal(place.logits("s"), other.logits("s"))


def test_without_a_time_nobody_is_ever_parked() -> None:
    place = Place(room=1, after_s=0.0).fill("s")
    assert place.idle_s() is None
    place.pass_time(1e6)
    with pytest.raises(ResourceExhaustedError):
        place.bench.open("t")
    assert place.parked() == []


def test_work_counts_as_activity_and_is_never_parked_under() -> None:
    place = Place().fill("s")
    job = Generation(list(QUESTION), 100, recorder := Recorder())
    place.bench.model.stop_tokens = frozenset()
    place.bench.engine.submit_branch("s", job)
    place.bench.turn()
    place.clock.now_s += 10 * AFTER_S
    for _ in range(5):
        place.bench.turn()
        assert place.parked() == []
    place.bench.run()
    assert recorder.reason == FinishReason.LENGTH
    assert place.idle_s() == AFTER_S  # counted from the end of the answer
    place.pass_time(AFTER_S)
    assert place.parked() == ["s"]


def test_one_session_is_parked_a_turn_the_longest_idle_first() -> None:
    place = Place().fill("a", "b", "c")
    place.clock.now_s += 1
    place.show("a")
    place.clock.now_s += AFTER_S
    order = []
    while place.idle_s() == 0.0:
        place.bench.engine.turn()
        order += [name for name in place.parked() if name not in order]
    assert order == ["b", "c", "a"]


def test_a_return_takes_the_room_of_whoever_is_idle_for_longest() -> None:
    place = Place(room=2).fill("a", "b")
    place.pass_time(AFTER_S)
    place.fill("c", "d")
    assert place.parked() == ["a", "b"]
    place.clock.now_s += YIELD_S
    place.show("c")
    rooms = counted(metrics.PARKS, "room")
    assert isinstance(place.show("a"), FrameReceipt)  # before the time of `d` has come
    assert place.parked() == ["b", "d"]
    place.clock.now_s += YIELD_S
    place.show("a")
    assert place.ask("b").error is None
    assert place.parked() == ["c", "d"]
    assert counted(metrics.PARKS, "room") == rooms + 2
    place.check()


def test_work_that_finds_no_room_is_refused_and_its_session_stays() -> None:
    place = Place(room=1).fill("s")
    before = place.content("s")
    place.pass_time(AFTER_S)
    place.fill("busy")
    place.bench.model.stop_tokens = frozenset()
    running = place.bench.ask("busy", QUESTION, max_tokens=50)
    for _ in range(4):
        place.bench.turn()
    refusals = counted(metrics.RETURNS, "refused")
    refused = place.bench.ask("s", QUESTION)
    results: list[object] = []
    layout = place.bench.model.spec.layout
    frame = FrameJob(bytes(layout.frame_bytes), layout, 9, 9, place.clock(), results.append)
    place.bench.engine.submit_frame("s", frame)
    for _ in range(2):
        place.bench.turn()
    for error in (refused.error, *results):
        assert isinstance(error, ResourceExhaustedError)
        assert "KV memory" in error.message  # what helps
    assert len(results) == 1
    assert counted(metrics.RETURNS, "refused") == refusals + 1
    assert place.parked() == ["s"]
    place.check()
    place.bench.run()
    assert running.reason == FinishReason.LENGTH
    place.pass_time(YIELD_S)
    assert place.ask("s").error is None  # there is room again, and no frame is waited for
    assert torch.equal(place.content("s"), before)
    assert place.parked() == ["busy"]
    place.check()


def test_nobody_is_parked_for_one_that_still_would_not_fit() -> None:
    place = Place(room=2)
    place.bench.open("large", window=10)
    place.pass_time(AFTER_S)
    assert place.parked() == ["large"]
    place.fill("a", "b")
    place.pass_time(YIELD_S)
    place.bench.model.stop_tokens = frozenset()
    running = place.bench.ask("a", QUESTION, max_tokens=50)
    place.bench.turn()
    place.bench.turn()
    asked = place.bench.ask("large", QUESTION)
    for _ in range(5):
        place.bench.turn()
    assert isinstance(asked.error, ResourceExhaustedError)
    assert place.parked() == ["large"]  # and not `b` too, which costs less
    place.bench.run()
    assert running.reason == FinishReason.LENGTH
    place.pass_time(YIELD_S)
    assert place.ask("large").error is None
    assert place.parked() == ["a", "b"]
    place.check()


def test_live_sessions_leave_no_room_for_another() -> None:
    """However long frames keep coming, nobody changes places."""
    place = Place(room=2).fill("a", "b")
    parks = counted(metrics.PARKS, "room")
    for _ in range(20):
        for name in "ab":
            assert isinstance(place.show(name), FrameReceipt)
        with pytest.raises(ResourceExhaustedError, match="no room in the KV pool"):
            place.bench.open("c")
        assert place.core.num_admissible() == 0
        place.clock.now_s += 1
    assert place.parked() == []
    assert counted(metrics.PARKS, "room") == parks
    place.check()


def test_a_new_session_takes_the_room_of_one_that_is_idle_for_seconds() -> None:
    place = Place(room=1).fill("s")
    place.pass_time(2)
    assert place.core.num_admissible() == 0
    with pytest.raises(ResourceExhaustedError):
        place.bench.open("t")
    assert place.parked() == []
    place.pass_time(5)
    assert place.core.num_admissible() == 1
    place.bench.open("t")
    assert place.parked() == ["s"]
    assert place.core.num_admissible() == 0
    place.check()


def test_closing_and_cancelling_while_parked() -> None:
    place = Place().fill("s", "t")
    job = Generation(list(QUESTION), 1, recorder := Recorder())
    place.bench.engine.submit_branch("s", job)
    place.bench.run()
    place.pass_time(AFTER_S)
    assert place.parked() == ["s", "t"]
    place.bench.engine.cancel(job)  # it ended long ago
    closing = place.bench.engine.close_session("s")
    place.bench.run()
    assert closing.result(timeout=0) is True
    assert recorder.score is None
    assert isinstance(place.ask("s").error, NotFoundError)
    place.check()
    place.core.end_session("t", InternalError("gone"))
    place.check()
    assert not place.core.sessions
    assert place.cache.pool.num_used == 0
    assert place.cache.pool.num_reserved == 0
    place.bench.open("s")  # the name is free
    assert place.parked() == []


def test_a_rebase_that_is_due_waits_for_the_return() -> None:
    """Frames and parks in turn, with a horizon that is met again and again."""
    parking, steady = Place(horizon=20), Place(horizon=20, after_s=0.0)
    num_due = 0
    for place in (parking, steady):
        place.bench.open("s")
    for _ in range(30):
        for place in (parking, steady):
            place.show("s")
        session = parking.core.sessions["s"]
        due = session.rebase_due  # by the step that just ran
        parking.core._parking._park(session, "idle")
        for place in (parking, steady):
            place.core.prepare()
        assert session.rebase_due == due
        num_due += due
        assert torch.equal(parking.logits("s"), steady.logits("s"))
        assert not session.rebase_due
    assert num_due > 2
    assert session.trunk.cursor <= 21


def test_a_device_that_fails_to_park_or_to_restore_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place().fill("s")
    expected = place.logits("s")

    def failing(*_: object) -> None:
        raise RuntimeError("a fault on the device")

    with monkeypatch.context() as broken:
        broken.setattr(place.runner, "save", failing)
        place.clock.now_s += AFTER_S
        place.bench.engine.turn()
    assert place.parked() == []
    assert place.idle_s() == AFTER_S  # it is tried again, but not at once
    place.pass_time(AFTER_S)
    assert place.parked() == ["s"]
    with monkeypatch.context() as broken:
        broken.setattr(place.runner, "restore", failing)
        assert isinstance(place.ask("s").error, RuntimeError)
    assert place.parked() == ["s"]
    place.check()
    assert torch.equal(place.logits("s"), expected)


def test_nobody_is_parked_while_the_engine_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up gives its sessions work behind the back of the commands, and may be slow."""
    place = Place(room=2)
    execute = place.runner.execute

    def slow(runs: list[Run]) -> list[RunOutput | None]:
        place.clock.now_s += 2 * AFTER_S
        return execute(runs)

    monkeypatch.setattr(place.runner, "execute", slow)
    parks = [counted(metrics.PARKS, reason) for reason in ("idle", "room")]
    warm_up(place.core)
    assert [counted(metrics.PARKS, reason) for reason in ("idle", "room")] == parks
    assert not place.core.sessions
    place.check()


def test_the_thread_wakes_by_itself_to_park() -> None:
    bench = Bench(tiny_model(), park_after_s=0.05, clock=time.monotonic)
    parked = threading.Event()
    save = bench.runner.save

    def saving(pages: list[int]) -> torch.Tensor:
        parked.set()
        return save(pages)

    bench.runner.save = saving  # type: ignore[method-assign]
    bench.engine.start().result(timeout=60)
    assert not parked.is_set()  # not while warming up
    bench.engine.open_session("s").result(timeout=10)
    assert parked.wait(10)
    bench.engine.stop()
    assert bench.cache.pool.num_used == 0
    assert bench.cache.pool.num_reserved == 0


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_order_of_work_and_time_keeps_the_accounts_and_loses_no_work(
    data: st.DataObject,
) -> None:
    """Frames, questions, cancels, closings and pauses of sessions that do not fit together."""
    names = "abcd"
    place = Place(room=data.draw(st.integers(1, 3)))
    bench, core = place.bench, place.core
    sent = 0
    asked: list[tuple[Generation, Recorder]] = []
    for name in names:
        bench.open(name)
        place.pass_time(YIELD_S)
    for _ in range(data.draw(st.integers(10, 60))):
        name = data.draw(st.sampled_from(names))
        match data.draw(st.sampled_from(["frame", "frame", "ask", "cancel", "reopen", "pass"])):
            case "frame":
                sent += 1
                bench.push(name, random_picture(place.rng), sent)
            case "ask":
                job = Generation(list(QUESTION), data.draw(st.integers(1, 20)), sink := Recorder())
                bench.engine.submit_branch(name, job)
                asked.append((job, sink))
            case "cancel" if asked:
                bench.engine.cancel(data.draw(st.sampled_from(asked))[0])
            case "reopen":
                bench.engine.close_session(name)
                bench.engine.open_session(name)
            case "pass":
                bench.run_for(data.draw(st.sampled_from([0.01, 0.1, 1.0, AFTER_S])))
        for _ in range(data.draw(st.integers(0, 4))):
            bench.turn()
        place.check()
    bench.run_for(60)
    place.check()
    assert all(session.idle for session in core.sessions.values())
    assert all(sink.ended for _, sink in asked)
    assert len(bench.results) == sent


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_sessions_that_come_and_go_answer_as_if_alone(data: st.DataObject) -> None:
    """Three sessions in room for one or two, one after the other in any order."""
    place = Place(room=data.draw(st.integers(1, 2)))
    steady = Place(after_s=0.0)
    names = ["a", "b", "c"]
    for name in names:
        place.pass_time(YIELD_S)
        place.bench.open(name)
        steady.bench.open(name)
    for _ in range(data.draw(st.integers(5, 20))):
        place.pass_time(YIELD_S)  # nobody is live
        name = data.draw(st.sampled_from(names))
        action = data.draw(st.sampled_from(["show", "show", "ask", "pass"]))
        if action == "show":
            for each in (place, steady):
                assert isinstance(each.show(name), FrameReceipt)
        elif action == "ask":
            assert torch.equal(place.logits(name), steady.logits(name))
        else:
            place.pass_time(data.draw(st.sampled_from([1.0, AFTER_S])))
        place.check()
