"""Tables of who sees what in a step, small enough to be uploaded with every step: no masks, no
rectangles.

The queries of one session stand next to each other among the step's flat tokens. They are cut into
tiles, and the tiles of a session share one list of pages: all that any token of its runs sees. A
run has one number a page:

- n ≥ 0: its tokens see the page's first n slots (0: nothing);
- n < 0: the page is the run's own and holds its tokens from number -1 - n on; a token sees those
  numbered up to its own `limit`.

Only numpy here: the tables are made on the host while the device runs what was queued before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.inference_worker.kv.trunk import Segment
from services.inference_worker.runner.batch import Run

Ints = NDArray[np.int32]
TILE_FIELDS = 4
MAX_SPLITS = 64


@dataclass(frozen=True, slots=True)
class Tables:
    """One step's attention.

    tiles: [tiles, 4] first query, number of queries, where the session's part of `lists` starts,
    and its number of pages; no tiles overlap, and all queries are in one, those of padding in tiles
    without pages.
    limits: [tokens] number of each query in its run's own sequence, or of the last one it sees.
    starts: [tokens] where its run's numbers start among those of its session.
    lists: of each session its pages, how many slots of each anybody sees, which are the only ones
    to be read, and the runs' numbers of them [runs, pages].
    tile_queries: the most queries of a tile. most_pages: of a tile.
    """

    tiles: Ints
    limits: Ints
    starts: Ints
    lists: Ints
    tile_queries: int
    most_pages: int


def tables(
    runs: Sequence[Run], page_size: int, tile_queries: int, num_tokens: int, num_tiles: int = 0
) -> Tables:
    """Tables of runs in the order of their groups, whose tokens are padded to `num_tokens`. The
    tiles are padded to `num_tiles`, if there are fewer, with some that have no queries."""
    limits = np.zeros(num_tokens, dtype=np.int32)
    starts = np.zeros(num_tokens, dtype=np.int32)
    tiles: list[Ints] = []
    lists: list[Ints] = []
    length = row = first = most = 0
    while first < len(runs):
        last = first
        while last < len(runs) and runs[last].group == runs[first].group:
            last += 1
        members = runs[first:last]
        pages, seen, numbers = _pages(members, page_size)
        lists += [pages, seen, numbers.reshape(-1)]
        places = (length, len(pages))
        length += (2 + len(members)) * len(pages)
        most = max(most, len(pages))
        begin = row
        for n, run in enumerate(members):
            end = row + len(run.slots)
            own_end = run.own_start + len(run.slots)
            limits[row:end] = np.arange(run.own_start, own_end) if run.causal else own_end - 1
            starts[row:end] = n * len(pages)
            row = end
        tiles.append(_cut(begin, row, tile_queries, places))
        first = last
    tiles.append(_cut(row, num_tokens, tile_queries, (0, 0)))
    found = np.concatenate(tiles)
    missing = max(0, num_tiles - len(found))
    return Tables(
        tiles=np.pad(found, ((0, missing), (0, 0))),
        limits=limits,
        starts=starts,
        lists=np.concatenate([*lists, np.zeros(1, dtype=np.int32)]),
        tile_queries=tile_queries,
        most_pages=most,
    )


def largest_group(runs: Sequence[Run]) -> int:
    """Number of queries of the session that has the most."""
    return max(_sizes(runs).values())


def num_tiles(runs: Sequence[Run], tile_queries: int, num_tokens: int) -> int:
    """Number of tiles that `tables` makes of these runs."""
    sizes = list(_sizes(runs).values())
    return sum(-(-size // tile_queries) for size in (*sizes, num_tokens - sum(sizes)))


def _sizes(runs: Sequence[Run]) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for run in runs:
        sizes[run.group] = sizes.get(run.group, 0) + len(run.slots)
    return sizes


def num_splits(programs: int, blocks: int, tokens: int, multiprocessors: int) -> int:
    """Number of programs over which the pages of a tile are shared out: a power of two, so that
    shapes recur. Enough that `programs` times it gives every multiprocessor two, but at least two
    blocks for each, and no more partial results than 4096 tokens' worth."""
    splits = 1
    while (
        splits < MAX_SPLITS
        and programs * splits < 2 * multiprocessors
        and 4 * splits <= blocks
        and 2 * splits * tokens <= 4096
    ):
        splits *= 2
    return splits


def _pages(runs: Sequence[Run], page_size: int) -> tuple[Ints, Ints, Ints]:
    """Pages that any run of a session sees, how many slots of each the run that sees the most
    does, and the runs' numbers of them [runs, pages]."""
    windows: dict[tuple[int, ...], tuple[Ints, Ints]] = {}
    keys = [tuple(map(id, run.seen)) for run in runs]  # most of a session's see the same
    for key, run in zip(keys, runs, strict=True):
        if key not in windows:
            windows[key] = _window(run.seen, page_size)
    pages = next(iter(windows.values()))[0]
    if len(windows) > 1:
        pages = np.unique(np.concatenate([each for each, _ in windows.values()]))
    ends = [run.own_start + len(run.slots) for run in runs]
    owned = [-(-end // page_size) for end in ends]
    numbers = np.zeros((len(runs), len(pages) + sum(owned)), dtype=np.int32)
    for row, key in zip(numbers, keys, strict=True):
        its_pages, filled = windows[key]
        row[slice(len(pages)) if len(windows) == 1 else np.searchsorted(pages, its_pages)] = filled
    seen = numbers.max(axis=0)
    start = len(pages)
    for row, count, end in zip(numbers, owned, ends, strict=True):
        row[start : start + count] = np.arange(-1, -1 - count * page_size, -page_size)
        seen[start : start + count] = page_size
        start += count
        seen[start - 1] = (end - 1) % page_size + 1
    own = [page for run, count in zip(runs, owned, strict=True) for page in run.own_pages[:count]]
    return np.concatenate((pages, np.array(own, dtype=np.int32))), seen, numbers


def _window(segments: Sequence[Segment], page_size: int) -> tuple[Ints, Ints]:
    """Pages of whole segments, and how many slots of each they fill."""
    pages: list[int] = []
    ends, rests = list[int](), list[int]()
    for segment in segments:
        pages += segment.pages[: -(-segment.num_tokens // page_size)]
        ends.append(len(pages) - 1)
        rests.append((segment.num_tokens - 1) % page_size + 1)
    filled = np.full(len(pages), page_size, dtype=np.int32)
    filled[ends] = rests
    return np.array(pages, dtype=np.int32), filled


def _cut(begin: int, end: int, size: int, places: tuple[int, int]) -> Ints:
    firsts = np.arange(begin, end, size, dtype=np.int32)
    found = np.empty((len(firsts), TILE_FIELDS), dtype=np.int32)
    found[:, 0] = firsts
    found[:, 1] = np.minimum(size, end - firsts)
    found[:, 2:] = places
    return found
