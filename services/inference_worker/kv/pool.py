"""Pages of the KV pool, counted by reference and reserved by session. No tensors here.

The pool is a number of equal pages, each holding `page_size` tokens of every layer. A session's
pages are reserved for it when it is admitted: its frames cannot run out. They lie in a row where
the pool has such a row, and a session uses the first free one of its own, so that a window, which
moves for ever, stays within a few pages more than it holds. Its keys are then read in place (see
`paged_attention`). One thread uses all of this.
"""

import heapq
from collections import Counter
from dataclasses import dataclass

import numpy as np

from sightline.errors import ResourceExhaustedError

NULL_PAGE = 0
"""Never handed out; padding in block tables points at it."""


@dataclass(slots=True, eq=False)
class Reservation:
    """Pages that one session may use, ascending. `free`: a heap of those that it does not;
    `stale`: those that others used, whose numbers must not be read."""

    pages: list[int]
    free: list[int]
    stale: list[int]

    @property
    def row(self) -> range | None:
        """The pages, where they lie in a row."""
        row = range(self.pages[0], self.pages[-1] + 1)
        return row if len(row) == len(self.pages) else None


class PagePool:
    """Pages with reference counts, reserved by session."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        if num_pages < 2 or page_size < 1:
            raise ValueError("a pool needs two pages or more of at least one token")
        self.num_pages = num_pages
        self.page_size = page_size
        self.num_used = 0
        self._references = [0] * num_pages
        self._references[NULL_PAGE] = 1
        self._owners: list[Reservation | None] = [None] * num_pages
        self._unreserved = np.ones(num_pages, dtype=bool)
        self._unreserved[NULL_PAGE] = False
        self._used = np.zeros(num_pages, dtype=bool)  # since they were last reserved

    @property
    def num_unreserved(self) -> int:
        return int(self._unreserved.sum())

    @property
    def num_reserved(self) -> int:
        return self.num_pages - 1 - self.num_unreserved

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def reserve(self, count: int) -> Reservation:
        """`count` pages, in a row if there is one. Raises ResourceExhaustedError, taking none."""
        places = np.flatnonzero(self._unreserved)
        if count > len(places):
            raise ResourceExhaustedError(
                f"no room in the KV pool: a session needs {count} pages, "
                f"{len(places)} are not reserved"
            )
        in_row = np.flatnonzero(places[count - 1 :] - places[: len(places) - count + 1] < count)
        first = int(in_row[0]) if len(in_row) else 0
        pages = places[first : first + count].tolist()
        stale = [page for page in pages if self._used[page]]
        reservation = Reservation(pages, list(pages), stale)  # ascending: a heap already
        self._unreserved[pages] = False
        self._used[pages] = False
        for page in pages:
            self._owners[page] = reservation
        return reservation

    def enlarge(self, reservation: Reservation, count: int) -> list[int]:
        """Reserve `count` pages more, those beside the reservation if they are to be had. Returns
        those of them that others used, as of `stale`. Raises ResourceExhaustedError, taking none.
        """
        places = np.flatnonzero(self._unreserved)
        if count > len(places):
            raise ResourceExhaustedError(
                f"no room in the KV pool: a session needs {count} pages more, "
                f"{len(places)} are not reserved"
            )
        last = reservation.pages[-1]
        beside = np.argsort(np.where(places > last, places - last, self.num_pages), kind="stable")
        pages = sorted(places[beside[:count]].tolist())
        stale = [page for page in pages if self._used[page]]
        self._unreserved[pages] = False
        self._used[pages] = False
        for page in pages:
            self._owners[page] = reservation
            heapq.heappush(reservation.free, page)
        reservation.pages = sorted([*reservation.pages, *pages])
        return stale

    def reduce(self, reservation: Reservation, count: int) -> None:
        """Give `count` free pages of a reservation back, the last ones first."""
        assert count <= len(reservation.free), "reduced below what is used"
        pages = sorted(reservation.free)[len(reservation.free) - count :]
        gone = set(pages)
        reservation.pages = [page for page in reservation.pages if page not in gone]
        reservation.free = sorted(set(reservation.free) - gone)  # ascending: a heap already
        for page in pages:
            self._owners[page] = None
        self._unreserved[pages] = True

    def give_back(self, reservation: Reservation) -> None:
        """End a reservation of which no page is used."""
        assert len(reservation.free) == len(reservation.pages), "given back while in use"
        for page in reservation.pages:
            self._owners[page] = None
        self._unreserved[reservation.pages] = True

    def allocate(self, reservation: Reservation, count: int) -> list[int]:
        """The first `count` free pages of a reservation, with one reference each. Raises
        ResourceExhaustedError, taking none, which would mean that a session's cost is wrong."""
        if count > len(reservation.free):
            raise ResourceExhaustedError(
                f"a session beyond its reservation: {count} pages, {len(reservation.free)} left"
            )
        return self._use([heapq.heappop(reservation.free) for _ in range(count)])

    def allocate_at(self, reservation: Reservation, places: list[int]) -> list[int]:
        """The pages with these numbers in a reservation; they must be free."""
        pages = [reservation.pages[place] for place in places]
        reservation.free = sorted(set(reservation.free) - set(pages))
        return self._use(pages)

    def _use(self, pages: list[int]) -> list[int]:
        for page in pages:
            self._references[page] = 1
        self._used[pages] = True
        self.num_used += len(pages)
        return pages

    def is_shared(self, pages: list[int]) -> bool:
        """Whether anybody else holds one of these pages."""
        return any(self._references[page] > 1 for page in pages)

    def retain(self, pages: list[int]) -> None:
        for page in pages:
            assert self._references[page] > 0, f"page {page} retained while free"
            self._references[page] += 1

    def release(self, pages: list[int]) -> None:
        """Drop one reference of each page; a page nobody holds is free at once."""
        for page in pages:
            assert self._references[page] > 0, f"page {page} released twice"
            self._references[page] -= 1
            if self._references[page] == 0:
                owner = self._owners[page]
                assert owner is not None, f"page {page} used without a reservation"
                heapq.heappush(owner.free, page)
                self.num_used -= 1

    def check_integrity(self, held: Counter[int], reservations: list[Reservation]) -> None:
        """`held`: how often each page is really referenced. Raises AssertionError."""
        reserved = [page for reservation in reservations for page in reservation.pages]
        free = [page for reservation in reservations for page in reservation.free]
        assert len(set(reserved)) == len(reserved), "a page is reserved twice"
        assert len(set(free)) == len(free), "a page is free twice"
        assert set(free) <= set(reserved), "a page is free beyond its reservation"
        unreserved = set(range(self.num_pages)) - set(reserved) - {NULL_PAGE}
        assert unreserved == set(np.flatnonzero(self._unreserved).tolist()), "reserved by nobody"
        idle = unreserved | set(free)
        for page, count in enumerate(self._references):
            assert held[page] == count, f"page {page}: counted {count}, held {held[page]}"
            assert (count == 0) == (page in idle), f"page {page}: free list disagrees"
        assert self.num_used == self.num_pages - 1 - len(idle), "use miscounted"
