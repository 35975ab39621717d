"""The block-table kernels, interpreted on the CPU, against dense attention in float64, and an
engine that runs on them against one that gathers. The interpreter cannot multiply bfloat16."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from services.inference_worker.kv.tensors import Int8Pages, KVTensors, Pages
from services.inference_worker.kv.trunk import Segment
from services.inference_worker.model.decoder import DecoderConfig
from services.inference_worker.runner.batch import Run
from services.inference_worker.runner.cuda.block_tables import num_splits, num_tiles, tables
from tests.unit.tiny import Bench, attention_config, random_picture, reference_logits, tiny_model

triton = pytest.importorskip("triton", reason="the kernels are written in Triton")
if not triton.knobs.runtime.interpret:
    pytest.skip("needs TRITON_INTERPRET=1, set before triton is imported", allow_module_level=True)

from services.inference_worker.runner.cuda.block_attention import (  # noqa: E402
    AttentionTables,
    BlockAttention,
    Tiling,
    attend,
    tiling,
    write,
)

CPU = torch.device("cpu")
QUESTION = [1, 10, 11, 12, 7]
long_interpreted = pytest.mark.device  # of the interpreter, a second or more


@dataclass(slots=True)
class Step:
    """A step over pages that hold what earlier steps left, and everything else no number.

    `visible`: for each of the step's tokens, the slots it sees. `slots`: where the tokens go.
    """

    runs: list[Run]
    visible: list[list[int]]
    num_pages: int
    page_size: int

    @property
    def slots(self) -> list[int]:
        return [slot for run in self.runs for slot in run.slots]

    @property
    def held(self) -> list[int]:
        """Slots that were written before."""
        return sorted({slot for seen in self.visible for slot in seen} - set(self.slots))


def random_step(rng: np.random.Generator, page_size: int, sessions: int) -> Step:
    """Sessions with ragged segments; runs that see some of them, as after an eviction or from a
    branch that is older than the newest; some with a sequence of their own under way."""
    free = [int(page) for page in rng.permutation(np.arange(1, 40 * sessions))]

    def allocate(tokens: int) -> list[int]:
        return [free.pop() for _ in range(-(-tokens // page_size))]

    def slots(pages: list[int], start: int, end: int) -> list[int]:
        return [pages[n // page_size] * page_size + n % page_size for n in range(start, end)]

    runs, visible = list[Run](), list[list[int]]()
    for group in range(sessions):
        segments = []
        for _ in range(rng.integers(0, 5)):
            tokens = int(rng.integers(1, 2 * page_size + 3))
            segments.append(Segment(allocate(tokens), tokens, 0))
        for _ in range(rng.integers(1, 4)):
            first, last = sorted(rng.integers(0, len(segments) + 1, 2))
            seen = segments[first:last]
            start = int(rng.integers(0, 2 * page_size)) if rng.random() < 0.5 else 0
            count = int(rng.integers(1, page_size + 4))
            end, causal = start + count, bool(rng.random() < 0.7)
            own = allocate(end + int(rng.integers(0, page_size)))  # at times a page not begun
            before = [slot for each in seen for slot in slots(each.pages, 0, each.num_tokens)]
            runs.append(Run(group, seen, own, start, slots(own, start, end), [], [], causal=causal))
            for token in range(start, end):
                visible.append(before + slots(own, 0, token + 1 if causal else end))
    return Step(runs, visible, 40 * sessions, page_size)


def store_of(step: Step, shape: DecoderConfig, kind: str, dtype: torch.dtype) -> KVTensors:
    """What earlier steps left, among pages in which nothing is a number."""
    store = KVTensors(
        shape, kind, num_pages=step.num_pages, page_size=step.page_size, dtype=dtype, device=CPU
    )
    for part in store.parts:
        part.fill_(-1 if part.dtype == torch.int8 else float("nan"))
    torch.manual_seed(0)
    keys, values = torch.randn(2, len(step.held), shape.num_kv_heads, shape.head_dim, dtype=dtype)
    store.write(0, torch.tensor(step.held, dtype=torch.int64), keys, values)
    return store


def where(
    step: Step, num_tokens: int, how: Tiling, sharing: int, splits: int = 1
) -> AttentionTables:
    found = tables(step.runs, step.page_size, how.rows // sharing, num_tokens)
    assert len(found.tiles) == num_tiles(step.runs, how.rows // sharing, num_tokens)
    of = torch.from_numpy
    slots = torch.tensor(step.slots + [0] * (num_tokens - len(step.slots)))
    return AttentionTables(
        slots, of(found.tiles), of(found.limits), of(found.starts), of(found.lists), how, splits
    )


def dense(step: Step, store: KVTensors, queries: torch.Tensor) -> torch.Tensor:
    """Each token and head on its own, in float64."""
    pages = torch.arange(step.num_pages)[None]
    keys, values = (each[0].double() for each in store.read(0, pages))
    sharing = queries.shape[1] // keys.shape[0]
    out = torch.zeros(queries.shape, dtype=torch.float64)
    for row, seen in enumerate(step.visible):
        for head in range(queries.shape[1]):
            key, value = (each[head // sharing, seen] for each in (keys, values))
            scores = key @ queries[row, head].double() * queries.shape[-1] ** -0.5
            out[row, head] = torch.softmax(scores, 0) @ value
    return out


def run_step(
    step: Step,
    shape: DecoderConfig,
    how: Tiling,
    *,
    kind: str = "auto",
    splits: int = 1,
    dtype: torch.dtype = torch.float32,
    padding: int = 3,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernels make of the step's rows, padding included, and what is right."""
    sharing = shape.num_heads // shape.num_kv_heads
    tokens = len(step.slots)
    torch.manual_seed(1)
    queries = torch.randn(tokens + padding, shape.num_heads, shape.head_dim).to(dtype)
    keys, values = torch.randn(2, tokens + padding, shape.num_kv_heads, shape.head_dim).to(dtype)
    ours, plain = (store_of(step, shape, kind, dtype) for _ in range(2))
    attention = BlockAttention(ours, where(step, tokens + padding, how, sharing, splits))
    out = attention(0, queries, keys, values)
    plain.write(0, torch.tensor(step.slots), keys[:tokens], values[:tokens])
    return out, dense(step, plain, queries)


