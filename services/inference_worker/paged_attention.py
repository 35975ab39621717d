"""Attention of one step over the pages of many sessions.

A session's pages usually lie in a row (see `kv_cache`), with few or none between them that it does
not see. Such a row is read where it lies, and rows that are equally far apart by one call: copying
keys and values together first took more than twice as long as the attention itself. Pages that are
scattered, as they are after sessions of different sizes came and went, are gathered. A mask says
which query sees which slot; so twenty questions about one video read its window once.

Where two matrix products are faster (see `prefers_products`), copying is next to nothing beside
them: each session has them with the slots that it sees, and no others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.inference_worker.kv_cache import NULL_PAGE
from services.inference_worker.kv_store import KVStore, PageRows
from services.inference_worker.model.attention import (
    grouped_attention,
    prefers_products,
    product_attention,
)
from services.inference_worker.step import Run, rounded

SPARSE = 1.5
"""Pages are gathered when the row they lie in holds so many times as many."""
_UNSEEN = np.int32(2**30)
_MANY_QUERIES = 32  # of a session in one step: a frame's
_LANES = 32  # of a vector


@dataclass(slots=True)
class _Session:
    """One session's part of a step: its runs with the flat row at which each begins, which follow
    each other.

    `places`: for every page that one of them may see, its number among those that are read,
    which are `count` from `first` on, or `count` gathered ones when `first` is None.
    """

    runs: list[tuple[int, Run]]
    num_queries: int
    places: dict[int, int]
    first: int | None
    count: int

    def visible(self, count: int, page_size: int) -> NDArray[np.bool_]:
        """[queries, slots]: which slots of the first `count` pages read each query sees."""
        return np.concatenate(
            [_visible(run, self.places, count, page_size) for _, run in self.runs]
        )


@dataclass(slots=True)
class _Call:
    """Sessions whose attention is one padded batch."""

    pages: Tensor | PageRows
    queries: Tensor  # [groups * queries] int64, rows of the flat step; padding points at row 0
    shape: tuple[int, int]  # groups, queries
    mask: Tensor  # as `grouped_attention` takes it, model dtype
    valid: Tensor | None  # rows of the padded batch that are real; None: all of them
    rows: Tensor  # flat rows they belong to


@dataclass(slots=True)
class _Products:
    """Sessions with as many queries each, whose rows follow each other.

    rows: of the flat step. shape: sessions, queries. padded: queries with padding. seen: of each,
    its slots as `KVStore.places` has them, last those that some queries do not see, and the mask
    of these, as `product_attention` takes it.
    """

    rows: slice
    shape: tuple[int, int]
    padded: int
    seen: list[tuple[Tensor, Tensor]]


class PagedAttention:
    """Attention of the runs of one step, which are in order of their groups. Writes the new keys
    and values to `slots` [tokens] first, then attends."""

    def __init__(self, store: KVStore, slots: Tensor, runs: list[Run]) -> None:
        self.store = store
        self.slots = slots
        few, many = list[_Session](), list[_Session]()
        for session in _sessions(runs):
            rows = session.num_queries * store.heads_per_kv_head
            by_products = prefers_products(store.dtype, store.device, rows)
            (many if by_products else few).append(session)
        self._calls = [self._call(members) for members in _together(few)]
        self._products = [self._product(members) for members in _alike_in_a_row(many)]

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
        for each in self._products:
            out[each.rows] = self._attended(
                layer, queries[each.rows].unflatten(0, each.shape), each
            )
        return out

    def _attended(self, layer: int, queries: Tensor, sessions: _Products) -> Tensor:
        """[rows, num_heads, dim] of [sessions, queries, num_heads, dim]."""
        num_heads, dim = queries.shape[2:]
        kv_heads = num_heads // self.store.heads_per_kv_head
        grouped = queries.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)
        count = grouped.shape[3]
        scaled = queries.new_zeros((*grouped.shape[:3], sessions.padded, dim))
        torch.mul(grouped, dim**-0.5, out=scaled[..., :count, :])
        out = [
            product_attention(own, *self.store.gather(layer, places), mask)
            for own, (places, mask) in zip(scaled.flatten(2, 3), sessions.seen, strict=True)
        ]
        attended = torch.stack(out).view(scaled.shape)[..., :count, :].permute(0, 3, 1, 2, 4)
        return attended.reshape(-1, num_heads, dim)

    def _product(self, sessions: list[_Session]) -> _Products:
        start, count = sessions[0].runs[0][0], sessions[0].num_queries
        few = count <= _MANY_QUERIES
        padded = rounded(count) if few else count
        return _Products(
            rows=slice(start, start + len(sessions) * count),
            shape=(len(sessions), count),
            padded=padded,
            seen=[self._seen(session, padded, 256 if few else 64) for session in sessions],
        )

    def _seen(self, session: _Session, rows: int, unit: int) -> tuple[Tensor, Tensor]:
        """Slots and mask of `rows` queries. Slots are a multiple of `unit`, for there is a kernel
        for every number of rows and slots: of few rows, which are of many numbers, some more
        slots cost less than new kernels."""
        size, device = self.store.page_size, self.store.device
        visible = session.visible(session.count, size)
        whole = visible.all(axis=0)
        seen = np.concatenate((np.flatnonzero(whole), np.flatnonzero(visible.any(axis=0) & ~whole)))
        padding = -len(seen) % unit
        masked = len(seen) - int(whole.sum()) + padding
        masked += -masked % _LANES
        hidden = np.ones((rows, len(seen) + padding), dtype=bool)
        hidden[:, 0] = False  # padding must attend to something, or it is NaN
        hidden[: len(visible), : len(seen)] = ~visible[:, seen]
        seen = np.pad(seen, (0, padding), constant_values=seen[0])
        page_of = np.zeros(session.count, dtype=np.int64)
        page_of[list(session.places.values())] = list(session.places)
        slots = torch.as_tensor(page_of[seen // size] * size + seen % size, device=device)
        mask = torch.zeros((rows, masked), dtype=self.store.dtype, device=device)
        mask.masked_fill_(
            torch.as_tensor(hidden[:, len(seen) - masked :], device=device), float("-inf")
        )
        return self.store.places(slots), mask.repeat(self.store.heads_per_kv_head, 1)

    def _call(self, sessions: list[_Session]) -> _Call:
        width = max(session.num_queries for session in sessions)
        count = max(session.count for session in sessions)
        size = self.store.page_size
        visible = np.zeros((len(sessions), width, count * size), dtype=bool)
        queries = np.zeros((len(sessions), width), dtype=np.int64)
        for n, session in enumerate(sessions):
            start = session.runs[0][0]
            queries[n, : session.num_queries] = np.arange(start, start + session.num_queries)
            visible[n, : session.num_queries] = session.visible(count, size)
        widths = np.array([session.num_queries for session in sessions])
        real = np.arange(width)[None, :] < widths[:, None]
        visible[~real, 0] = True  # padding must attend to something, or it is NaN
        device = self.store.device
        mask = torch.zeros(visible.shape, dtype=self.store.dtype, device=device)
        mask.masked_fill_(torch.as_tensor(~visible, device=device), float("-inf"))
        flat = torch.as_tensor(queries.reshape(-1), device=device)
        whole = bool(real.all())
        valid = None if whole else torch.as_tensor(np.flatnonzero(real), device=device)
        return _Call(
            pages=self._pages(sessions, count),
            queries=flat,
            shape=(len(sessions), width),
            mask=mask.repeat(1, self.store.heads_per_kv_head, 1)[:, None],
            valid=valid,
            rows=flat if valid is None else flat.index_select(0, valid),
        )

    def _pages(self, sessions: list[_Session], count: int) -> Tensor | PageRows:
        first = sessions[0].first
        if first is not None:
            second = sessions[1].first if len(sessions) > 1 else None
            stride = 0 if second is None else second - first
            return PageRows(first, stride, len(sessions), count)
        pages = np.full((len(sessions), count), NULL_PAGE, dtype=np.int64)
        for row, session in zip(pages, sessions, strict=True):
            row[: len(session.places)] = list(session.places)
        return torch.as_tensor(pages, device=self.store.device)


def _sessions(runs: list[Run]) -> list[_Session]:
    grouped: dict[int, list[tuple[int, Run]]] = {}
    row = 0
    for run in runs:
        grouped.setdefault(run.group, []).append((row, run))
        row += len(run.slots)
    return [_session(members) for members in grouped.values()]


def _together(sessions: list[_Session]) -> Iterator[list[_Session]]:
    """By call: those that bring about as many queries and whose pages are read alike."""
    alike: dict[tuple[int, int], list[_Session]] = {}
    for session in sessions:
        # Only rows of one length are read together: a row must not reach into the next session.
        count = 0 if session.first is None else session.count
        alike.setdefault((rounded(session.num_queries), count), []).append(session)
    for (_, count), members in alike.items():
        yield from _equally_spaced(members) if count else [members]


def _alike_in_a_row(sessions: list[_Session]) -> Iterator[list[_Session]]:
    """Split so that the rows of each part follow each other, equally many of each."""
    part: list[_Session] = []
    for session in sessions:
        if part and not (
            session.num_queries == part[0].num_queries
            and session.runs[0][0] == part[-1].runs[0][0] + part[-1].num_queries
        ):
            yield part
            part = []
        part.append(session)
    if part:
        yield part


def _session(runs: list[tuple[int, Run]]) -> _Session:
    pages = dict[int, None]()
    for _, run in runs:
        for segment in run.seen:
            pages.update(dict.fromkeys(segment.pages))
        pages.update(dict.fromkeys(run.own_pages))
    num_queries = sum(len(run.slots) for _, run in runs)
    first, last = min(pages), max(pages)
    if last - first + 1 <= SPARSE * len(pages):
        places = {page: page - first for page in pages}
        return _Session(runs, num_queries, places, first, last - first + 1)
    places = {page: number for number, page in enumerate(pages)}
    return _Session(runs, num_queries, places, None, -(-len(pages) // 8) * 8)


def _equally_spaced(sessions: list[_Session]) -> Iterator[list[_Session]]:
    """Split so that the first pages of each part are equally far apart."""
    part: list[_Session] = []
    for session in sorted(sessions, key=_first):
        if len(part) > 1 and _first(session) - _first(part[-1]) != _first(part[1]) - _first(
            part[0]
        ):
            yield part
            part = []
        part.append(session)
    yield part


def _first(session: _Session) -> int:
    assert session.first is not None
    return session.first


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
