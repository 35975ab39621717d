"""Steps on a GPU: block tables, one upload, and a decoder that is replayed where it can be.

`Runner` does the same with gathered keys and masks on a CPU. Nothing here waits for the
device; the one thing of a step that does is reading its tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.inference_worker.device.graphs import Graphs
from services.inference_worker.device.upload import packed_bytes, upload
from services.inference_worker.kv.pool import NULL_PAGE
from services.inference_worker.kv.tensors import KVTensors
from services.inference_worker.model.decoder import Deep
from services.inference_worker.model.family import Encoded, StreamingModel
from services.inference_worker.model.layout import VISION
from services.inference_worker.runner.batch import Run, Tubelet, rounded
from services.inference_worker.runner.cuda.block_attention import (
    AttentionTables,
    BlockAttention,
    tiling,
)
from services.inference_worker.runner.cuda.block_tables import (
    largest_group,
    num_splits,
    num_tiles,
    tables,
)
from services.inference_worker.runner.vision import Vision

TABLE_BYTES = 2**22  # of a step that is replayed: pages of hundreds of sessions
_NOBODY = 132  # multiprocessors assumed where there are none: an H100's


class BlockSteps:
    """Runs the model over steps. `graphs`: None to launch every kernel anew; `most_tokens`: of a
    step that is replayed. Only the device thread calls it, in inference mode."""

    def __init__(
        self,
        model: StreamingModel,
        store: KVTensors,
        vision: Vision,
        *,
        dtype: torch.dtype,
        graphs: Graphs | None,
        most_tokens: int,
    ) -> None:
        self.model = model
        self.store = store
        self.vision = vision
        self.dtype = dtype
        self.graphs = graphs
        self.most_tokens = rounded(most_tokens)
        self.device = store.device
        self._multiprocessors = _multiprocessors(store.device)
        self._static: _Static | None = None

    @torch.inference_mode()
    def probe(self) -> None:
        """Attend once in every way, from and to the null page, so that all is compiled before the
        first step. Raises what keeps the kernels from running."""
        config = self.model.decoder.config
        where = self._laid_out([Run(0, [], [NULL_PAGE], 0, [0], [(0, 0, 0)], [0])], [0]).where
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        queries = torch.zeros(1, config.num_heads, config.head_dim, **options)
        keys = torch.zeros(1, config.num_kv_heads, config.head_dim, **options)
        sharing = self.store.heads_per_kv_head
        for rows in (1, 64, 128):
            how = tiling(rows, sharing, config.head_dim, self.dtype.itemsize)
            for splits in (1, 2):
                way = replace(where, tiling=how, splits=splits)
                out = BlockAttention(self.store, way)(0, queries, keys, keys)
                assert not out.any(), "zero attended to zero"

    def forward(
        self, runs: Sequence[Run], last: Sequence[int], ahead: Sequence[Tubelet] = ()
    ) -> Tensor:
        """Hidden states [rounded, hidden] of the rows `last` of runs in the order of their groups.

        ahead: tubelets that no run needs yet, to be encoded beside the decoder.
        """
        tubelets = [run.tubelet for run in runs if run.tubelet is not None]
        self.vision.encode(tubelets)  # first of all: it is under way while tables are made
        step = self._laid_out(runs, last)
        encoded = self.vision.await_(tubelets)
        num_deep = len(encoded[0].deep) if encoded else 0
        hidden, deep = self._embedded(step, encoded, num_deep)
        decoder = self.model.decoder
        attend = BlockAttention(self.store, step.where)

        def decode() -> Tensor:
            rows = torch.arange(len(hidden), device=self.device)
            return decoder(hidden, step.positions, attend, Deep(rows, deep) if deep else None)  # type: ignore[no-any-return]

        if step.static is None or self.graphs is None:
            out = decode()
        else:
            out = step.static.out[: len(hidden)]

            def work() -> None:
                out.copy_(decode())

            self.graphs.run((step.where.shape, num_deep), work)
        self.vision.encode(ahead)
        return out.index_select(0, step.last)

    def _laid_out(self, runs: Sequence[Run], last: Sequence[int]) -> "_Step":
        """A step's tables and indices on the device, by one upload."""
        config = self.model.decoder.config
        words = np.array([token for run in runs for token in run.tokens], dtype=np.int64)
        tokens = rounded(len(words))
        sharing = self.store.heads_per_kv_head
        rows = sharing * largest_group(runs)
        how = tiling(rows, sharing, config.head_dim, self.dtype.itemsize)
        tiles = rounded(num_tiles(runs, how.rows // sharing, tokens))
        found = tables(runs, self.store.page_size, how.rows // sharing, tokens, tiles)
        blocks = -(-found.most_pages * self.store.page_size // how.slots)
        programs = tiles * config.num_kv_heads
        splits = num_splits(programs, blocks, tokens, self._multiprocessors)

        missing = tokens - len(words)
        places = [place for run in runs for place in run.positions] + [(0, 0, 0)] * missing
        slots = [slot for run in runs for slot in run.slots] + [0] * missing  # of the null page
        seen = words == VISION
        # What a graph reads comes first, where it always lies; of the lists it knows the beginning.
        arrays: list[NDArray[Any]] = [
            np.array(places, dtype=np.float32),
            np.array(slots, dtype=np.int64),
            found.tiles,
            found.limits,
            found.starts,
            found.lists,
            np.pad(np.where(seen, 0, words), (0, missing)),
            np.flatnonzero(seen),
            np.pad(np.array(last, dtype=np.int64), (0, rounded(len(last)) - len(last))),
        ]
        static = self._static_for(tokens, packed_bytes(arrays))
        there = upload(arrays, self.device, static.tables if static else None)
        positions, *at, ids, seen_at, last_at = there
        where = AttentionTables(at[0], at[1], at[2], at[3], at[4], how, splits)
        return _Step(positions, where, ids, seen_at, last_at, static)

    def _embedded(
        self, step: "_Step", encoded: Sequence[Encoded], num_deep: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Embeddings [tokens, hidden] of words and pictures, and what the decoder adds to them on
        its way: zero for words, so that a graph need not know which tokens are a picture's."""
        weight, static = self.model.decoder.embedding.weight, step.static
        tokens = len(step.ids)
        if static is None:
            hidden = weight.index_select(0, step.ids)
            deep = [torch.zeros_like(hidden) for _ in range(num_deep)]
        else:
            hidden = static.hidden[:tokens]
            torch.index_select(weight, 0, step.ids, out=hidden)
            deep = [static.deep(n)[:tokens].zero_() for n in range(num_deep)]
        if encoded:
            seen = torch.cat([each.tokens for each in encoded]).to(self.dtype)
            hidden.index_copy_(0, step.seen_at, seen)
        for n, layer in enumerate(deep):
            features = torch.cat([each.deep[n] for each in encoded]).to(self.dtype)
            layer.index_copy_(0, step.seen_at, features)
        return hidden, deep

    def _static_for(self, tokens: int, table_bytes: int) -> "_Static | None":
        """Buffers for the inputs of a step that may be replayed; None for one that is too large."""
        if self.graphs is None or tokens > self.most_tokens or table_bytes > TABLE_BYTES:
            return None
        if self._static is None:
            shape = (self.most_tokens, self.model.decoder.config.hidden_size)
            self._static = _Static(shape, self.dtype, self.device)
        return self._static


@dataclass(slots=True)
class _Step:
    """Step as it was uploaded. `ids`: words, 0 where a picture's tokens go, which is `seen_at`;
    `last`: rows that are wanted. `static`: where the inputs of a graph lie, if it may be one."""

    positions: Tensor
    where: AttentionTables
    ids: Tensor
    seen_at: Tensor
    last: Tensor
    static: "_Static | None"


class _Static:
    """Inputs and outputs of graphs, at addresses that do not change."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.hidden = torch.zeros(shape, dtype=dtype, device=device)
        self.out = torch.zeros_like(self.hidden)
        self.tables = torch.zeros(TABLE_BYTES, dtype=torch.uint8, device=device)
        self._deep: list[Tensor] = []

    def deep(self, number: int) -> Tensor:
        while len(self._deep) <= number:
            self._deep.append(torch.zeros_like(self.hidden))
        return self._deep[number]


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return _NOBODY
    return torch.cuda.get_device_properties(device).multi_processor_count
