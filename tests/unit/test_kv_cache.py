"""Page accounts under random operations: `check_integrity` after every step."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.inference_worker.kv_cache import Branch, KVCache, PagePool, Trunk, TrunkShape
from sightline.errors import ResourceExhaustedError


class CacheMachine(RuleBasedStateMachine):
    """Sessions open, frames come, questions start, grow and end, sessions are parked and return,
    in any order."""

    @initialize(pages=st.integers(60, 300), size=st.sampled_from([1, 4, 16]))
    def start(self, pages: int, size: int) -> None:
        self.cache = KVCache(pages, size)
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

    @property
    def resident(self) -> list[Trunk]:
        return [trunk for trunk in self.trunks if trunk.parked is None]

    @precondition(lambda self: any(not trunk.branches for trunk in self.resident))
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        idle = [trunk for trunk in self.resident if not trunk.branches]
        trunk = data.draw(st.sampled_from(idle))
        cost = trunk.shape.cost(self.cache.pool.page_size)
        free, promised = self.cache.pool.num_free, self.cache.committed_pages
        pages = self.cache.pages(trunk)
        self.cache.park(trunk)
        assert self.cache.pool.num_free == free + len(pages)
        assert self.cache.committed_pages == promised - cost
        assert trunk.parked == [len(segment) for segment in self.layout(trunk, pages)]

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
        fits = self.cache.free_pages >= trunk.shape.cost(self.cache.pool.page_size)
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

    @precondition(lambda self: self.resident)
    @rule(data=st.data(), count=st.integers(1, 2))
    def append(self, data: st.DataObject, count: int) -> None:
        trunk = data.draw(st.sampled_from(self.resident))
        self.cache.relieve(trunk)
        for _ in range(count):  # an admitted session can never run the pool dry
            segment = self.cache.append_segment(
                trunk, data.draw(st.integers(1, trunk.shape.segment_tokens)), 1, (0, 0)
            )
            assert segment is trunk.segments[-1]
        self.cache.check_integrity()
        self.cache.end_step()

    @precondition(lambda self: self.resident)
    @rule(data=st.data(), tokens=st.integers(1, 16))
    def open_branch(self, data: st.DataObject, tokens: int) -> None:
        trunk = data.draw(st.sampled_from(self.resident))
        fits = self.cache.can_branch(trunk, tokens)
        try:
            self.branches.append(self.cache.open_branch(trunk, tokens))
            assert fits
        except ResourceExhaustedError:
            assert not fits

    @precondition(lambda self: self.branches)
    @rule(data=st.data(), tokens=st.integers(1, 8))
    def extend(self, data: st.DataObject, tokens: int) -> None:
        branch = data.draw(st.sampled_from(self.branches))
        before = branch.num_tokens
        try:
            slots = self.cache.extend(branch, tokens)
        except ResourceExhaustedError:
            assert branch.num_tokens == before
            return
        assert len(set(slots)) == tokens
        assert {slot // self.cache.pool.page_size for slot in slots} <= set(branch.pages)

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
            assert self.cache.pool.num_used <= self.cache.committed_pages

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            for trunk in self.trunks:
                self.cache.close_trunk(trunk)
            assert self.cache.pool.num_used == 0


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_allocation_takes_all_or_nothing() -> None:
    pool = PagePool(4, 16)
    pool.allocate(2)
    with pytest.raises(ResourceExhaustedError):
        pool.allocate(2)
    assert pool.num_free == 1


def test_releasing_twice_is_caught() -> None:
    pool = PagePool(4, 16)
    pages = pool.allocate(1)
    pool.release(pages)
    with pytest.raises(AssertionError):
        pool.release(pages)


def test_a_session_under_a_question_cannot_be_parked() -> None:
    cache = KVCache(100, 4)
    shape = TrunkShape(sink_tokens=4, segment_tokens=4, window_segments=2, branch_tokens=8)
    trunk = cache.open_trunk(shape)
    branch = cache.open_branch(trunk, 8)
    with pytest.raises(AssertionError, match="branch"):
        cache.park(trunk)
    cache.close_branch(branch)
    cache.park(trunk)
    with pytest.raises(AssertionError, match="parked"):
        cache.open_branch(trunk, 8)
    with pytest.raises(AssertionError, match="parked"):
        cache.append_segment(trunk, 4, 1, (0, 0))
    assert (cache.pool.num_used, cache.committed_pages) == (0, 0)
    cache.close_trunk(trunk)
    cache.check_integrity()
