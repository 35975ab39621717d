"""Whose tokens a step computes, and which slots of the pool each of them sees."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.inference_worker.kv_store import KVStore
from services.inference_worker.step import Run

SPARSE = 1.5
"""Pages are gathered when the row they lie in holds so many times as many."""
_UNSEEN = np.int32(2**30)

T = TypeVar("T")


@dataclass(slots=True)
class StepSession:
    """One session's part of a step: its runs, whose rows are `num_queries` of the flat step from
    `start` on.

    `places`: for every page that one of them may see, its number among those that are read,
    which are `count` from `first` on, or `count` gathered ones when `first` is None.
    """

    runs: list[Run]
    start: int
    num_queries: int
    places: dict[int, int]
    first: int | None
    count: int

    @classmethod
    def of(cls, runs: list[Run], start: int) -> "StepSession":
        pages = dict[int, None]()
        for run in runs:
            for segment in run.seen:
                pages.update(dict.fromkeys(segment.pages))
            pages.update(dict.fromkeys(run.own_pages))
        num_queries = sum(len(run.slots) for run in runs)
        first, last = min(pages), max(pages)
        if last - first + 1 <= SPARSE * len(pages):
            places = {page: page - first for page in pages}
            return cls(runs, start, num_queries, places, first, last - first + 1)
        places = {page: number for number, page in enumerate(pages)}
        return cls(runs, start, num_queries, places, None, -(-len(pages) // 8) * 8)

    @property
    def end(self) -> int:
        return self.start + self.num_queries

    def visible(self, count: int, page_size: int) -> NDArray[np.bool_]:
        """[queries, slots]: which slots of the first `count` pages read each query sees."""
        return np.concatenate([_visible(run, self.places, count, page_size) for run in self.runs])


def sessions_of(runs: list[Run]) -> list[StepSession]:
    """Of runs that are in order of their groups, which are the sessions."""
    grouped: dict[int, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.group, []).append(run)
    sessions = list[StepSession]()
    for members in grouped.values():
        sessions.append(StepSession.of(members, sessions[-1].end if sessions else 0))
    return sessions


def additive(hidden: NDArray[np.bool_], store: KVStore) -> Tensor:
    """The mask of what is `hidden` [groups, queries, slots]: [groups, 1, shared × queries, slots],
    the queries' rows once for every head of those that share keys."""
    mask = torch.zeros(hidden.shape, dtype=store.dtype, device=store.device)
    mask.masked_fill_(torch.as_tensor(hidden, device=store.device), float("-inf"))
    return mask.repeat(1, store.heads_per_kv_head, 1)[:, None]


def split(items: Iterable[T], fits: Callable[[list[T], T], bool]) -> Iterator[list[T]]:
    """Consecutive items in parts: each goes to the last one if it fits there."""
    part = list[T]()
    for item in items:
        if part and not fits(part, item):
            yield part
            part = []
        part.append(item)
    if part:
        yield part


def _visible(run: Run, places: dict[int, int], count: int, page_size: int) -> NDArray[np.bool_]:
    """[queries, slots]: which slots of the `count` pages that are read each token of a run sees."""
    number = np.full((count, page_size), _UNSEEN, dtype=np.int32)
    offsets = np.arange(page_size, dtype=np.int32)
    whole = [page for each in run.seen for page in each.pages[: each.num_tokens // page_size]]
    number[[places[page] for page in whole]] = -1
    for segment in run.seen:
        if rest := segment.num_tokens % page_size:
            number[places[segment.pages[segment.num_tokens // page_size]], :rest] = -1
    for index, page in enumerate(run.own_pages):
        number[places[page]] = index * page_size + offsets
    end = run.own_start + len(run.slots)
    own = np.arange(run.own_start, end) if run.causal else np.full(len(run.slots), end - 1)
    return number.reshape(-1)[None, :] <= own[:, None]
