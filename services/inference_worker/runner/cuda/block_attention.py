"""Attention that reads keys and values where they lie, in the pages of the pool.

Nothing is gathered, and no mask is made: each program takes a tile of a session's queries, walks
the pages that `block_tables` lists for it and keeps a running softmax in float32 (Milakov and
Gimelshein, 2018; Dao et al., 2022). The query heads that share a KV head are rows of one tile, so
that every key is read once for all of them, and a window once for all questions of a tile. Where a
step has too few tiles to fill the device, as when it decodes one answer, the pages of a tile are
shared out over several programs and their results joined by a second kernel (Dao et al.,
Flash-Decoding, 2023).

Importing this needs triton. With TRITON_INTERPRET=1 the kernels run on the CPU, for tests.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from services.inference_worker.kv.tensors import Int8Pages, KVTensors, Pages
from services.inference_worker.runner.cuda.block_kernels import (
    attend_kernel,
    join_kernel,
    write_kernel,
)


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tiling of one launch: rows (queries × heads of a KV head) and slots of a tile, and how it
    runs."""

    rows: int
    slots: int
    warps: int
    stages: int


def tiling(rows: int, heads_per_kv: int, head_dim: int, itemsize: int) -> Tiling:
    """Tiling for sessions of which the largest brings `rows` rows.

    128 × 64 with 8 warps is what FlashAttention's kernels in Triton settled on for Hopper. Few rows
    wait for memory only: 16, the least a matrix product takes, and half the warps, so that three
    programs share a multiprocessor and hide each other's loads. Compiled for an H100 with heads of
    128 in bfloat16, a thread takes 154 to 222 registers and spills nothing, a program 39 to 98 KiB
    of shared memory; for an A100 wide tiles spill a dozen numbers of a thread. float32 takes half
    of each side. `python -m benchmarks gpu` measures others.
    """
    least = max(16, triton.next_power_of_2(heads_per_kv))
    if rows <= 16 and least == 16:
        found = Tiling(16, 64, 4, 3)
    elif rows <= 64 and least <= 64:
        found = Tiling(64, 64, 4, 3)
    else:
        found = Tiling(max(128, least), 64, 8, 3)
    if itemsize > 2 or head_dim > 128:
        rows_of_wide = max(least, found.rows // 2)
        found = Tiling(rows_of_wide, max(16, found.slots // 2), found.warps, 2)
    return found


@dataclass(frozen=True, slots=True)
class AttentionTables:
    """The tables of one step on the device (see `Tables`), and how they are walked."""

    slots: Tensor
    tiles: Tensor
    limits: Tensor
    starts: Tensor
    lists: Tensor
    tiling: Tiling
    splits: int

    @property
    def shape(self) -> tuple[int, int, Tiling, int]:
        """Launches of the same shape differ in what they read only."""
        return len(self.slots), len(self.tiles), self.tiling, self.splits


class BlockAttention:
    """An `Attend`: writes a step's keys and values, then attends through block tables."""

    def __init__(self, store: KVTensors, where: AttentionTables) -> None:
        self.store = store
        self.where = where

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        pools = self.store.keys[layer], self.store.values[layer]
        write(*pools, self.where.slots, keys, values)
        return attend(*pools, queries, self.where)


def write(
    key_pages: Pages, value_pages: Pages, slots: Tensor, keys: Tensor, values: Tensor
) -> None:
    """Store `keys`, `values` [tokens, kv_heads, head_dim] in `slots` [tokens], in one kernel: what
    `Pages.write` does, with the same roundings."""
    tokens, heads, dim = keys.shape
    assert keys.stride(2) == values.stride(2) == 1
    key_pool, value_pool = key_pages.parts[0], value_pages.parts[0]
    write_kernel[(tokens,)](
        keys,
        values,
        key_pool,
        value_pool,
        key_pages.parts[-1],
        value_pages.parts[-1],
        slots,
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        key_pool.stride(0),
        HEADS=heads,
        BLOCK_HEADS=triton.next_power_of_2(heads),
        DIM=dim,
        BLOCK_DIM=triton.next_power_of_2(dim),
        INT8=isinstance(key_pages, Int8Pages),
        num_warps=4,
    )


def attend(key_pages: Pages, value_pages: Pages, queries: Tensor, where: AttentionTables) -> Tensor:
    """[tokens, heads, head_dim] of `queries` of that shape. Rows of padding are zero."""
    tokens, heads, dim = queries.shape
    key_pool, value_pool = key_pages.parts[0], value_pages.parts[0]
    kv_heads, _, page_size, _ = key_pool.shape
    how, splits = where.tiling, where.splits
    assert queries.stride(2) == 1
    out = torch.empty((tokens, heads, dim), dtype=queries.dtype, device=queries.device)
    if splits == 1:
        sums, norms = out, out  # not used
    else:
        sums = out.new_empty((splits, tokens, heads, dim), dtype=torch.float32)
        norms = out.new_empty((splits, tokens, heads, 2), dtype=torch.float32)
    block_dim = max(16, triton.next_power_of_2(dim))
    attend_kernel[(len(where.tiles), kv_heads, splits)](
        queries,
        key_pool,
        value_pool,
        key_pages.parts[-1],
        value_pages.parts[-1],
        out,
        sums,
        norms,
        where.tiles,
        where.limits,
        where.starts,
        where.lists,
        dim**-0.5,
        tokens,
        splits,
        queries.stride(0),
        queries.stride(1),
        key_pool.stride(0),
        KV_HEADS=kv_heads,
        SHARING=heads // kv_heads,
        PAGE=page_size,
        DIM=dim,
        BLOCK_DIM=block_dim,
        ROWS=how.rows,
        SLOTS=how.slots,
        SPLIT=splits > 1,
        INT8=isinstance(key_pages, Int8Pages),
        num_warps=how.warps,
        num_stages=how.stages,
    )
    if splits > 1:
        join_kernel[(tokens, heads)](
            sums,
            norms,
            out,
            tokens,
            splits,
            HEADS=heads,
            DIM=dim,
            BLOCK_DIM=block_dim,
            num_warps=4,
        )
    return out