@pytest.mark.parametrize("kind", ["auto", "int8"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page_size", "rows", "splits"),
    [
        (1, 1, 16, 1, 16, 1),
        pytest.param(7, 1, 64, 16, 16, 1, marks=long_interpreted),  # Qwen2.5-VL-7B's sharing
        pytest.param(8, 2, 80, 3, 32, 1, marks=long_interpreted),
        pytest.param(6, 2, 96, 4, 16, 4, marks=long_interpreted),
        pytest.param(4, 4, 128, 5, 64, 2, marks=long_interpreted),
    ],
)
def test_any_step_is_dense_attention_over_what_each_token_sees(
    kind: str, heads: int, kv_heads: int, head_dim: int, page_size: int, rows: int, splits: int
) -> None:
    rng = np.random.default_rng(heads * head_dim + page_size)
    shape, how = attention_config(heads, kv_heads, head_dim), Tiling(rows, 16, 4, 2)
    step = random_step(rng, page_size, sessions=2)
    out, expected = run_step(step, shape, how, kind=kind, splits=splits)
    tokens = len(step.slots)
    assert torch.allclose(out[:tokens].double(), expected[:tokens], atol=1e-5)
    assert not out[tokens:].any()  # rows of padding are zero, not merely finite


@long_interpreted
@pytest.mark.parametrize("seed", range(6))
def test_steps_of_many_shapes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kv_heads, sharing = int(rng.integers(1, 3)), int(rng.integers(1, 6))
    shape = attention_config(kv_heads * sharing, kv_heads, int(rng.choice([16, 20, 32])))
    how = Tiling(int(rng.choice([16, 32])), int(rng.choice([16, 32])), 4, 2)
    step = random_step(rng, int(rng.integers(1, 9)), sessions=int(rng.integers(1, 3)))
    kind = str(rng.choice(["auto", "int8"]))
    splits = int(rng.choice([1, 2, 8]))
    out, expected = run_step(step, shape, how, kind=kind, splits=splits)
    assert torch.allclose(out.double(), expected, atol=1e-5)


def test_half_precision_is_as_near_as_its_bits_allow() -> None:
    step = random_step(np.random.default_rng(3), 4, sessions=1)
    out, expected = run_step(
        step, attention_config(4, 2, 32), Tiling(16, 16, 4, 2), dtype=torch.float16
    )
    assert float((out.double() - expected).abs().max()) < 0.003


@pytest.mark.parametrize("splits", [1, pytest.param(4, marks=long_interpreted)])
def test_what_is_no_number_stays_in_its_session(splits: int) -> None:
    """In both stores of a session: its new tokens and what it had."""
    rng = np.random.default_rng(5)
    step = random_step(rng, 4, sessions=3)
    shape, how = attention_config(2, 1, 16), Tiling(32, 16, 4, 2)
    tokens = len(step.slots)
    groups = [run.group for run in step.runs for _ in run.slots]
    bad = groups.index(1)  # its first row
    queries, keys, values = torch.randn(3, tokens + 1, 2, 16)
    keys, values = keys[:, :1].clone(), values[:, :1].clone()
    keys[bad], values[bad] = float("nan"), float("nan")
    keys[tokens], values[tokens] = float("nan"), float("inf")  # padding's, in the null page
    attention = BlockAttention(
        store_of(step, shape, "auto", torch.float32), where(step, tokens + 1, how, 2, splits)
    )
    out = attention(0, queries, keys, values)
    assert not torch.isfinite(out[bad]).any()
    others = [row for row, group in enumerate(groups) if group != 1]
    assert torch.isfinite(out[others]).all()
    assert torch.isfinite(out[tokens:]).all()


def test_a_window_is_listed_once_for_all_questions_about_it() -> None:
    window = [Segment([1, 2, 3], 12, 0), Segment([4, 5], 6, 0)]
    asked = [Run(0, window, [10 + n], 2, [4 * (10 + n) + 2], [], []) for n in range(5)]
    other = Run(0, window[1:], [20, 21], 3, [83, 84], [], [])  # one whose past was withdrawn
    found = tables([*asked, other], 4, tile_queries=16, num_tokens=7)
    (tile,) = found.tiles
    first, count, at, num_pages = tile.tolist()
    assert (first, count, found.most_pages) == (0, 7, num_pages)
    pages, seen, *numbers = found.lists[at : at + 8 * num_pages].reshape(8, num_pages).tolist()
    assert pages == [1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 20, 21]
    assert seen == [4, 4, 4, 4, 2, 3, 3, 3, 3, 3, 4, 1]
    assert found.limits.tolist() == [2, 2, 2, 2, 2, 3, 4]
    assert found.starts.tolist() == [num_pages * run for run in (0, 1, 2, 3, 4, 5, 5)]
    assert numbers[0] == [4, 4, 4, 4, 2, -1, 0, 0, 0, 0, 0, 0]
    assert numbers[5] == [0, 0, 0, 4, 2, 0, 0, 0, 0, 0, -1, -5]


def test_tiles_cover_every_row_once_and_never_two_sessions() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        step = random_step(rng, int(rng.integers(1, 6)), sessions=int(rng.integers(1, 5)))
        tokens = len(step.slots) + int(rng.integers(0, 5))
        size = int(rng.integers(1, 9))
        found = tables(step.runs, step.page_size, size, tokens, num_tiles=60)
        assert len(found.tiles) == 60
        groups = [run.group for run in step.runs for _ in run.slots]
        rows = list[int]()
        for first, count, *_ in found.tiles.tolist():
            assert count <= size
            mine = range(first, first + count)
            assert len({groups[row] if row < len(groups) else -1 for row in mine}) <= 1
            rows += mine
        assert rows == list(range(tokens))


def test_splits_fill_a_device_and_are_worth_their_cost() -> None:
    assert num_splits(4, blocks=120, tokens=1, multiprocessors=132) == 32  # one answer's token
    assert num_splits(400, blocks=60, tokens=2580, multiprocessors=132) == 1
    assert num_splits(60, blocks=120, tokens=272, multiprocessors=132) == 8
    assert num_splits(4, blocks=3, tokens=1, multiprocessors=132) == 1


@pytest.mark.parametrize("heads_per_kv", [1, 2, 3, 4, 7, 8, 16, 32, 48])
def test_a_tile_has_room_for_a_query_with_all_heads_that_share_its_keys(heads_per_kv: int) -> None:
    for rows in (1, heads_per_kv, 16, 40, 5000):
        for itemsize in (2, 4):
            how = tiling(rows, heads_per_kv, 128, itemsize)
            assert how.rows >= heads_per_kv
            assert how.rows & (how.rows - 1) == 0


def test_tokens_are_written_in_the_same_8_bits() -> None:
    """Bit for bit, the smallest and the largest among them."""
    torch.manual_seed(0)
    keys, values = torch.randn(2, 24, 2, 20) * 10.0 ** torch.randint(-6, 5, (2, 24, 2, 1))
    keys *= torch.rand(24, 2, 20) ** 4
    keys[3], values[4, 1] = 0.0, 0.0
    slots = torch.randperm(24)
    pools: list[list[Pages]] = []
    for how in ("kernel", "torch"):
        pair: list[Pages] = [Int8Pages((2, 8, 3, 20), CPU) for _ in range(2)]
        if how == "kernel":
            write(*pair, slots, keys, values)
        else:
            for pages, new in zip(pair, (keys, values), strict=True):
                pages.write(slots, new)
        pools.append(pair)
    for ours, plain in zip(*pools, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parts, plain.parts, strict=True))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_no_number_shows_in_8_bits() -> None:
    pages = [Int8Pages((1, 1, 4, 16), CPU) for _ in range(2)]
    new = torch.ones(3, 1, 16)
    new[0, 0, 5], new[1, 0, 5] = float("nan"), float("inf")
    write(*pages, torch.arange(3), new, new)
    scales = pages[0].parts[1].flatten()
    assert not torch.isfinite(scales[:2]).any()
    assert bool(torch.isfinite(scales[2]))


