"""The rate follows the load: a simulated source, ring and worker in virtual time."""

import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.frames.rate_control import MOST_CALM_S, PERIODS, RUNGS, RateControl
from services.gateway.frames.sampler import FrameRate

RING = 16
CREDIT = 4  # frames that a worker has in flight
SOURCE_FPS = 30.0


@dataclass
class Load:
    """A live session on one worker whose frames take `step_s` each, one after another."""

    control: RateControl = field(default_factory=lambda: RateControl(SOURCE_FPS))
    step_s: float = 0.02
    away: bool = False
    now_s: float = 0.0
    waiting: deque[float] = field(default_factory=deque)  # when each frame in the ring was sampled
    in_flight: deque[float] = field(default_factory=deque)
    busy_until_s: float = 0.0
    ages_s: list[tuple[float, float]] = field(default_factory=list)  # when it was understood, age
    rates: list[tuple[float, float]] = field(default_factory=list)
    pictures: int = 0
    came: int = 0
    lost: int = 0
    slowed: FrameRate | None = None

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = self.pictures / SOURCE_FPS
            self.pictures += 1
            self._work()
            if self.slowed is None or self.slowed.chooses(int(1e9 * self.now_s)):
                self.came += 1
                if len(self.waiting) == RING:
                    self.waiting.popleft()
                    self.lost += 1
                self.waiting.append(self.now_s)
            if self.pictures % int(SOURCE_FPS) == 0:
                self._look()

    def _work(self) -> None:
        if self.away:
            return
        while self.busy_until_s <= self.now_s:
            if self.in_flight:
                sampled_s = self.in_flight.popleft()
                age_s = self.busy_until_s - sampled_s
                self.control.note(age_s, self.step_s)
                self.ages_s.append((self.busy_until_s, age_s))
            while self.waiting and len(self.in_flight) < CREDIT:
                self.in_flight.append(self.waiting.popleft())
            if not self.in_flight:
                self.busy_until_s = self.now_s
                return
            begins_s = max(self.busy_until_s, self.in_flight[0])
            self.busy_until_s = begins_s + self.step_s

    def _look(self) -> None:
        was = self.control.fps
        fps = self.control.decide(self.now_s, self.came, self.lost, away=self.away)
        self.came = self.lost = 0
        if fps != was:
            self.rates.append((self.now_s, fps))
            self.slowed = FrameRate(fps) if self.control.lowered else None
            while len(self.waiting) > 1:
                self.waiting.popleft()

    def p95_s(self, since_s: float) -> float:
        return float(np.quantile([age for at_s, age in self.ages_s if at_s >= since_s], 0.95))


def test_a_worker_that_keeps_up_keeps_the_rate() -> None:
    load = Load()
    load.run(120)
    assert load.rates == []
    assert load.p95_s(0) < 1 / SOURCE_FPS + load.step_s


def test_under_four_times_the_load_frames_stay_young() -> None:
    load = Load()
    load.run(10)
    load.step_s = 4 / SOURCE_FPS
    load.run(120)
    # 7.5 frames a second can be understood: 5 of the rungs.
    lowest = min(fps for _, fps in load.rates)
    assert lowest == 5
    assert load.p95_s(10) < 2 / lowest + load.step_s
    load.step_s = 0.02
    load.run(150)
    assert load.control.fps == SOURCE_FPS, "and back"
    assert not load.control.lowered


def test_rates_that_were_too_high_are_tried_ever_more_seldom() -> None:
    load = Load(step_s=4 / SOURCE_FPS)
    load.run(600)
    late = [at_s for at_s, _ in load.rates if at_s > 300]
    assert len(late) <= 2 * (300 / MOST_CALM_S + 1)


def test_a_hiccup_costs_no_rate() -> None:
    load = Load()
    load.run(10.2)
    load.step_s = 0.2
    load.run(0.3)
    load.step_s = 0.02
    load.run(10)
    assert load.rates == []


