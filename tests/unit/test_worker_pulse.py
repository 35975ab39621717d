"""The pulse of a worker, by a clock of the test: when it counts as quiet, and when as busy."""

import pytest

from services.gateway.workers.pulse import (
    GRACE,
    LEAST_OVERDUE_S,
    QUICK_S,
    STEPS,
    SURE_S,
    Pulse,
    Silence,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _reports(pulse: Pulse, clock: Clock, *gaps_s: float) -> None:
    for gap_s in gaps_s:
        clock.now_s += gap_s
        pulse.reported()


def _frame(pulse: Pulse, clock: Clock, took_s: float, stream: str = "a") -> None:
    pulse.sent(stream)
    clock.now_s += took_s
    pulse.acknowledged(stream, all_of_it=True)


def test_patience_grows_with_how_late_reports_were_of_late(clock: Clock) -> None:
    pulse = Pulse(clock=clock)
    _reports(pulse, clock, 0, 0.25, 0.25)
    assert pulse.patience_s == pytest.approx(GRACE * 0.25)
    _reports(pulse, clock, 0.6)
    assert pulse.patience_s == pytest.approx(GRACE * 0.6)
    _reports(pulse, clock, *[0.25] * 200)
    assert pulse.patience_s == pytest.approx(GRACE * 0.25)
    assert Pulse(clock=clock).patience_s >= QUICK_S


def test_a_break_is_no_gap(clock: Clock) -> None:
    pulse = Pulse(clock=clock)
    _reports(pulse, clock, 0, 0.25)
    pulse.broken()
    _reports(pulse, clock, 3.0, 0.25)
    assert pulse.patience_s == pytest.approx(GRACE * 0.25)


def test_the_time_that_it_hung_for_is_no_reason_to_wait_longer(clock: Clock) -> None:
    pulse = Pulse(1.0, clock)
    _reports(pulse, clock, 0, 0.25, 2.5, 0.25)
    assert pulse.patience_s == pytest.approx(GRACE * 0.25)
    _reports(pulse, clock, 0.9)
    assert pulse.patience_s == pytest.approx(GRACE * 0.9)


def test_frames_are_overdue_by_what_is_usual(clock: Clock) -> None:
    pulse = Pulse(clock=clock)
    for _ in range(50):
        _frame(pulse, clock, 0.2)
    pulse.sent("a")
    clock.now_s += STEPS * 0.2 - 0.01
    assert not pulse.is_overdue
    clock.now_s += 0.02
    assert pulse.is_overdue
    pulse.acknowledged("a", all_of_it=False)
    assert not pulse.is_overdue, "one came, though others are on their way"
    pulse.left("a")
    clock.now_s += 60
    assert not pulse.is_overdue, "nobody waits"


def test_one_stream_that_waits_is_not_overdue_while_others_go_on(clock: Clock) -> None:
    pulse = Pulse(clock=clock)
    for _ in range(50):
        _frame(pulse, clock, 0.01)
    pulse.sent("b")
    for _ in range(50):
        _frame(pulse, clock, 0.1)
    assert not pulse.is_overdue
    for stream in ("c", "d", "e"):  # they send, and nothing comes back
        clock.now_s += LEAST_OVERDUE_S
        pulse.sent(stream)
    assert pulse.is_overdue


def test_a_silence_counts_only_while_the_one_who_listens_has_time() -> None:
    silence = Silence(100.0)
    assert silence.looked(100.31, 100.3) == 0.0
    assert silence.quiet_s(100.31) == pytest.approx(0.31)
    assert silence.is_sure(100.31)
    assert silence.looked(102.0, 100.4) == pytest.approx(1.6)
    assert silence.quiet_s(102.0) == pytest.approx(0.4)
    assert not silence.is_sure(102.0)


def test_a_starved_listener_never_is_sure_and_one_that_is_back_soon_is() -> None:
    silence = Silence(0.0)
    now_s = 0.0
    for _ in range(50):  # looks every 0.05 s that take four times as long
        silence.looked(now_s + 0.2, now_s + 0.05)
        now_s += 0.2
        assert not silence.is_sure(now_s)
    assert silence.quiet_s(now_s) == pytest.approx(50 * 0.05)
    for _ in range(round(SURE_S / 0.05) + 1):
        silence.looked(now_s + 0.05, now_s + 0.05)
        now_s += 0.05
    assert silence.is_sure(now_s)
