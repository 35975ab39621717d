"""Page accounts under random operations: `check_integrity` after every step."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.inference_worker.kv.trunk import Branch, SessionPages, Trunk, TrunkShape
from sightline.errors import ResourceExhaustedError


class SessionPagesMachine(RuleBasedStateMachine):
    """Sessions open, frames come, windows move back, questions start, grow, pause and end, sessions
    are parked and return, in any order."""

    @initialize(pages=st.integers(60, 300), size=st.sampled_from([1, 4, 16]))
    def start(self, pages: int, size: int) -> None:
        self.cache = SessionPages(pages, size)
        self.trunks: list[Trunk] = []
        self.branches: list[Branch] = []

    @rule(window=st.integers(1, 5), tokens=st.integers(1, 9), sink=st.integers(1, 9))
    def open_trunk(self, window: int, tokens: int, sink: int) -> None:
        shape = TrunkShape(
            sink_tokens=sink,
            segment_tokens=tokens,
            window_segments=window,
            branch_tokens=16,
            burst_segments=2,
        )
        room = self.cache.num_admissible(shape)
        try:
            self.trunks.append(self.cache.open_trunk(shape))
            assert room > 0
        except ResourceExhaustedError:
            assert room == 0

    @precondition(lambda self: self.resident)
    @rule(data=st.data(), window=st.integers(1, 8))
    def resize(self, data: st.DataObject, window: int) -> None:
        trunk = data.draw(st.sampled_from(self.resident))
        before, kept = trunk.shape, list(trunk.segments)
        seen = [(branch, list(branch.seen)) for branch in trunk.branches]
        unreserved = self.cache.pool.num_unreserved
        size = self.cache.pool.page_size
        try:
            self.cache.resize(trunk, window)
        except ResourceExhaustedError:
            assert trunk.shape == before
            assert list(trunk.segments) == kept
            assert self.cache.pool.num_unreserved == unreserved
        else:
            assert list(trunk.segments) == kept[-window:]
            more = trunk.shape.cost(size) - before.cost(size)
            assert self.cache.pool.num_unreserved == unreserved - more
        assert seen == [(branch, branch.seen) for branch in trunk.branches]

    @property
    def resident(self) -> list[Trunk]:
        return [trunk for trunk in self.trunks if trunk.parked is None]

    @precondition(lambda self: any(not trunk.branches for trunk in self.resident))
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        idle = [trunk for trunk in self.resident if not trunk.branches]
        trunk = data.draw(st.sampled_from(idle))
        cost = trunk.shape.cost(self.cache.pool.page_size)
        used, unreserved = self.cache.pool.num_used, self.cache.pool.num_unreserved
        pages = self.cache.pages(trunk)
        self.cache.park(trunk)
        assert self.cache.pool.num_used == used - len(pages)
        assert self.cache.pool.num_unreserved == unreserved + cost
        shares = self.layout(trunk, pages)
        assert trunk.parked is not None
        assert [len(places) for places in trunk.parked] == [len(share) for share in shares]

    def layout(self, trunk: Trunk, pages: list[int]) -> list[list[int]]:
        """`pages` shared out among the segments by their tokens."""
        rest, shares = list(pages), []
        for segment in trunk.resident():
            count = self.cache.pool.pages_for(segment.num_tokens)
            shares.append(rest[:count])
            del rest[:count]
        assert not rest
        return shares

    @precondition(lambda self: len(self.resident) < len(self.trunks))
    @rule(data=st.data())
    def bring_back(self, data: st.DataObject) -> None:
        parked = [trunk for trunk in self.trunks if trunk.parked is not None]
        trunk = data.draw(st.sampled_from(parked))
        fits = self.cache.pool.num_unreserved >= trunk.shape.cost(self.cache.pool.page_size)
        try:
            pages = self.cache.bring_back(trunk)
        except ResourceExhaustedError:
            assert not fits
            assert trunk.parked is not None
            return
        assert fits
        assert trunk.parked is None
        assert max(Counter(pages).values()) == 1
        assert [segment.pages for segment in trunk.resident()] == self.layout(trunk, pages)
        assert set(pages) <= set(trunk.reservation.pages)

    @precondition(lambda self: self.resident)
    @rule(data=st.data(), count=st.integers(1, 2))
    def append(self, data: st.DataObject, count: int) -> None:
        trunk = data.draw(st.sampled_from(self.resident))
        sizes = [data.draw(st.integers(1, trunk.shape.segment_tokens)) for _ in range(count)]
        wanted = sum(self.cache.pool.pages_for(size) for size in sizes)
        self.make_room(trunk, wanted)
        for size in sizes:  # an admitted session can never run the pool dry
            segment = self.cache.append_segment(trunk, size, 1, (0, 0))
            assert segment is trunk.segments[-1]
        self.cache.check_integrity()
        self.cache.end_step()

    def make_room(self, trunk: Trunk, wanted: int) -> None:
        """By what may be asked of branches, as a whole: nothing they hold stands in the way."""
        for branch in trunk.branches[1:]:
            self.cache.empty_branch(branch)
        self.cache.withdraw(trunk, wanted)
        assert trunk.num_free >= wanted

    @precondition(lambda self: any(trunk.segments for trunk in self.resident))
    @rule(data=st.data())
    def rebase(self, data: st.DataObject) -> None:
        trunk = data.draw(st.sampled_from([each for each in self.resident if each.segments]))
        wanted = self.cache.pinned_window(trunk)
        self.make_room(trunk, wanted)
        shapes = [(len(each.pages), each.num_tokens) for each in trunk.segments]
        seen = [[list(each.pages) for each in branch.seen] for branch in trunk.branches]
        cursors = [[each.cursor for each in branch.seen] for branch in trunk.branches]
        delta, old, new = self.cache.rebase(trunk)
        assert trunk.segments[0].cursor == trunk.shape.sink_tokens
        assert delta <= 0
        assert len(set(new)) == len(new) == len(old)
        assert sum(a != b for a, b in zip(old, new, strict=True)) == wanted
        assert self.cache.pages(trunk) == trunk.sink.pages + new
        assert [(len(each.pages), each.num_tokens) for each in trunk.segments] == shapes
        # What branches read stays where it is, and what it is.
        assert [[each.pages for each in branch.seen] for branch in trunk.branches] == seen
        assert [[each.cursor for each in branch.seen] for branch in trunk.branches] == cursors
        assert self.cache.pinned_window(trunk) == 0

    @precondition(lambda self: self.resident)
    @rule(data=st.data())
    def open_branch(self, data: st.DataObject) -> None:
        trunk = data.draw(st.sampled_from(self.resident))
        free = trunk.num_free
        self.branches.append(self.cache.open_branch(trunk))
        assert trunk.num_free == free  # nothing is copied, nothing is kept for later

    @precondition(lambda self: self.branches)
    @rule(data=st.data(), tokens=st.integers(1, 8))
    def extend(self, data: st.DataObject, tokens: int) -> None:
        branch = data.draw(st.sampled_from(self.branches))
        before, wanted = branch.num_tokens, self.cache.missing(branch, tokens)
        # Of one question, as long as its session allows.
        if before + tokens > branch.trunk.shape.branch_tokens:
            return
        free = branch.trunk.num_free
        try:
            slots = self.cache.extend(branch, tokens)
        except ResourceExhaustedError:
            assert wanted > free
            assert branch.num_tokens == before
            return
        assert len(set(slots)) == tokens
        assert {slot // self.cache.pool.page_size for slot in slots} <= set(branch.pages)

    @precondition(lambda self: self.branches)
    @rule(data=st.data())
    def empty_branch(self, data: st.DataObject) -> None:
        branch = data.draw(st.sampled_from(self.branches))
        count, seen = len(branch.pages), list(branch.seen)
        free = branch.trunk.num_free
        self.cache.empty_branch(branch)
        assert branch.trunk.num_free == free + count
        assert branch.seen == seen

    @precondition(lambda self: self.branches)
    @rule(data=st.data())
    def close_branch(self, data: st.DataObject) -> None:
        branch = data.draw(st.sampled_from(self.branches))
        self.branches.remove(branch)
        self.cache.close_branch(branch)
        self.cache.close_branch(branch)  # harmless

    @precondition(lambda self: self.trunks)
    @rule(data=st.data())
    def close_trunk(self, data: st.DataObject) -> None:
        trunk = data.draw(st.sampled_from(self.trunks))
        self.trunks.remove(trunk)
        self.branches = [branch for branch in self.branches if branch.trunk is not trunk]
        self.cache.close_trunk(trunk)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "cache"):
            self.cache.check_integrity()

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            for trunk in self.trunks:
                self.cache.close_trunk(trunk)
            assert self.cache.pool.num_used == 0


TestCache = SessionPagesMachine.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_longer_window_takes_the_pages_beside_its_own() -> None:
    cache = SessionPages(64, 1)
    shape = TrunkShape(sink_tokens=1, segment_tokens=1, window_segments=2, branch_tokens=1)
    trunk = cache.open_trunk(shape)
    cost = shape.cost(1)
    assert trunk.reservation.row == range(1, 1 + cost)
    cache.resize(trunk, 6)
    assert trunk.reservation.row == range(1, 1 + cost + 8)
    cache.resize(trunk, 2)
    assert trunk.reservation.row == range(1, 1 + cost)
    cache.check_integrity()


def test_pages_of_others_that_a_longer_window_takes_are_told() -> None:
    cache = SessionPages(64, 1)
    shape = TrunkShape(sink_tokens=1, segment_tokens=1, window_segments=2, branch_tokens=1)
    trunk, other = cache.open_trunk(shape), cache.open_trunk(shape)
    used = cache.pages(other)
    cache.close_trunk(other)
    assert cache.resize(trunk, 6) == used


def test_a_moving_window_stays_within_a_few_pages() -> None:
    """What a session reads is a row of pages hardly longer than what it holds."""
    cache = SessionPages(400, 4)
    shape = TrunkShape(sink_tokens=6, segment_tokens=8, window_segments=10, branch_tokens=20)
    trunks = [cache.open_trunk(shape) for _ in range(3)]
    for _ in range(60):
        for trunk in trunks:
            branch = cache.open_branch(trunk)
            cache.extend(branch, 6)
            cache.append_segment(trunk, 8, 1, (0, 0))
            cache.end_step()
            cache.close_branch(branch)
    for trunk in trunks:
        pages = cache.pages(trunk)
        assert max(pages) - min(pages) < len(pages) + 6


def test_a_session_under_a_question_cannot_be_parked() -> None:
    cache = SessionPages(100, 4)
    shape = TrunkShape(sink_tokens=4, segment_tokens=4, window_segments=2, branch_tokens=8)
    trunk = cache.open_trunk(shape)
    branch = cache.open_branch(trunk)
    with pytest.raises(AssertionError, match="branch"):
        cache.park(trunk)
    cache.close_branch(branch)
    cache.park(trunk)
    with pytest.raises(AssertionError, match="parked"):
        cache.open_branch(trunk)
    with pytest.raises(AssertionError, match="parked"):
        cache.append_segment(trunk, 4, 1, (0, 0))
    assert (cache.pool.num_used, cache.pool.num_unreserved) == (0, 99)
    cache.close_trunk(trunk)
    cache.check_integrity()