def test_a_kernel_that_saw_too_much_would_be_noticed() -> None:
    """The tests above can fail: a limit that is off by one changes what comes out."""
    step = random_step(np.random.default_rng(7), 4, sessions=2)
    shape, how = attention_config(2, 1, 16), Tiling(16, 16, 4, 2)
    tokens = len(step.slots)
    store = store_of(step, shape, "auto", torch.float32)
    queries, keys, values = torch.randn(3, tokens, 2, 16)
    right = where(step, tokens, how, 2)
    out = BlockAttention(store, right)(0, queries, keys[:, :1], values[:, :1])
    off = replace(right, limits=right.limits - 1)
    other = attend(store.keys[0], store.values[0], queries, off)
    assert not torch.allclose(out, other, atol=1e-3, equal_nan=True)


# The engine


def test_what_a_gpu_is_probed_with_runs() -> None:
    blocks = Bench(tiny_model(), attention="block").runner.blocks
    assert blocks is not None
    blocks.probe()


def shown(bench: Bench, number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    bench.open("s")
    pictures = [random_picture(rng) for _ in range(number)]
    for index, picture in enumerate(pictures):
        bench.push("s", picture, index)
    bench.run()
    return pictures


@long_interpreted
def test_an_engine_on_block_tables_equals_a_masked_dense_forward() -> None:
    """A and B: before an eviction and after it, in every token of an answer."""
    for frames in (2, 5):
        model = tiny_model(window=3)
        bench = Bench(model, page_size=3, attention="block")
        assert bench.runner.attention == "block"
        pictures = shown(bench, frames)
        recorder = bench.ask("s", QUESTION, max_tokens=3)
        bench.run()
        expected = reference_logits(model, pictures, 3, QUESTION + recorder.tokens)
        for n, logits in enumerate(bench.runner.logits):
            assert torch.allclose(logits, expected[len(QUESTION) - 1 + n], atol=1e-4)
        bench.cache.check_integrity()


@long_interpreted
@pytest.mark.parametrize("kind", ["auto", "int8"])
def test_sessions_that_share_steps_get_what_gathering_gives(kind: str) -> None:
    """D: several sessions, bursts, several questions about one, prompts cut into parts."""

    def play(attention: str) -> list[torch.Tensor]:
        bench = Bench(tiny_model(window=3), attention=attention, kv_dtype=kind, burst=2, prefill=3)
        rng = np.random.default_rng(2)
        for name in ("a", "b"):
            bench.open(name)
            for number in range(4 if name == "a" else 1):
                bench.push(name, random_picture(rng), number)
        bench.run()
        for name in ("a", "a", "b"):
            bench.ask(name, QUESTION, max_tokens=2)
        bench.run()
        bench.cache.check_integrity()
        return bench.runner.logits

    gathered, ours = play("gather"), play("block")
    assert len(gathered) == len(ours) > 4
    for plain, logits in zip(gathered, ours, strict=True):
        assert torch.allclose(plain, logits, atol=1e-4 if kind == "auto" else 0.05)


@long_interpreted
@pytest.mark.parametrize("window", [2])
def test_recorded_steps_equal_those_that_are_launched(window: int) -> None:
    """What CUDA would replay is run again here: it may read nothing but the static inputs."""
    from services.inference_worker.device.graphs import Graphs

    recorded: list[Callable[[], None]] = []

    def record(work: Callable[[], None]) -> Callable[[], None]:
        recorded.append(work)
        return work

    logits = []
    for graphs in (None, Graphs(record)):
        bench = Bench(tiny_model(window=window), attention="block")
        assert bench.runner.blocks is not None
        bench.runner.blocks.graphs = graphs
        shown(bench, 4)
        bench.ask("s", QUESTION, max_tokens=3)
        bench.run()
        logits.append(torch.stack(bench.runner.logits))
    assert recorded
    assert torch.allclose(*logits, atol=1e-6)
