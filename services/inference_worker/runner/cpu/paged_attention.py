"""Attention of one step over the pages of many sessions.

A session's pages usually lie in a row (see `pool`), with few or none between them that it does
not see. Such a row is read where it lies, and rows that follow each other by one call: copying
keys and values together first took more than twice as long as the attention itself. Pages that are
scattered, as they are after sessions of different sizes came and went, are gathered. A mask says
which query sees which slot; so twenty questions about one video read its window once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.inference_worker.kv.pool import NULL_PAGE
from services.inference_worker.kv.tensors import KVTensors, PageRows
from services.inference_worker.model.attention import grouped_attention
from services.inference_worker.runner.batch import Run
from services.inference_worker.runner.cpu.paged_parts import StepPart, parts_of


@dataclass(slots=True)
class _Call:
    """Parts of the step whose attention is one padded batch."""

    pages: Tensor | PageRows
    queries: Tensor | slice  # [groups * queries], rows of the flat step; padding points at row 0
    shape: tuple[int, int]  # groups, queries
    mask: Tensor  # as `grouped_attention` takes it, model dtype
    valid: Tensor | slice | None  # rows of the padded batch that are real; None: all of them
    rows: Tensor | slice  # flat rows they belong to


class PagedAttention:
    """Attention of the runs of one step, which are in order of their groups. Writes the new keys
    and values to `slots` [tokens] first, then attends."""

    def __init__(self, store: KVTensors, slots: Tensor, runs: list[Run]) -> None:
        self.store = store
        self.slots = slots
        parts = parts_of(runs, store.page_size)
        self._num_tokens = parts[-1].end
        self._calls = [self._call(members) for members in _together(parts)]

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        self.store.write(layer, self.slots, keys, values)
        out = torch.empty_like(queries)
        out[self._num_tokens :] = 0  # rows of padding must be numbers
        for call in self._calls:
            picked = queries[call.queries].unflatten(0, call.shape)
            pages = self.store.read(layer, call.pages)
            if isinstance(call.rows, slice) and call.valid is None:
                into = out[call.rows].unflatten(0, call.shape)
                grouped_attention(picked, *pages, call.mask, into)
            else:
                attended = grouped_attention(picked, *pages, call.mask).flatten(0, 1)
                out[call.rows] = attended if call.valid is None else attended[call.valid]
        return out

    def _call(self, parts: list[StepPart]) -> _Call:
        width, slots, size = parts[0].width, parts[0].slots, self.store.page_size
        visible = np.zeros((len(parts), width, slots), dtype=bool)
        queries = np.zeros((len(parts), width), dtype=np.int64)
        for n, part in enumerate(parts):
            queries[n, : part.num_queries] = np.arange(part.start, part.end)
            visible[n, : part.num_queries] = part.visible(slots, size)
        widths = np.array([part.num_queries for part in parts])
        real = np.arange(width)[None, :] < widths[:, None]
        visible[~real, 0] = True  # padding must attend to something, or it is NaN
        flat = queries.reshape(-1)
        whole = bool(real.all())
        # Groups that begin at the same place are not for oneDNN (see `scaled_attention`).
        groups = 1 if _read_one_row(parts) else len(parts)
        return _Call(
            pages=self._pages(parts, groups),
            queries=self._index(flat),
            shape=(groups, len(flat) // groups),
            mask=self._additive(~visible.reshape(groups, -1, slots)),
            valid=None if whole else self._index(np.flatnonzero(real)),
            rows=self._index(flat[real.reshape(-1)]),
        )

    def _additive(self, hidden: NDArray[np.bool_]) -> Tensor:
        """The mask of what is `hidden` [groups, queries, slots]: [groups, 1, shared × queries,
        slots], the queries' rows once for every head of those that share keys."""
        mask = torch.zeros(hidden.shape, dtype=self.store.dtype, device=self.store.device)
        mask.masked_fill_(torch.as_tensor(hidden, device=self.store.device), float("-inf"))
        return mask.repeat(1, self.store.heads_per_kv_head, 1)[:, None]

    def _index(self, rows: NDArray[np.int64]) -> Tensor | slice:
        """Rows to be taken; a slice copies nothing."""
        if np.all(np.diff(rows) == 1):
            return slice(int(rows[0]), int(rows[-1]) + 1)
        return torch.as_tensor(rows, device=self.store.device)

    def _pages(self, parts: list[StepPart], groups: int) -> Tensor | PageRows:
        first = parts[0]
        if first.row is not None:
            return PageRows(first.first, len(first.row), groups, first.slots)
        pages = np.full((groups, first.slots // self.store.page_size), NULL_PAGE)
        for row, part in zip(pages, parts, strict=True):
            row[: len(part.places)] = list(part.places)
        return torch.as_tensor(pages, device=self.store.device)


def _read_one_row(parts: list[StepPart]) -> bool:
    """Frames of one burst."""
    return parts[0].row is not None and parts[0].first == parts[-1].first


def _together(parts: list[StepPart]) -> Iterator[list[StepPart]]:
    """Parts by call: those of one shape, which read one row or rows that follow each other, or have
    none; as many as a power of two, because there is a kernel for every number."""
    alike: dict[tuple[int, int, int], list[StepPart]] = {}
    for part in parts:
        length = 0 if part.row is None else len(part.row)
        alike.setdefault((part.width, part.slots, length), []).append(part)
    for (_, _, length), members in alike.items():
        # Whole bursts, which read one row, or first frames of all sessions and then second ones:
        # whichever gives fewer calls.
        if (members[-1].number + 1) ** 2 < len(members):
            members.sort(key=lambda part: (part.number, part.first))
        else:
            members.sort(key=lambda part: (part.first, part.number))
        begun = 0
        for n in range(1, len(members)):
            apart = members[n].first - members[n - 1].first
            same = members[begun + 1].first - members[begun].first
            if length and (apart != same or apart not in (0, length)):
                yield from _powers(members[begun:n])
                begun = n
        yield from _powers(members[begun:])


def _powers(parts: list[StepPart]) -> Iterator[list[StepPart]]:
    while parts:
        count = 1 << len(parts).bit_length() - 1
        yield parts[:count]
        parts = parts[count:]
