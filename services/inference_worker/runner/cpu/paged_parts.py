"""Parts of a step: which tokens attend together, and which slots of the pool each of them sees."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from services.inference_worker.runner.batch import Run

_SPARSE = 1.5  # pages are gathered when the row they lie in holds so many times as many
_UNSEEN = np.int32(2**30)


@dataclass(slots=True)
class StepPart:
    """Part of a step that is read together: one frame, or all else that a session has in a step.
    Its rows are `num_queries` of the flat step from `start` on.

    `places`: for every page that one of them may see, its number among those that are read. They
    are `slots` slots from page `first` of `row` on, or as many of gathered pages when `row` is
    None. `width`: what `num_queries` is padded to. `number`: of parts of the same session before.
    """

    runs: list[Run]
    start: int
    number: int
    num_queries: int
    width: int
    places: dict[int, int]
    row: range | None
    first: int
    slots: int

    @classmethod
    def of(cls, runs: list[Run], start: int, number: int, page_size: int) -> "StepPart":
        pages = dict[int, None]()
        for run in runs:
            for segment in run.seen:
                pages.update(dict.fromkeys(segment.pages))
            pages.update(dict.fromkeys(run.own_pages))
        num_queries = sum(len(run.slots) for run in runs)
        # One frame and one token are what most steps bring, and meet in few shapes as they are.
        usual = num_queries == 1 or runs[0].tubelet is not None
        width = num_queries if usual else _more(num_queries, 1)
        row, first, count = runs[0].row, min(pages), max(pages) - min(pages) + 1
        if row is not None and count <= _SPARSE * len(pages):
            places = {page: page - first for page in pages}
            slots = _more(count * page_size, 32 if usual else 4, least=32)
            slots = min(slots, (row.stop - first) * page_size)
            return cls(runs, start, number, num_queries, width, places, row, first, slots)
        places = {page: index for index, page in enumerate(pages)}
        slots = -(-len(pages) // 8) * 8 * page_size
        return cls(runs, start, number, num_queries, width, places, None, 0, slots)

    @property
    def end(self) -> int:
        return self.start + self.num_queries

    def visible(self, slots: int, page_size: int) -> NDArray[np.bool_]:
        """[queries, slots]: which of the first `slots` that are read each query sees."""
        count = -(-slots // page_size)
        seen = [_visible(run, self.places, count, page_size) for run in self.runs]
        return np.concatenate(seen)[:, :slots]


def parts_of(runs: list[Run], page_size: int) -> list[StepPart]:
    """Parts of runs that are in order of their groups, which are the sessions."""
    parts = list[StepPart]()
    numbers = Counter[int]()
    start = 0
    # The frames of a burst see different pages, and are as alike as those of as many sessions.
    for (group, _), members in groupby(runs, lambda run: (run.group, run.tubelet and id(run))):
        parts.append(StepPart.of(list(members), start, numbers[group], page_size))
        start = parts[-1].end
        numbers[group] += 1
    return parts


def _more(count: int, parts: int, least: int = 1) -> int:
    """`count` up to a multiple of `least`, and at most one of `parts` of it more than that takes,
    so that few shapes are met: there is a kernel for each."""
    unit = max(least, (1 << (count - 1).bit_length()) // (2 * parts))
    return -(-count // unit) * unit


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
