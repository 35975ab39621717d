"""Page accounts under random operations: `check_integrity` after every step."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.inference_worker.kv_cache import Branch, KVCache, PagePool, Trunk, TrunkShape
from sightline.errors import ResourceExhaustedError


class CacheMachine(RuleBasedStateMachine):
    """Sessions open, frames come, questions start, grow and end, in any order."""

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

    @precondition(lambda self: self.trunks)
    @rule(data=st.data(), count=st.integers(1, 2))
    def append(self, data: st.DataObject, count: int) -> None:
        trunk = data.draw(st.sampled_from(self.trunks))
        self.cache.relieve(trunk)
        for _ in range(count):  # an admitted session can never run the pool dry
            segment = self.cache.append_segment(
                trunk, data.draw(st.integers(1, trunk.shape.segment_tokens)), 1, (0, 0)
            )
            assert segment is trunk.segments[-1]
        self.cache.check_integrity()
        self.cache.end_step()

    @precondition(lambda self: self.trunks)
    @rule(data=st.data(), tokens=st.integers(1, 16))
    def open_branch(self, data: st.DataObject, tokens: int) -> None:
        trunk = data.draw(st.sampled_from(self.trunks))
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
