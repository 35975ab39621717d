"""Ways to attend to a paged window, timed on one layer: ours at several tilings, gathering with
torch's fused attention, FlexAttention with a block mask over the pool, and torch's varlen attention
with a block table.

The last two cannot do what the engine asks of them as it is: FlexAttention wants each session's
queries padded to its blocks, and varlen attention reads whole pages but for the last, in another
layout, where a segment may end in the middle of a page. They get what they can do: the padding,
and windows without such ends.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.inference_worker.kv.tensors import KVTensors
from services.inference_worker.kv.trunk import Segment
from services.inference_worker.model.decoder import DecoderConfig
from services.inference_worker.runner.batch import Run
from services.inference_worker.runner.cpu.paged_attention import PagedAttention
from services.inference_worker.runner.cuda.block_tables import (
    largest_group,
    num_splits,
    num_tiles,
    tables,
)

FLEX_BLOCK = 128
NOTE = 100  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Sessions that each bring `queries` new tokens against a window of whole pages."""

    name: str
    sessions: int
    queries: int
    window_pages: int


@dataclass(frozen=True, slots=True)
class Timed:
    """`seconds`: median of a launch; None: it could not run here, and `note` says why. `error`:
    the largest difference from the reference, of its largest number."""

    way: str
    case: str
    seconds: float | None
    error: float | None
    note: str = ""


