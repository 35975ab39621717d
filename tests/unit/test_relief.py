"""Memory that runs short: who gives what up, in which order, and that everybody goes on."""

import numpy as np
import pytest
import torch

from services.inference_worker import metrics
from services.inference_worker.engine.parking import YIELD_S
from services.inference_worker.engine.relief import DEVICE, HOST, KV, LEAST_SEGMENTS, LOOK_S
from services.inference_worker.memory import Headroom
from tests.unit.test_parking import Place, counted

WINDOW = 16


class Short(Place):
    """A place whose memories are as full as `shares` says; of KV pages, as they are."""

    def __init__(self, room: int | None = 4, **options: float) -> None:
        super().__init__(room, window=WINDOW, **options)  # type: ignore[arg-type]
        self.shares: dict[str, float] = {}
        self.relief = self.core._relief
        self.relief._shares = lambda: self.shares

    def look(self, seconds: float = LOOK_S) -> "Short":
        """Let time pass and the relief look once."""
        self.clock.now_s += seconds
        self.relief.advance()
        self.check()
        return self

    def segments(self, name: str) -> int:
        return len(self.core.sessions[name].trunk.segments)

    def window(self, name: str) -> int:
        return self.core.sessions[name].trunk.shape.window_segments


def test_nothing_is_given_up_below_the_limit() -> None:
    place = Short()
    place.fill("a", frames=WINDOW)
    place.shares = {DEVICE: 0.9, HOST: 0.89}
    place.look(YIELD_S)
    assert place.segments("a") == WINDOW
    assert not place.relief.short


def test_the_idlest_forget_their_oldest_first_and_answer_on() -> None:
    place = Short()
    place.fill("a", "b", "c", frames=WINDOW)
    place.clock.now_s += YIELD_S
    place.show("c")  # not idle
    place.shares = {DEVICE: 0.95}
    newest = place.core.sessions["a"].trunk.segments[-1]
    for expected in ([8, WINDOW, WINDOW], [4, WINDOW, WINDOW], [4, 8, WINDOW], [4, 4, WINDOW]):
        place.look()
        assert [place.segments(name) for name in "abc"] == expected
    assert place.core.sessions["a"].trunk.segments[-1] is newest
    assert place.ask("a").error is None
    assert place.window("c") == WINDOW
    place.look(YIELD_S)
    assert place.segments("c") == WINDOW // 2, "idle by now"


def test_then_windows_shrink_by_priority_and_grow_again_when_there_is_room() -> None:
    place = Short()
    for name, priority in (("low", 0), ("high", 5)):
        place.core.open_session(name, priority=priority)
        for _ in range(WINDOW):
            place.show(name)
    shrunk = counted(metrics.MEMORY_MEASURES, "shrunk")
    place.shares = {DEVICE: 0.95}
    place.look()
    assert (place.window("low"), place.window("high")) == (8, WINDOW)
    place.shares = {DEVICE: 0.85}  # between the limits: still short
    place.look()
    assert place.relief.short == {DEVICE}
    assert (place.window("low"), place.window("high")) == (LEAST_SEGMENTS, WINDOW)
    place.look()
    assert (place.window("low"), place.window("high")) == (LEAST_SEGMENTS, 8)
    assert counted(metrics.MEMORY_MEASURES, "shrunk") == shrunk + 3
    assert metrics.MEMORY_SHORT.labels(DEVICE)._value.get() == 1
    for name in ("low", "high"):
        assert place.show(name).sequence  # type: ignore[attr-defined]
        assert place.ask(name).error is None
    place.shares = {DEVICE: 0.79}
    place.look(10)
    assert not place.relief.short
    assert metrics.MEMORY_SHORT.labels(DEVICE)._value.get() == 0
    place.look(10)
    assert (place.window("low"), place.window("high")) == (WINDOW, WINDOW)


def test_a_session_that_shrank_and_is_resized_has_what_it_was_given() -> None:
    place = Short()
    place.fill("a", frames=WINDOW)
    place.shares = {DEVICE: 0.95}
    place.look()
    layout = place.bench.model.spec.layout
    assert place.core.resize_session("a", 6, layout) == 6
    place.shares = {}
    place.look(10)
    place.shares = {DEVICE: 0.1}
    place.look(10)
    place.look(10)
    assert place.window("a") == 6


def test_full_kv_pages_are_given_up_until_there_is_enough() -> None:
    place = Short()
    place.fill("a", "b", "c", "d", frames=WINDOW)
    pool = place.cache.pool
    used = pool.num_used
    place.cache.pool.num_pages = used + 5  # as if there were hardly more
    try:
        place.clock.now_s += YIELD_S
        place.relief.advance()
        assert pool.num_used < 0.8 * used + 5
        assert place.relief.short == {KV}
        assert place.segments("d") == WINDOW, "the first ones were enough"
    finally:
        place.cache.pool.num_pages = 4 * place.core._usual.cost(4) + 1


def test_parked_sessions_forget_in_host_memory_and_return_as_if_they_had_before() -> None:
    place, other = Short(), Short()
    for each in (place, other):
        each.fill("a", frames=WINDOW)
    place.pass_time(60.0)
    assert place.parked() == ["a"]
    before = place.core.sessions["a"].parked.nbytes
    place.shares = {HOST: 0.95}
    place.look()
    assert place.core.sessions["a"].parked.nbytes < 0.65 * before
    other.cache.forget_oldest(other.core.sessions["a"].trunk, WINDOW // 2)
    assert torch.equal(place.logits("a"), other.logits("a")), "bit for bit"
    place.check()


def test_nobody_is_parked_while_host_memory_is_short() -> None:
    place = Short()
    place.fill("a", frames=5)
    place.shares = {HOST: 0.95}
    place.look()
    place.clock.now_s += 100
    place.core.advance()
    assert place.parked() == []
    place.shares = {HOST: 0.5}
    place.look()
    place.pass_time(0.0)
    assert place.parked() == ["a"]


@pytest.mark.parametrize("seed", range(3))
def test_random_pressure_leaves_the_accounts_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    place = Short(room=6)
    names = ["a", "b", "c", "d", "e"]
    place.fill(*names, frames=WINDOW)
    for _ in range(60):
        name = names[rng.integers(len(names))]
        match rng.integers(4):
            case 0:
                place.show(name)
            case 1:
                assert place.ask(name, max_tokens=3).error is None
            case 2:
                place.clock.now_s += float(rng.uniform(0, 90))
                place.core.advance()
            case 3:
                place.shares = {
                    DEVICE: float(rng.uniform(0.5, 1)),
                    HOST: float(rng.uniform(0.5, 1)),
                }
        place.look()
    assert set(place.core.sessions) == set(names), "nobody was cut off"


def test_headroom_is_what_was_free_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter((1000, 500, 50, 2000))
    monkeypatch.setattr("services.inference_worker.memory.free_bytes", lambda device: next(free))
    headroom = Headroom(torch.device("cpu"))
    assert [headroom()[HOST] for _ in range(4)] == [0.0, 0.5, 0.95, 0.0]
