"""Attention of one step over the pages of many sessions.

A session's pages usually lie in a row (see `kv_cache`), with few or none between them that it does
not see. Such a row is read where it lies, and rows that are equally far apart by one call: copying
keys and values together first took more than twice as long as the attention itself. Pages that are
scattered, as they are after sessions of different sizes came and went, are gathered. A mask says
which query sees which slot; so twenty questions about one video read its window once.

Where many queries attend faster by matrix products, they do: see `paged_products`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.inference_worker.kv_cache import NULL_PAGE
from services.inference_worker.kv_store import KVStore, PageRows
from services.inference_worker.model.attention import grouped_attention, prefers_products
from services.inference_worker.paged_products import PagedProducts
from services.inference_worker.paged_sessions import StepSession, additive, sessions_of, split
from services.inference_worker.step import Run, rounded


@dataclass(slots=True)
class _Call:
    """Sessions whose attention is one padded batch."""

    pages: Tensor | PageRows
    queries: Tensor  # [groups * queries] int64, rows of the flat step; padding points at row 0
    shape: tuple[int, int]  # groups, queries
    mask: Tensor  # as `grouped_attention` takes it, model dtype
    valid: Tensor | None  # rows of the padded batch that are real; None: all of them
    rows: Tensor  # flat rows they belong to


class PagedAttention:
    """Attention of the runs of one step, which are in order of their groups. Writes the new keys
    and values to `slots` [tokens] first, then attends."""

    def __init__(self, store: KVStore, slots: Tensor, runs: list[Run]) -> None:
        self.store = store
        self.slots = slots
        few, many = list[StepSession](), list[StepSession]()
        for session in sessions_of(runs):
            rows = session.num_queries * store.heads_per_kv_head
            by_products = prefers_products(store.dtype, store.device, rows)
            (many if by_products else few).append(session)
        self._calls = [self._call(members) for members in _together(few)]
        self._products = [
            PagedProducts(store, members) for members in split(many, PagedProducts.alike)
        ]

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        self.store.write(layer, self.slots, keys, values)
        out = torch.zeros_like(queries)  # rows of padding must stay numbers
        for call in self._calls:
            picked = queries.index_select(0, call.queries).unflatten(0, call.shape)
            attended = grouped_attention(picked, *self.store.read(layer, call.pages), call.mask)
            attended = attended.flatten(0, 1)
            if call.valid is not None:
                attended = attended.index_select(0, call.valid)
            out.index_copy_(0, call.rows, attended)
        for products in self._products:
            out[products.rows] = products(layer, queries[products.rows])
        return out

    def _call(self, sessions: list[StepSession]) -> _Call:
        width = max(session.num_queries for session in sessions)
        count = max(session.count for session in sessions)
        size = self.store.page_size
        visible = np.zeros((len(sessions), width, count * size), dtype=bool)
        queries = np.zeros((len(sessions), width), dtype=np.int64)
        for n, session in enumerate(sessions):
            queries[n, : session.num_queries] = np.arange(session.start, session.end)
            visible[n, : session.num_queries] = session.visible(count, size)
        widths = np.array([session.num_queries for session in sessions])
        real = np.arange(width)[None, :] < widths[:, None]
        visible[~real, 0] = True  # padding must attend to something, or it is NaN
        device = self.store.device
        flat = torch.as_tensor(queries.reshape(-1), device=device)
        whole = bool(real.all())
        valid = None if whole else torch.as_tensor(np.flatnonzero(real), device=device)
        return _Call(
            pages=self._pages(sessions, count),
            queries=flat,
            shape=(len(sessions), width),
            mask=additive(~visible, self.store),
            valid=valid,
            rows=flat if valid is None else flat.index_select(0, valid),
        )

    def _pages(self, sessions: list[StepSession], count: int) -> Tensor | PageRows:
        first = sessions[0].first
        if first is not None:
            second = sessions[1].first if len(sessions) > 1 else None
            stride = 0 if second is None else second - first
            return PageRows(first, stride, len(sessions), count)
        pages = np.full((len(sessions), count), NULL_PAGE, dtype=np.int64)
        for row, session in zip(pages, sessions, strict=True):
            row[: len(session.places)] = list(session.places)
        return torch.as_tensor(pages, device=self.store.device)


def _together(sessions: list[StepSession]) -> Iterator[list[StepSession]]:
    """By call: those that bring about as many queries and whose pages are read alike."""
    alike: dict[tuple[int, int], list[StepSession]] = {}
    for session in sessions:
        # Only rows of one length are read together: a row must not reach into the next session.
        count = 0 if session.first is None else session.count
        alike.setdefault((rounded(session.num_queries), count), []).append(session)
    for (_, count), members in alike.items():
        if count:
            yield from split(sorted(members, key=_first), _equally_spaced)
        else:
            yield members


def _equally_spaced(part: list[StepSession], session: StepSession) -> bool:
    """Whether its first page is as far from the last one's as those of `part` from each other."""
    last = _first(part[-1])
    return len(part) == 1 or _first(session) - last == last - _first(part[-2])


def _first(session: StepSession) -> int:
    assert session.first is not None
    return session.first
