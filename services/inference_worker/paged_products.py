"""Attention of sessions with many queries by matrix products.

Each session has its products with the slots that it sees and no others, as many sessions at once as
caches bear. That takes a copy of them, which is little beside what it saves where products are
faster than the fused kernel (see `prefers_products`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.inference_worker.kv_store import KVStore
from services.inference_worker.model.attention import MOST_SCORES, product_attention
from services.inference_worker.paged_sessions import StepSession, additive, split
from services.inference_worker.step import rounded

_MANY_QUERIES = 32  # of a session in one step: a frame's
_LANES = 32  # of a vector


@dataclass(slots=True)
class _Seen:
    """`slots`: what a session sees, last those that some queries do not see; `hidden` [queries,
    last]: which ones."""

    slots: NDArray[np.int64]
    hidden: NDArray[np.bool_]


@dataclass(slots=True)
class _Pair:
    """The sessions of one pair of products: their slots, as `KVStore.places` has them, and their
    masks, as `product_attention` takes them."""

    sessions: slice
    places: Tensor
    mask: Tensor


class PagedProducts:
    """Sessions of one step that bring equally many queries, and whose rows follow each other."""

    def __init__(self, store: KVStore, sessions: list[StepSession]) -> None:
        self.store = store
        self.rows = slice(sessions[0].start, sessions[-1].end)
        self.shape = (len(sessions), sessions[0].num_queries)
        # There is a kernel for every number of rows and slots. Of few queries, which come in many
        # numbers, some more rows and slots cost less than new kernels.
        few = sessions[0].num_queries <= _MANY_QUERIES
        unit = 128 if few else 64
        self.padded = rounded(sessions[0].num_queries) if few else sessions[0].num_queries
        self._pairs = list[_Pair]()
        first = 0
        for part in split([self._seen(session, unit) for session in sessions], self._fits):
            self._pairs.append(self._pair(first, part))
            first += len(part)

    @staticmethod
    def alike(part: list[StepSession], session: StepSession) -> bool:
        """Whether a session belongs to those of `part`."""
        return session.num_queries == part[0].num_queries and session.start == part[-1].end

    def __call__(self, layer: int, queries: Tensor) -> Tensor:
        """[rows, num_heads, dim] of as many."""
        num_heads, dim = queries.shape[1:]
        shared = self.store.heads_per_kv_head
        split_up = queries.view(*self.shape, num_heads // shared, shared, dim)
        split_up = split_up.permute(0, 2, 3, 1, 4)  # sessions, kv_heads, shared, queries, dim
        count = self.shape[1]
        padded = queries.new_zeros((*split_up.shape[:3], self.padded, dim))
        torch.mul(split_up, dim**-0.5, out=padded[..., :count, :])
        heads = padded.flatten(2, 3)  # what comes out takes the place of what went in
        for pair in self._pairs:
            keys, values = self.store.gather(layer, pair.places)
            own = heads[pair.sessions]
            attended = product_attention(
                own.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), pair.mask
            )
            own.copy_(attended.view(own.shape))
        out = padded[..., :count, :].permute(0, 3, 1, 2, 4)
        return out.reshape(queries.shape)

    def _seen(self, session: StepSession, unit: int) -> _Seen:
        """`unit`: of the number of slots."""
        size = self.store.page_size
        visible = session.visible(session.count, size)
        whole = visible.all(axis=0)
        seen = np.concatenate((np.flatnonzero(whole), np.flatnonzero(visible.any(axis=0) & ~whole)))
        padding = -len(seen) % unit
        masked = len(seen) - int(whole.sum()) + padding
        masked += -masked % _LANES
        hidden = np.pad(~visible[:, seen], ((0, 0), (0, padding)), constant_values=True)
        seen = np.pad(seen, (0, padding), constant_values=seen[0])
        pages = np.zeros(session.count, dtype=np.int64)
        pages[list(session.places.values())] = list(session.places)
        slots = pages[seen // size] * size + seen % size
        return _Seen(slots, hidden[:, len(seen) - masked :])

    def _fits(self, part: list[_Seen], seen: _Seen) -> bool:
        scores = (len(part) + 1) * self.store.num_heads * self.padded * len(seen.slots)
        return len(seen.slots) == len(part[0].slots) and scores <= MOST_SCORES

    def _pair(self, first: int, part: list[_Seen]) -> _Pair:
        masked = max(seen.hidden.shape[1] for seen in part)
        hidden = np.zeros((len(part), self.padded, masked), dtype=bool)
        for own, seen in zip(hidden, part, strict=True):
            own[: len(seen.hidden), masked - seen.hidden.shape[1] :] = seen.hidden
        slots = np.stack([seen.slots for seen in part])
        return _Pair(
            sessions=slice(first, first + len(part)),
            places=self.store.places(torch.as_tensor(slots, device=self.store.device)),
            mask=additive(hidden, self.store),
        )
