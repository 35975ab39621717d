"""When a device that fails ends the worker, and when it does not."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from services.inference_worker.engine.jobs import FrameReceipt
from services.inference_worker.engine.step_health import StepHealth
from services.inference_worker.model.errors import DeviceFailedError
from services.inference_worker.runner.batch import Run
from sightline.errors import InternalError, UnavailableError
from tests.eventually import wait_until
from tests.unit.tiny import Bench, Recorder, random_picture, tiny_model

QUESTION = [1, 10, 11, 12, 7]
POISON = 13


def broken() -> None:
    raise RuntimeError("a fault on the device")


def health(*, most: int = 3, lost: bool = False, probe: Callable[[], None] = broken) -> StepHealth:
    return StepHealth(most, lambda: lost, probe)


def test_steps_that_fail_in_a_row_are_counted_and_one_that_does_not_ends_the_row() -> None:
    steps = health()
    for _ in range(4):
        steps.failed("step", RuntimeError())
        steps.failed("step", RuntimeError())
        assert steps.failure is None
        steps.succeeded()
    for _ in range(3):
        steps.failed("step", RuntimeError())
    assert isinstance(steps.failure, DeviceFailedError)
    assert "3 steps in a row" in steps.failure.message


def test_a_lost_device_fails_at_once() -> None:
    steps = health(lost=True)
    steps.failed("step", RuntimeError())
    assert steps.failure is not None
    assert not health(lost=True).check()


@pytest.mark.parametrize("works", [True, False])
def test_input_is_to_blame_only_where_the_device_does_other_work(works: bool) -> None:
    steps = health(probe=(lambda: None) if works else broken)
    for _ in range(3):
        steps.failed("step", RuntimeError(), ask_device=True)
    assert (steps.failure is None) == works


def failing(bench: Bench, fails: Callable[[Run], bool]) -> list[int]:
    """Steps that hold such a run raise. How many runs each step had."""
    execute, sizes = bench.runner.execute, list[int]()

    def faulty(runs: list[Run], *rest: Any) -> Any:
        sizes.append(len(runs))
        if any(fails(run) for run in runs):
            broken()
        return execute(runs, *rest)

    bench.runner.execute = faulty  # type: ignore[method-assign]
    return sizes


def started() -> Bench:
    bench = Bench(tiny_model(), clock=time.monotonic)
    bench.engine.start().result(timeout=60)
    return bench


def test_a_device_that_fails_every_step_ends_the_engine_and_everybody_hears() -> None:
    bench = started()
    for name in "ab":
        bench.engine.open_session(name).result(timeout=10)
    failing(bench, lambda run: True)
    heard = list[Recorder]()
    until_s = time.monotonic() + 20
    while not bench.engine.ended.done():
        assert time.monotonic() < until_s
        heard.append(bench.ask("a", QUESTION))
        wait_until(lambda: heard[-1].ended)
    assert 5 <= len(heard) <= 6  # the last one may have come too late
    assert isinstance(bench.engine.failure, DeviceFailedError)
    assert isinstance(heard[-1].error, UnavailableError)
    wait_until(lambda: not bench.core.sessions)
    late = bench.ask("b", QUESTION)
    assert isinstance(late.error, UnavailableError)
    with pytest.raises(UnavailableError):
        bench.engine.open_session("c").result(timeout=1)
    bench.engine.stop()
    assert bench.cache.pool.num_used == 0


def test_a_lost_device_is_not_asked_to_run_the_parts_of_a_step_alone() -> None:
    bench = Bench(tiny_model())
    bench.open("s")
    bench.open("t")
    bench.core.health._is_lost = lambda: True
    bench.runner.clear = lambda pages: broken()  # type: ignore[method-assign]
    sizes = failing(bench, lambda run: True)
    heard = [bench.ask(name, QUESTION) for name in "st" for _ in range(3)]
    while bench.engine._survives():
        pass
    assert len(sizes) == 1
    answered = [recorder for recorder in heard if recorder.ended]
    assert answered
    assert all(isinstance(recorder.error, DeviceFailedError) for recorder in answered)


def test_a_bad_question_asked_again_and_again_does_not_end_the_worker() -> None:
    """Neither alone nor beside others."""
    bench = Bench(tiny_model())
    bench.open("s")
    failing(bench, lambda run: POISON in run.tokens)
    for _ in range(12):
        alone = bench.ask("s", [POISON])
        bench.run()
        assert isinstance(alone.error, InternalError)
    for _ in range(12):
        bad, good = bench.ask("s", [POISON]), bench.ask("s", QUESTION)
        bench.run()
        assert isinstance(bad.error, InternalError)
        assert good.error is None
    assert bench.core.health.failure is None


def test_a_session_that_cannot_be_read_does_not_end_those_that_can() -> None:
    """Its frames fail again and again, as those of others do not."""
    rng = np.random.default_rng(0)
    bench = Bench(tiny_model())
    bench.open("good")
    bad = random_picture(rng).tobytes()
    failing(bench, lambda run: run.tubelet is not None and bad in run.tubelet.pixels)
    for number in range(12):
        bench.open("bad")
        bench.push("bad", np.frombuffer(bad, np.uint8).reshape(64, 64, 3), number)
        bench.push("good", random_picture(rng), number)
        bench.run()
        assert "bad" not in bench.core.sessions
    assert bench.core.health.failure is None
    assert sum(isinstance(result, FrameReceipt) for result in bench.results) == 12


def test_sessions_that_cannot_even_be_opened_end_the_engine() -> None:
    bench = started()
    failing(bench, lambda run: True)
    for number in range(5):
        with pytest.raises(Exception, match=r"fault|failed|shutting"):
            bench.engine.open_session(f"s{number}").result(timeout=10)
    wait_until(bench.engine.ended.done)
    assert isinstance(bench.engine.failure, DeviceFailedError)


def test_defects_of_ours_that_come_again_and_again_end_the_engine() -> None:
    bench = started()

    def defect(now_s: float) -> None:
        raise ZeroDivisionError

    bench.core.idle_s = defect  # type: ignore[method-assign]
    bench.engine.open_session("s")
    wait_until(bench.engine.ended.done)
    assert isinstance(bench.engine.failure, DeviceFailedError)


def test_posted_work_is_bounded_and_ends_are_never_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.inference_worker.engine.thread.MOST_POSTED", 10)
    bench = Bench(tiny_model())
    bench.engine.open_session("s")
    heard = [bench.ask("s", QUESTION) for _ in range(12)]
    assert [recorder.ended for recorder in heard] == [False] * 9 + [True] * 3
    closing = bench.engine.close_session("s")
    bench.run()
    assert closing.result(timeout=0)
    assert all(recorder.ended for recorder in heard)