class Bench:
    """A layer's pool, filled; pages of a window lie scattered, as they do after evictions."""

    def __init__(
        self, config: DecoderConfig, case: Case, page_size: int, dtype: torch.dtype, device: Any
    ) -> None:
        self.case, self.config, self.page_size = case, replace(config, num_layers=1), page_size
        own = -(-case.queries // page_size)
        each = case.window_pages + own
        pages = np.random.default_rng(0).permutation(np.arange(1, 1 + case.sessions * each))
        self.store = KVTensors(
            self.config,
            "auto",
            num_pages=len(pages) + 1,
            page_size=page_size,
            dtype=dtype,
            device=device,
        )
        for part in self.store.parts:
            part.normal_()
        self.runs = list[Run]()
        for session in range(case.sessions):
            mine = pages[session * each : (session + 1) * each].tolist()
            window, rest = mine[: case.window_pages], mine[case.window_pages :]
            seen = [Segment(window, len(window) * page_size, 0)]
            numbers = range(case.queries)
            slots = [rest[n // page_size] * page_size + n % page_size for n in numbers]
            self.runs.append(Run(session, seen, rest, 0, slots, [], []))
        tokens = case.sessions * case.queries
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        self.queries = torch.randn(tokens, config.num_heads, config.head_dim, **options)
        self.keys, self.values = torch.randn(
            2, tokens, config.num_kv_heads, config.head_dim, **options
        )
        self.slots = torch.tensor([s for run in self.runs for s in run.slots], device=device)

    def gathering(self) -> Callable[[], Tensor]:
        attend = PagedAttention(self.store, self.slots, self.runs)
        return lambda: attend(0, self.queries, self.keys, self.values)

    def blocks(self, rows: int, slots: int, warps: int, stages: int) -> Callable[[], Tensor]:
        """Ours; rows 0: as the engine would."""
        from services.inference_worker.runner.cuda.block_attention import (
            AttentionTables,
            BlockAttention,
            Tiling,
            tiling,
        )
        from services.inference_worker.runner.cuda.block_steps import _multiprocessors

        sharing = self.store.heads_per_kv_head
        most = largest_group(self.runs) * sharing
        itemsize = self.queries.dtype.itemsize
        how = Tiling(rows, slots, warps, stages)
        if not rows:
            how = tiling(most, sharing, self.config.head_dim, itemsize)
        per_tile = how.rows // sharing
        tokens = len(self.queries)
        found = tables(self.runs, self.page_size, per_tile, tokens)
        splits = num_splits(
            num_tiles(self.runs, per_tile, tokens) * self.config.num_kv_heads,
            -(-found.most_pages * self.page_size // how.slots),
            tokens,
            _multiprocessors(self.queries.device),
        )
        there = [
            torch.from_numpy(each).to(self.queries.device)
            for each in (found.tiles, found.limits, found.starts, found.lists)
        ]
        where = AttentionTables(self.slots, there[0], there[1], there[2], there[3], how, splits)
        attend = BlockAttention(self.store, where)
        return lambda: attend(0, self.queries, self.keys, self.values)

    def flex(self) -> Callable[[], Tensor]:
        from torch.nn.attention.flex_attention import BlockMask, flex_attention

        device, size, case = self.queries.device, self.page_size, self.case
        padded = -(-case.queries // FLEX_BLOCK) * FLEX_BLOCK
        per_session = padded // FLEX_BLOCK
        num_slots = self.store.keys[0].parts[0].flatten(1, 2).shape[1]
        # Of each slot of the pool its session, and its number in that session's sequence.
        owner = torch.full((num_slots,), -1, dtype=torch.int32)
        number = torch.zeros(num_slots, dtype=torch.int32)
        indices = list[list[int]]()
        for each in self.runs:
            listed = [*each.seen[0].pages, *each.own_pages]
            at = (torch.tensor(listed)[:, None] * size + torch.arange(size)).flatten()
            owner[at] = each.group
            number[at] = torch.arange(len(at), dtype=torch.int32) - case.window_pages * size
            indices += [listed] * per_session
        owner, number = owner.to(device), number.to(device)

        def visible(batch: Tensor, head: Tensor, query: Tensor, slot: Tensor) -> Tensor:
            return (owner[slot] == query // padded) & (number[slot] <= query % padded)

        num_listed, num_pages = len(indices[0]), num_slots // size
        rest = [0] * (num_pages - num_listed)  # as many as there are blocks, though not read
        listed_pages = torch.tensor([each + rest for each in indices], dtype=torch.int32)
        listed_pages = listed_pages.to(device)[None, None]
        counts = torch.full(listed_pages.shape[:3], num_listed, dtype=torch.int32)
        mask = BlockMask.from_kv_blocks(
            counts.to(device),
            listed_pages,
            BLOCK_SIZE=(FLEX_BLOCK, size),
            mask_mod=visible,
            seq_lengths=(case.sessions * padded, num_slots),
        )
        rows = torch.arange(case.queries) + torch.arange(case.sessions)[:, None] * padded
        rows = rows.flatten().to(device)
        shape = (1, self.config.num_heads, case.sessions * padded, self.config.head_dim)
        wide = self.queries.new_zeros(shape)
        keys, values = (
            pages.parts[0].flatten(1, 2)[None]
            for pages in (self.store.keys[0], self.store.values[0])
        )
        attention: Callable[..., Any] = flex_attention
        if device.type == "cuda":
            attention = torch.compile(flex_attention, dynamic=False)
        options = {"BLOCK_N": min(size, 64)} if device.type == "cuda" else None

        def attend() -> Tensor:
            self.store.write(0, self.slots, self.keys, self.values)
            wide[0].index_copy_(1, rows, self.queries.transpose(0, 1))
            out: Tensor = attention(
                wide, keys, values, block_mask=mask, enable_gqa=True, kernel_options=options
            )
            return out[0].index_select(1, rows).transpose(0, 1)

        return attend

    def varlen(self) -> Callable[[], Tensor]:
        from torch.nn.attention.varlen import varlen_attn

        device, case = self.queries.device, self.case
        # Its own layout: [pages, page_size, heads, dim]. Made once; a pool would be kept so.
        keys, values = (
            pages.parts[0].permute(1, 2, 0, 3).contiguous()
            for pages in (self.store.keys[0], self.store.values[0])
        )
        table = torch.tensor(
            [[*run.seen[0].pages, *run.own_pages] for run in self.runs], dtype=torch.int32
        ).to(device)
        ends = torch.arange(case.sessions + 1, dtype=torch.int32, device=device) * case.queries
        length = case.window_pages * self.page_size + case.queries
        used = torch.full((case.sessions,), length, dtype=torch.int32, device=device)

        def attend() -> Tensor:
            keys.flatten(0, 1).index_copy_(0, self.slots, self.keys)
            values.flatten(0, 1).index_copy_(0, self.slots, self.values)
            out = varlen_attn(
                self.queries,
                keys,
                values,
                ends,
                None,
                case.queries,
                length,
                window_size=(-1, 0),
                enable_gqa=True,
                seqused_k=used,
                block_table=table,
            )
            assert isinstance(out, Tensor)
            return out

        return attend


def compare(
    config: DecoderConfig,
    case: Case,
    page_size: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    tilings: tuple[tuple[int, int, int, int], ...],
    times: int,
) -> Iterator[Timed]:
    """Every way on one case. Gathering in float32 is the reference."""
    exact = Bench(config, case, page_size, torch.float32, torch.device("cpu"))
    bench = Bench(config, case, page_size, dtype, device)
    for part, other in zip(bench.store.parts, exact.store.parts, strict=True):
        other.copy_(part)
    exact.queries, exact.keys, exact.values = (
        each.float().cpu() for each in (bench.queries, bench.keys, bench.values)
    )
    with torch.inference_mode():
        expected = exact.gathering()()
    sharing = bench.store.heads_per_kv_head
    ways: dict[str, Callable[[], Callable[[], Tensor]]] = {
        "gather": bench.gathering,
        "FlexAttention": bench.flex,
        "varlen": bench.varlen,
        "block": lambda: bench.blocks(0, 0, 0, 0),
    }
    for how in tilings:
        if how[0] >= sharing:
            ways["block {}×{}, {} warps, {} stages".format(*how)] = partial(bench.blocks, *how)
    for name, make in ways.items():
        try:
            with torch.inference_mode():
                work = make()
                out = work().float().cpu()
                seconds = _seconds(work, device, times)
        except Exception as error:  # a candidate this machine or torch build cannot run
            note = f"{type(error).__name__}: {error}".splitlines()[0][:NOTE]
            yield Timed(name, case.name, None, None, note)
            continue
        difference = float((out - expected).abs().max() / expected.abs().max())
        yield Timed(name, case.name, seconds, difference)


def _seconds(work: Callable[[], Tensor], device: torch.device, times: int) -> float:
    """Median of a launch, after three to warm up; on CUDA between events, with a full L2 cache of
    other things before each, as between two layers of a step."""
    spent = []
    for _ in range(3):
        work()
    if device.type != "cuda":
        for _ in range(times):
            started_s = time.perf_counter()
            work()
            spent.append(time.perf_counter() - started_s)
        return statistics.median(spent)
    other = torch.empty(2**27, dtype=torch.uint8, device=device)
    for _ in range(times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        other.zero_()
        begin.record()
        work()
        end.record()
        end.synchronize()
        spent.append(begin.elapsed_time(end) / 1000)
    return statistics.median(spent)
