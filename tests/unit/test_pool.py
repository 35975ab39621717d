"""Pages and reservations of the pool."""

import pytest

from services.inference_worker.kv.pool import PagePool
from sightline.errors import ResourceExhaustedError


def test_a_reservation_takes_all_or_nothing() -> None:
    pool = PagePool(4, 16)
    pool.reserve(2)
    with pytest.raises(ResourceExhaustedError):
        pool.reserve(2)
    assert pool.num_unreserved == 1


def test_pages_are_reserved_in_a_row_where_there_is_one() -> None:
    pool = PagePool(10, 16)
    first, second, third = pool.reserve(2), pool.reserve(2), pool.reserve(2)
    assert [each.pages for each in (first, second, third)] == [[1, 2], [3, 4], [5, 6]]
    pool.give_back(second)
    assert pool.reserve(3).pages == [7, 8, 9]
    assert pool.reserve(2).pages == [3, 4]
    pool.give_back(first)
    pool.give_back(third)
    assert pool.reserve(3).pages == [1, 2, 5]  # no three are left together


def test_pages_that_others_used_are_told() -> None:
    pool = PagePool(10, 16)
    first = pool.reserve(4)
    pool.release(pool.allocate(first, 2))
    pool.give_back(first)
    second = pool.reserve(6)
    assert (first.stale, second.stale) == ([], [1, 2])
    pool.give_back(second)
    assert pool.reserve(9).stale == []  # the one before has cleared them


def test_a_row_is_one_without_gaps() -> None:
    pool = PagePool(10, 16)
    first, second, third = pool.reserve(2), pool.reserve(2), pool.reserve(2)
    assert second.row == range(3, 5)
    for each in (first, third):
        pool.give_back(each)
    assert pool.reserve(6).row is None


def test_the_first_free_page_of_a_reservation_is_used_next() -> None:
    pool = PagePool(10, 16)
    pool.reserve(3)
    mine = pool.reserve(4)
    assert pool.allocate(mine, 3) == [4, 5, 6]
    pool.release([5])
    pool.release([4])
    assert pool.allocate(mine, 3) == [4, 5, 7]
    with pytest.raises(ResourceExhaustedError, match="beyond"):
        pool.allocate(mine, 1)


def test_releasing_twice_is_caught() -> None:
    pool = PagePool(4, 16)
    pages = pool.allocate(pool.reserve(3), 1)
    pool.release(pages)
    with pytest.raises(AssertionError):
        pool.release(pages)
