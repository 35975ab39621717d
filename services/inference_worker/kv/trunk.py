"""Accounts of what sessions hold in the KV pool: trunks, windows, branches. No tensors here.

A question's branch retains the trunk's pages instead of copying them, so that eviction can go on
under a running answer and an answer can never change what the frames mean. Segments start on a
page boundary; evicting one frees whole pages, and a branch never shares a partial page that the
trunk would still write to. So nothing is ever copied on a branch.

A session's cost is known when it is admitted (`TrunkShape.cost`), and that many pages are reserved
for it. Branches take pages as they grow; `branching` says whose turn it is when there are none. A
parked session has neither pages nor a reservation until it is brought back. One thread uses all of
this.
"""

from collections import Counter, deque
from dataclasses import dataclass, field, replace

from services.inference_worker.kv.look import Look
from services.inference_worker.kv.pool import NULL_PAGE, PagePool, Reservation
from sightline.errors import ResourceExhaustedError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkShape:
    """Bounds of what one session holds. `burst_segments`: how many may be appended in one step."""

    sink_tokens: int
    segment_tokens: int
    window_segments: int
    branch_tokens: int
    burst_segments: int = 1

    def window_pages(self, page_size: int) -> int:
        return self.window_segments * -(-self.segment_tokens // page_size)

    def branch_pages(self, page_size: int) -> int:
        return -(-self.branch_tokens // page_size)

    def cost(self, page_size: int) -> int:
        """Pages a session can hold at most: its sink, its window and a step's burst, as much
        again pinned by branches that outlive eviction or a rebase, and the branches' own tokens.

        That is what a session gets along with, not the most it would like: when branches of many
        ages pin more than a window, or answers hold more than their share, they make room."""
        per_segment = -(-self.segment_tokens // page_size)
        return (
            -(-self.sink_tokens // page_size)
            + 2 * self.window_pages(page_size)
            + self.burst_segments * per_segment
            + self.branch_pages(page_size)
        )


@dataclass(slots=True, eq=False)
class Segment:
    """The pages of one tubelet (or of the sink). `cursor` is the position it starts at; `words`:
    the tokens it holds, each once; `look`: its picture's."""

    pages: list[int]
    num_tokens: int
    cursor: int
    captured_ns: tuple[int, int] = (0, 0)  # first and last frame of the tubelet
    words: frozenset[int] = frozenset()
    look: Look = field(default_factory=Look)


@dataclass(slots=True, eq=False)
class Trunk:
    """A session's KV: the sink and the window of recent segments. No question enters it.

    `branch_pages`: that branches hold beside what they see. `parked`: None, or which pages of its
    reservation each resident segment had when they were given up.
    """

    shape: TrunkShape
    reservation: Reservation
    sink: Segment
    cursor: int
    segments: deque[Segment] = field(default_factory=deque)
    branches: list["Branch"] = field(default_factory=list)
    branch_pages: int = 0
    parked: list[list[int]] | None = None

    def resident(self) -> list[Segment]:
        return [self.sink, *self.segments]

    @property
    def num_free(self) -> int:
        """Pages of its own that nobody holds."""
        return len(self.reservation.free)


@dataclass(slots=True, eq=False)
class Branch:
    """One question's KV: the trunk as it was at one moment, and the branch's own pages after it."""

    trunk: Trunk
    seen: list[Segment]
    cursor: int
    pages: list[int] = field(default_factory=list)
    num_tokens: int = 0
    closed: bool = False


class SessionPages:
    """Accounts of every trunk and branch of one worker, on one pool."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.pool = PagePool(num_pages, page_size)
        self._trunks: list[Trunk] = []
        self._retired: list[Segment] = []

    def num_admissible(self, shape: TrunkShape, spare_pages: int = 0) -> int:
        """Number of further sessions of this shape that fit, if so many reserved pages are given
        up."""
        return (self.pool.num_unreserved + spare_pages) // shape.cost(self.pool.page_size)

    def open_trunk(self, shape: TrunkShape) -> Trunk:
        """Admit a session and give it its sink pages. Raises ResourceExhaustedError when full."""
        reservation = self.pool.reserve(shape.cost(self.pool.page_size))
        pages = self.pool.allocate(reservation, self.pool.pages_for(shape.sink_tokens))
        sink = Segment(pages, shape.sink_tokens, 0)
        trunk = Trunk(shape, reservation, sink, cursor=shape.sink_tokens)
        self._trunks.append(trunk)
        return trunk

    def resize(self, trunk: Trunk, window_segments: int) -> list[int]:
        """Let a trunk have another window: a longer one fills as segments come, a shorter one keeps
        the newest. Returns pages to be cleared, as of `stale`. Not within a step.

        Raises ResourceExhaustedError, changing nothing, where there is no room, or where branches
        read what a shorter window would give up.
        """
        assert trunk.parked is None, "a parked session is resized"
        shape = replace(trunk.shape, window_segments=window_segments)
        more = shape.cost(self.pool.page_size) - trunk.shape.cost(self.pool.page_size)
        if more >= 0:
            stale = self.pool.enlarge(trunk.reservation, more) if more else []
            trunk.shape = shape
            return stale
        leaving = list(trunk.segments)[: max(0, len(trunk.segments) - window_segments)]
        freed = sum(len(each.pages) for each in leaving if not self.pool.is_shared(each.pages))
        if trunk.num_free + freed < -more:
            raise ResourceExhaustedError(
                "answers under way read the window as it is: try again when they are done",
                retry_after_s=1.0,
            )
        for segment in leaving:
            trunk.segments.popleft()
            self.pool.release(segment.pages)
        self.pool.reduce(trunk.reservation, -more)
        trunk.shape = shape
        return []

    def forget_oldest(self, trunk: Trunk, keep: int) -> int:
        """Let go of all but the newest `keep` segments, also of a parked session. Returns how many
        went. Not within a step."""
        count = max(0, len(trunk.segments) - keep)
        for _ in range(count):
            self.pool.release(trunk.segments.popleft().pages)
        if trunk.parked is not None:
            del trunk.parked[1 : 1 + count]  # the first are the sink's
        return count

    def pages(self, trunk: Trunk) -> list[int]:
        """The pages of all that is resident, in the order of its tokens."""
        return [page for segment in trunk.resident() for page in segment.pages]

    def park(self, trunk: Trunk) -> None:
        """Give up a session's pages and its reservation; somebody has copied their content. Only
        while no branch reads them, and between steps."""
        assert trunk.parked is None, "parked twice"
        assert not trunk.branches, "parked under a branch"
        places = {page: place for place, page in enumerate(trunk.reservation.pages)}
        trunk.parked = [[places[page] for page in each.pages] for each in trunk.resident()]
        for segment in trunk.resident():
            self.pool.release(segment.pages)
            segment.pages = []
        self.pool.give_back(trunk.reservation)

    def bring_back(self, trunk: Trunk) -> list[int]:
        """Admit a parked session again. Gives its new pages, for the content of the old ones in
        the same order; they lie to each other as those did, so that sums over them are the same
        to the last bit. Raises ResourceExhaustedError when full; it stays parked then."""
        assert trunk.parked is not None, "brought back without being parked"
        trunk.reservation = self.pool.reserve(trunk.shape.cost(self.pool.page_size))
        for segment, places in zip(trunk.resident(), trunk.parked, strict=True):
            segment.pages = self.pool.allocate_at(trunk.reservation, places)
        trunk.parked = None
        return self.pages(trunk)

    def append_segment(
        self, trunk: Trunk, num_tokens: int, advance: int, captured_ns: tuple[int, int]
    ) -> Segment:
        """Room for one more segment; the oldest leaves when the window is full.

        num_tokens, advance: its own, at most those of the trunk's shape.

        Evicted pages stay readable until `end_step`, because earlier segments of the same step
        may still attend to them.
        """
        assert num_tokens <= trunk.shape.segment_tokens, "a segment beyond its session's shape"
        assert trunk.parked is None, "a segment of a parked session"
        pages = self.pool.allocate(trunk.reservation, self.pool.pages_for(num_tokens))
        segment = Segment(pages, num_tokens, trunk.cursor, captured_ns)
        trunk.cursor += advance
        trunk.segments.append(segment)
        while len(trunk.segments) > trunk.shape.window_segments:
            self._retired.append(trunk.segments.popleft())
        return segment

    def end_step(self) -> None:
        """Release what was evicted during the step that just ran."""
        for segment in self._retired:
            self.pool.release(segment.pages)
        self._retired.clear()

    def withdraw(self, trunk: Trunk, wanted: int, least: int = 0) -> int:
        """Take the oldest evicted segments from the branches that still read them, which then go on
        without, until `wanted` pages are free or no more than `least` pages of the past are left.
        Returns how many segments that was. Not within a step, whose runs may read them."""
        if trunk.num_free >= wanted:
            return 0
        living = {id(segment) for segment in trunk.segments}
        pinned = {
            id(segment): segment
            for branch in trunk.branches
            for segment in branch.seen[1:]
            if id(segment) not in living
        }
        left = sum(len(segment.pages) for segment in pinned.values())
        taken = 0
        for segment in pinned.values():  # branches are in order of age, and so are their segments
            if trunk.num_free >= wanted or left <= least:
                break
            left -= len(segment.pages)
            taken += 1
            for branch in trunk.branches:
                if segment in branch.seen:
                    branch.seen.remove(segment)
                    self.pool.release(segment.pages)
        return taken

    def pinned_window(self, trunk: Trunk) -> int:
        """Pages of the window that a branch reads as well: a rebase needs as many free ones."""
        shared = [each for each in trunk.segments if self.pool.is_shared(each.pages)]
        return sum(len(segment.pages) for segment in shared)

    def rebase(self, trunk: Trunk) -> tuple[int, list[int], list[int]]:
        """Let the window begin right after the sink again. Returns by how many positions its keys
        are to be moved, its pages, and the pages that it has from now on: the same ones, or new
        ones where a branch goes on reading the old. Raises ResourceExhaustedError, changing
        nothing, when fewer than `pinned_window` pages are free."""
        assert trunk.parked is None, "a rebase of a parked session"
        fresh = self.pool.allocate(trunk.reservation, self.pinned_window(trunk))
        delta = trunk.shape.sink_tokens - trunk.segments[0].cursor
        old: list[int] = []
        new: list[int] = []
        for n, segment in enumerate(trunk.segments):
            old += segment.pages
            if self.pool.is_shared(segment.pages):
                pages, fresh = fresh[: len(segment.pages)], fresh[len(segment.pages) :]
                self.pool.release(segment.pages)
                segment = replace(segment, pages=pages)
                trunk.segments[n] = segment
            segment.cursor += delta
            new += segment.pages
        trunk.cursor += delta
        return delta, old, new

    def open_branch(self, trunk: Trunk, *, alone: bool = False) -> Branch:
        """Snapshot the trunk for one question; `alone`, the sink without the window. It takes no
        pages before it grows."""
        assert trunk.parked is None, "a branch off a parked session"
        if alone:
            branch = Branch(trunk, [trunk.sink], trunk.shape.sink_tokens)
        else:
            branch = Branch(trunk, trunk.resident(), trunk.cursor)
        for segment in branch.seen:
            self.pool.retain(segment.pages)
        trunk.branches.append(branch)
        return branch

    def missing(self, branch: Branch, count: int) -> int:
        """Pages that the branch's next `count` tokens take beyond those it has."""
        return self.pool.pages_for(branch.num_tokens + count) - len(branch.pages)

    def extend(self, branch: Branch, count: int) -> list[int]:
        """Pool slots (page * page_size + offset) of the branch's next `count` tokens.

        Raises ResourceExhaustedError, taking none, when fewer than `missing` pages are free.
        """
        end = branch.num_tokens + count
        fresh = self.pool.allocate(branch.trunk.reservation, max(0, self.missing(branch, count)))
        branch.pages += fresh
        branch.trunk.branch_pages += len(fresh)
        slots = self.slots(branch.pages, branch.num_tokens, end)
        branch.num_tokens = end
        return slots

    def empty_branch(self, branch: Branch) -> None:
        """Give a branch's own pages back; it can grow again from its first token, and still sees
        what it saw."""
        self.pool.release(branch.pages)
        branch.trunk.branch_pages -= len(branch.pages)
        branch.pages = []
        branch.num_tokens = 0

    def slots(self, pages: list[int], start: int, end: int) -> list[int]:
        size = self.pool.page_size
        return [pages[n // size] * size + n % size for n in range(start, end)]

    def close_branch(self, branch: Branch) -> None:
        """Give everything back; closing twice is harmless."""
        if branch.closed:
            return
        branch.closed = True
        self.empty_branch(branch)
        for segment in branch.seen:
            self.pool.release(segment.pages)
        branch.trunk.branches.remove(branch)

    def close_trunk(self, trunk: Trunk) -> None:
        """End a session: its branches first, then its pages, at once."""
        for branch in list(trunk.branches):
            self.close_branch(branch)
        for segment in trunk.resident():
            self.pool.release(segment.pages)
        self._trunks.remove(trunk)
        if trunk.parked is None:
            self.pool.give_back(trunk.reservation)

    def check_integrity(self) -> None:
        """Every page is held exactly as often as its count says. Raises AssertionError."""
        held: Counter[int] = Counter({NULL_PAGE: 1})
        for trunk in self._trunks:
            for segment in trunk.resident():
                held.update(segment.pages)
            branch_pages = 0
            for branch in trunk.branches:
                assert not branch.closed
                branch_pages += len(branch.pages)
                held.update(branch.pages)
                for segment in branch.seen:
                    held.update(segment.pages)
            assert branch_pages == trunk.branch_pages, "pages of branches miscounted"
            assert len(trunk.segments) <= trunk.shape.window_segments
            if trunk.parked is not None:
                assert not trunk.branches, "a branch reads a parked session"
                assert not self.pages(trunk), "a parked session holds pages"
        for segment in self._retired:
            held.update(segment.pages)
        resident = [trunk for trunk in self._trunks if trunk.parked is None]
        for trunk in resident:
            cost = trunk.shape.cost(self.pool.page_size)
            assert len(trunk.reservation.pages) == cost, "admission miscounted"
        self.pool.check_integrity(held, [trunk.reservation for trunk in resident])
