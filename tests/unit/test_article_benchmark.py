"""What the article's benchmark compares does the same work both ways."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.pipeline import STAGES, in_turn_s, overlapped_s


class _Stages:
    """Numbers through three stages; `fails` is refused by the last one."""

    def __init__(self, fails: int = -1) -> None:
        self.fails = fails
        self.seen: list[str] = []
        self.threads: set[str] = set()
        self.opened = 0

    def open(self) -> None:
        self.opened += 1

    def close(self) -> None:
        self.opened -= 1

    def decode(self) -> Iterator[int]:
        yield from range(50)

    def _double(self, number: int) -> int:
        self.threads.add(threading.current_thread().name)
        return 2 * number

    def _name(self, number: int) -> str:
        self.threads.add(threading.current_thread().name)
        return f"frame {number}"

    def _take(self, name: str) -> None:
        self.threads.add(threading.current_thread().name)
        if name == f"frame {2 * self.fails}":
            raise RuntimeError(name)
        self.seen.append(name)

    @property
    def rest(self) -> tuple[Any, ...]:
        return (self._double, self._name, self._take)


def test_stages_overlapped_do_what_stages_in_turn_do() -> None:
    one, all_at_once = _Stages(), _Stages()
    assert in_turn_s(one) > 0  # type: ignore[arg-type]
    assert overlapped_s(all_at_once) > 0  # type: ignore[arg-type]
    assert one.seen == all_at_once.seen == [f"frame {2 * number}" for number in range(50)]
    assert len(one.threads) == 1
    assert all_at_once.threads == set(STAGES[1:])
    assert one.opened == all_at_once.opened == 0


def test_a_stage_that_fails_ends_the_run_and_is_told() -> None:
    with pytest.raises(RuntimeError, match="frame 20"):
        overlapped_s(_Stages(fails=10))  # type: ignore[arg-type]
