"""Idle sessions leave the device's memory and come back bit for bit."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference_worker import metrics
from services.inference_worker.engine.jobs import FinishReason, FrameJob, FrameReceipt, Generation
from services.inference_worker.engine.parking import (
    LOOK_S,
    MOVING_SHARE,
    PATIENCE_S,
    PAUSE_S,
    STAY_S,
    TURN_S,
)
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
            wait_s = self.core.wait_s()
            if self.engine._inbox or wait_s == 0.0:
                self.engine.turn()
            else:
                self.clock.now_s += wait_s or LOOK_S

    def run_for(self, seconds: float) -> None:
        """What the device loop does in that time, if steps take none."""
        end_s = self.clock.now_s + seconds
        while True:
            wait_s = self.core.wait_s()
            if self.engine._inbox or wait_s == 0.0:
                self.engine.turn()
            elif wait_s is None or self.clock.now_s + wait_s > end_s:
                self.clock.now_s = end_s
                return
            else:
                self.clock.now_s += wait_s


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
        cost = Bench(model).core.shape().cost(4)
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

    def show(self, name: str, *, interpolated: bool = False) -> object:
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
            interpolated,
        )
        self.bench.engine.submit_frame(name, frame)
        if interpolated:
            self.bench.engine.turn()
            self.core.open_branches()
        else:
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
        while self.core.wait_s() == 0.0:
            self.bench.engine.turn()
        self.check()
        return self

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
    assert place.core.wait_s() == AFTER_S
    place.pass_time(AFTER_S - 1)
    assert place.parked() == []
    place.pass_time(1)
    assert place.parked() == ["s"]
    assert place.cache.pool.num_used == 0
    assert place.cache.pool.num_reserved == 0
    assert place.core.num_admissible() >= admissible
    assert counted(metrics.PARKS, "idle") == parks + 1
    assert metrics.KV_PAGES_USED._value.get() == 0
    assert place.core.wait_s() is None  # the device sleeps until something comes


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
    assert place.core.wait_s() is None
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
    assert place.core.wait_s() == AFTER_S  # counted from the end of the answer
    place.pass_time(AFTER_S)
    assert place.parked() == ["s"]


def test_one_session_is_parked_a_turn_the_longest_idle_first() -> None:
    place = Place().fill("a", "b", "c")
    place.clock.now_s += 1
    place.show("a")
    place.clock.now_s += AFTER_S
    order = []
    while place.core.wait_s() == 0.0:
        place.bench.engine.turn()
        order += [name for name in place.parked() if name not in order]
    assert order == ["b", "c", "a"]


def test_a_return_takes_the_room_of_whoever_is_idle_for_longest() -> None:
    place = Place(room=2).fill("a", "b")
    place.pass_time(AFTER_S)
    place.fill("c", "d")
    assert place.parked() == ["a", "b"]
    place.clock.now_s += 1
    place.show("c")
    rooms = counted(metrics.PARKS, "room")
    assert isinstance(place.show("a"), FrameReceipt)  # before the time of `d` has come
    assert place.parked() == ["b", "d"]
    place.clock.now_s += 1
    place.show("a")
    assert place.ask("b").error is None
    assert place.parked() == ["c", "d"]
    assert counted(metrics.PARKS, "room") == rooms + 2
    place.check()


def test_work_that_had_no_turn_for_long_is_refused_and_its_session_stays() -> None:
    place = Place(room=1).fill("s")
    before = place.content("s")
    place.pass_time(AFTER_S)
    place.fill("busy")
    place.bench.model.stop_tokens = frozenset()
    running = place.bench.ask("busy", QUESTION, max_tokens=50)
    for _ in range(4):
        place.bench.turn()
    refused = place.bench.ask("s", QUESTION)
    results: list[object] = []
    layout = place.bench.model.spec.layout
    frame = FrameJob(bytes(layout.frame_bytes), layout, 9, 9, place.clock(), results.append)
    place.bench.engine.submit_frame("s", frame)
    refusals = counted(metrics.RETURNS, "refused")
    place.bench.turn()
    assert place.core.wait_s() == 0.0  # the answer goes on
    assert metrics.WAITING_SESSIONS._value.get() == 1
    assert (refused.error, results) == (None, [])
    place.clock.now_s += PATIENCE_S
    place.core.wait_s()
    for error in (refused.error, *results):
        assert isinstance(error, ResourceExhaustedError)
        assert "session s is parked" in error.message
        assert "KV memory" in error.message  # what helps
    assert counted(metrics.RETURNS, "refused") == refusals + 1
    assert place.parked() == ["s"]
    place.check()
    place.bench.run()
    assert metrics.WAITING_SESSIONS._value.get() == 0
    assert running.reason == FinishReason.LENGTH
    assert place.ask("s").error is None  # there is room again, and no frame is waited for
    assert torch.equal(place.content("s"), before)
    assert place.parked() == ["busy"]
    place.check()


def test_nobody_is_parked_before_the_return_can_succeed() -> None:
    place = Place(room=2)
    place.bench.open("large", window=10)
    place.pass_time(AFTER_S)
    assert place.parked() == ["large"]
    place.fill("a", "b")
    place.bench.run_for(STAY_S)
    place.bench.model.stop_tokens = frozenset()
    running = place.bench.ask("a", QUESTION, max_tokens=50)
    place.bench.turn()
    place.bench.turn()
    asked = place.bench.ask("large", QUESTION)
    for _ in range(5):
        place.bench.turn()
    assert place.parked() == ["large"]  # and not `b` too, which costs less
    second = place.bench.ask("a", QUESTION)
    while running.reason is None:
        assert place.core.sessions["a"].leaving
        place.bench.turn()
        assert not second.ended  # it waits until `a` is back
    place.core.wait_s()
    assert place.parked() == ["a", "b"]
    place.bench.run()
    assert asked.reason == second.reason == FinishReason.LENGTH
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


def test_interpolated_frames_need_no_pages() -> None:
    place = Place().fill("s")
    place.pass_time(AFTER_S)
    receipt = place.show("s", interpolated=True)
    assert isinstance(receipt, FrameReceipt)
    assert place.parked() == ["s"]
    place.check()
    recorder = place.ask("s")
    assert recorder.seen is not None
    assert recorder.seen.num_frames == 3
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
            place.core.open_branches()
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
    assert place.core.wait_s() == AFTER_S  # it is tried again, but not at once
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
    place.core.warm_up()
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


class Stage:
    """Live sessions that share a place for too few of them. `moved`: copies of a session's pages
    to host memory and back, and their bytes; each takes `copy_s`. Frames beyond the credit are not
    sent."""

    def __init__(self, names: str, room: int = 1, *, copy_s: float = 0.02, credit: int = 4) -> None:
        self.place = Place(room=room)
        self.credit = credit
        self.live = {name: _Live() for name in names}
        self.moved: list[int] = []
        for name in names:
            self.place.bench.open(name)
            self.place.pass_time(10)
        save, restore = self.place.runner.save, self.place.runner.restore

        def saving(pages: list[int]) -> torch.Tensor:
            copy = save(pages)
            self.moved.append(copy.nbytes)
            self.place.clock.now_s += copy_s
            return copy

        def restoring(pages: list[int], copy: torch.Tensor) -> None:
            self.moved.append(copy.nbytes)
            self.place.clock.now_s += copy_s
            restore(pages, copy)

        self.place.runner.save = saving  # type: ignore[method-assign]
        self.place.runner.restore = restoring  # type: ignore[method-assign]

    def go_on(self, seconds: float, fps: float = 8.0, frames_of: str | None = None) -> None:
        for _ in range(round(seconds * fps)):
            for name in self.live if frames_of is None else frames_of:
                self.send(name)
            self.place.bench.run_for(1 / fps)
            self.place.check()

    def send(self, name: str) -> None:
        live = self.live[name]
        if live.in_flight >= self.credit:
            live.held_back += 1
            return
        live.in_flight += 1
        self.place.captured += 1
        layout, now_s = self.place.bench.model.spec.layout, self.place.clock()
        number = self.place.captured
        pixels = random_picture(self.place.rng).tobytes()
        frame = FrameJob(pixels, layout, number, number, now_s, live.arrived)
        self.place.bench.engine.submit_frame(name, frame)

    def ask(self, name: str) -> tuple[Recorder, float]:
        """A question, and the seconds until its answer, while nobody sends frames."""
        asked_s = self.place.clock()
        recorder = self.place.bench.ask(name, QUESTION, max_tokens=2)
        while not recorder.ended:
            self.place.bench.run_for(LOOK_S / 2)
        return recorder, self.place.clock() - asked_s


@dataclass
class _Live:
    understood: int = 0
    in_flight: int = 0
    held_back: int = 0
    errors: list[Exception] = field(default_factory=list)

    def arrived(self, receipt: FrameReceipt | Exception) -> None:
        self.in_flight -= 1
        if isinstance(receipt, Exception):
            self.errors.append(receipt)
        else:
            self.understood += 1


@pytest.mark.parametrize(("names", "room"), [("ab", 1), ("abc", 1), ("abcd", 3)])
@pytest.mark.parametrize("copy_s", [0.0, 0.05])
def test_live_sessions_that_do_not_fit_together_take_turns(
    names: str, room: int, copy_s: float
) -> None:
    stage = Stage(names, room, copy_s=copy_s)
    started_s = stage.place.clock()
    stage.go_on(16)
    seconds = stage.place.clock() - started_s
    pause_s = min(PAUSE_S, 2 * copy_s / MOVING_SHARE)
    changes = len(stage.moved) / 2  # there and back
    assert changes <= room * (seconds / TURN_S + 1)
    assert changes * pause_s <= seconds + 2 * pause_s
    shares = [live.understood for live in stage.live.values()]
    assert min(shares) > 0.5 * max(shares)
    for live in stage.live.values():
        assert not live.errors
        assert live.understood + live.in_flight + live.held_back == 8 * 16
    assert stage.place.core.num_admissible() == 0


def test_where_moving_costs_little_no_frame_is_held_back() -> None:
    stage = Stage("ab", copy_s=0.005)
    stage.go_on(12)
    assert sum(live.held_back for live in stage.live.values()) == 0
    assert len(stage.moved) < 0.7 * 2 * 2 * 8 * 12  # as many as without turns


def test_where_many_share_one_place_some_are_refused_and_nobody_starves() -> None:
    stage = Stage("abcdefgh", copy_s=0.1)
    stage.go_on(30)
    assert all(live.understood >= 8 for live in stage.live.values())
    errors = [error for live in stage.live.values() for error in live.errors]
    assert errors
    assert all(isinstance(error, ResourceExhaustedError) for error in errors)


def test_a_question_does_not_wait_for_a_turn_to_end() -> None:
    stage = Stage("ab")
    for name in "abab":
        stage.go_on(5)
        recorder, waited_s = stage.ask(name)
        assert recorder.reason is not None
        assert waited_s <= STAY_S + 0.1
    copies = len(stage.moved)
    for _ in range(10):  # one at a time, as fast as answers come
        for name in "ab":
            assert stage.ask(name)[1] <= STAY_S + 0.1
    assert len(stage.moved) - copies <= 2 * 20


@pytest.mark.parametrize("asked", ["a", "ab"])
def test_questions_without_end_leave_turns_to_frames(asked: str) -> None:
    """Of sessions `a` and `b`; `c` has frames alone."""
    stage, seconds = Stage("abc"), 12
    bench = stage.place.bench
    bench.model.stop_tokens = frozenset()
    asking: dict[str, list[Recorder]] = {name: [] for name in asked}
    for _ in range(seconds * 8):
        for name, recorders in asking.items():
            if sum(not recorder.ended for recorder in recorders) < 4:
                recorders.append(bench.ask(name, QUESTION, max_tokens=3))
        stage.go_on(1 / 8)
    assert len(stage.moved) <= 2 * (seconds / (0.04 / MOVING_SHARE) + 1)
    for live in stage.live.values():
        assert live.understood > seconds  # of eight times as many
    for recorders in asking.values():
        assert sum(recorder.reason is not None for recorder in recorders) > 10
        assert not any(recorder.error for recorder in recorders)


def test_a_session_that_pauses_gives_its_place_to_the_next_frame() -> None:
    stage = Stage("ab")
    stage.go_on(5)
    stage.go_on(3, frames_of="a")
    before = stage.live["b"].understood
    assert stage.place.parked() == ["b"]
    stage.place.pass_time(1.5)  # `a` is not live any more
    stage.go_on(0.5, frames_of="b")
    assert stage.live["b"].understood == before + 4
    assert stage.place.parked() == ["a"]


def test_a_new_session_waits_until_those_that_are_open_have_room() -> None:
    stage = Stage("abc", room=2)
    stage.go_on(3)
    with pytest.raises(ResourceExhaustedError, match="take turns"):
        stage.place.core.open_session("d", 1)
    stage.place.pass_time(10)
    assert stage.place.core.num_admissible() > 0
    stage.place.core.open_session("d")
    stage.place.check()


def test_a_waiting_session_can_be_closed_and_its_question_cancelled() -> None:
    stage = Stage("ab")
    stage.go_on(4)
    core, bench = stage.place.core, stage.place.bench
    [waiting] = stage.place.parked()
    [other] = {"a", "b"} - {waiting}
    stage.go_on(0.25, frames_of=other)
    stage.send(waiting)
    job = Generation(list(QUESTION), 1, recorder := Recorder())
    bench.engine.submit_branch(waiting, job)
    bench.engine.cancel(job)
    bench.engine.close_session(waiting)
    bench.engine.turn()
    assert recorder.reason == FinishReason.CANCELLED
    assert isinstance(stage.live[waiting].errors[0], NotFoundError)
    assert core.wait_s() is not None
    assert metrics.WAITING_SESSIONS._value.get() == 0
    stage.go_on(1, frames_of=other)
    core.end_session(other, InternalError("gone"))
    stage.place.check()
    assert (stage.place.cache.pool.num_used, stage.place.cache.pool.num_reserved) == (0, 0)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_order_of_work_and_time_keeps_the_accounts_and_loses_no_work(
    data: st.DataObject,
) -> None:
    """Frames, questions, cancels, closings and pauses of sessions that do not fit together."""
    names = "abcd"
    stage = Stage(names, room=data.draw(st.integers(1, 3)))
    bench, core = stage.place.bench, stage.place.core
    asked: list[tuple[Generation, Recorder]] = []
    for _ in range(data.draw(st.integers(10, 60))):
        name = data.draw(st.sampled_from(names))
        match data.draw(st.sampled_from(["frame", "frame", "ask", "cancel", "reopen", "pass"])):
            case "frame":
                stage.send(name)
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
            core.wait_s()
            bench.turn()
        stage.place.check()
    bench.run_for(60)
    stage.place.check()
    assert all(session.idle for session in core.sessions.values())
    assert all(sink.ended for _, sink in asked)
    assert all(live.in_flight == 0 for live in stage.live.values())


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_sessions_that_come_and_go_answer_as_if_alone(data: st.DataObject) -> None:
    """Three sessions in room for one or two, in any order: what is not refused is as without."""
    place = Place(room=data.draw(st.integers(1, 2)))
    steady = Place(after_s=0.0)
    names = ["a", "b", "c"]
    for name in names:
        place.pass_time(10)
        place.bench.open(name)
        steady.bench.open(name)
    for _ in range(data.draw(st.integers(5, 20))):
        name = data.draw(st.sampled_from(names))
        action = data.draw(st.sampled_from(["show", "show", "ask", "pass", "hold"]))
        if action == "show":
            for each in (place, steady):
                assert isinstance(each.show(name), FrameReceipt)
        elif action == "hold":
            for each in (place, steady):
                assert isinstance(each.show(name, interpolated=True), FrameReceipt)
        elif action == "ask":
            assert torch.equal(place.logits(name), steady.logits(name))
        else:
            place.pass_time(data.draw(st.sampled_from([1.0, AFTER_S])))
        place.check()