def test_a_worker_that_is_away_says_nothing_about_the_rate() -> None:
    load = Load(away=True)
    load.run(10)
    assert load.rates == []


def test_a_worker_that_comes_back_costs_no_rate() -> None:
    load = Load()
    load.run(10)
    load.away = True
    load.run(4.5)
    load.away = False
    load.run(30)
    assert load.rates == []


def test_what_nobody_could_understand_goes_to_the_lowest_rung() -> None:
    load = Load(step_s=3.0)
    load.run(60)
    assert load.control.fps == RUNGS[-1]


@pytest.mark.parametrize("wanted", [0.5, 4.0, 25.0, 60.0])
def test_the_rate_that_was_asked_for_is_the_highest(wanted: float) -> None:
    control = RateControl(wanted)
    now_s = 0.0
    for late in (True, True, True, False):
        for _ in range(200):
            now_s += 1.0
            for _ in range(int(control.fps * (0.2 if late else 1.0)) + 1):
                control.note(5.0 if late else 0.01, 0.01)
            assert control.decide(now_s, 60, 40 if late else 0, away=False) <= wanted
    assert control.fps == wanted


@given(
    st.lists(
        st.tuples(st.floats(0.001, 2.0), st.floats(0.5, 20.0), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 2**16),
)
def test_whatever_comes_the_rate_is_a_rung_and_frames_are_young_where_it_is_steady(
    phases: list[tuple[float, float, bool]], seed: int
) -> None:
    load = Load()
    drawn = random.Random(seed)
    for step_s, seconds, away in phases:
        load.step_s, load.away = step_s * drawn.uniform(0.9, 1.1), away
        load.run(seconds)
        assert load.control.fps in (*RUNGS, SOURCE_FPS)
    load.away, load.step_s = False, 0.25  # four a second
    began_s = load.now_s
    load.run(200)
    assert load.p95_s(began_s + 60) < PERIODS / 2 + 0.25


def looks(control: RateControl, seconds: int, *, step_s: float, busy: float) -> list[float]:
    """Rates of a worker that keeps up, a look a second."""
    start_s = control._looked_s
    rates = []
    for second in range(1, seconds + 1):
        for _ in range(round(control.fps)):
            control.note(0.01, step_s)
        came = round(control.fps)
        rates.append(control.decide(start_s + second, came, 0, away=False, busy=busy))
    return rates


def lowered(busy: float, patience: float = 1.0) -> RateControl:
    """The control of a session that came down to 5 frames a second."""
    control = RateControl(30.0, patience=patience)
    control.decide(0.0, 1, 0, away=True)
    control.decide(1.0, 30, 0, away=False)
    for _ in range(7):
        control.note(3.0, 0.03)
    assert control.decide(2.0, 30, 20, away=False, busy=busy) == 5
    return control


def test_a_worker_that_others_fill_is_not_asked_for_more() -> None:
    # Of its own steps there would be room: 10 of 30 ms a second.
    assert looks(lowered(0.7), 50, step_s=0.03, busy=0.9)[-1] == 5
    assert looks(lowered(0.7), 50, step_s=0.03, busy=0.5)[-1] > 5


def test_sessions_of_unlike_patience_do_not_take_the_same_room_at_once() -> None:
    hasty, patient = (looks(lowered(0.7, p), 12, step_s=0.03, busy=0.6) for p in (1.0, 3.0))
    assert hasty.index(10) < patient.index(10)


def test_once_what_filled_a_worker_is_over_the_rate_is_soon_what_it_was() -> None:
    for was, expected in ((0.95, 30), (0.3, 10)):  # or else it was never the worker's business
        control = lowered(was)
        for _ in range(3):  # tries that failed
            while control.fps == 5:
                looks(control, 1, step_s=0.03, busy=0.6)
            for _ in range(7):
                control.note(3.0, 0.03)
            control.decide(control._looked_s + 1, 10, 5, away=False, busy=was)
        assert looks(control, 28, step_s=0.006, busy=0.15)[-1] == expected
