"""Attention over pages, wherever they lie, against every token alone with what it sees."""

import numpy as np
import pytest
import torch

from services.inference_worker.device import onednn_attention as fused
from services.inference_worker.kv.tensors import KVTensors, PageRows
from services.inference_worker.kv.trunk import Segment
from services.inference_worker.model.layout import FrameLayout
from services.inference_worker.runner.batch import Run, Tubelet, rounded
from services.inference_worker.runner.cpu.paged_attention import PagedAttention
from tests.unit.tiny import attention_config

PAGE, PAGES = 4, 120
CONFIG = attention_config(6, 2, 8)
LAYOUT = FrameLayout(width=1, height=1, vision_tokens=4, segment_tokens=4, segment_advance=1)
LAYOUTS = ("rows", "rows with holes", "scattered")


class Step:
    """A step of random runs over pages laid out as `layout` says; every page holds numbers, those
    that nobody of the step may see NaN."""

    def __init__(self, layout: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.store = KVTensors(
            CONFIG,
            "auto",
            num_pages=PAGES,
            page_size=PAGE,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        torch.manual_seed(seed)
        for part in self.store.parts:
            part.normal_()
        self.runs: list[Run] = []
        taken = set[int]()
        for group in range(int(self.rng.integers(1, 6))):
            pages = self._pages(layout, group)
            row = None if layout == "scattered" else range(1 + 20 * group, 21 + 20 * group)
            taken |= set(row or pages)  # all of a row is read and masked: it holds numbers
            self.runs += self._session(group, pages, row)
        for part in self.store.parts:
            for page in set(range(1, PAGES)) - taken:
                part[:, page] = float("nan")

    def _pages(self, layout: str, group: int) -> list[int]:
        first = 1 + 20 * group
        if layout == "rows":
            return list(range(first, first + 10))
        if layout == "rows with holes":
            inner = self.rng.choice(np.arange(first + 1, first + 12), 8, replace=False)
            return [first, *sorted(inner.tolist()), first + 12]
        return self.rng.choice(np.arange(1 + group, PAGES, 6), 10, replace=False).tolist()

    def _session(self, group: int, pages: list[int], row: range | None) -> list[Run]:
        """A sink, two segments, and one run or two that add to a page or two of their own."""
        seen = [Segment(pages[:1], 3, 0), Segment(pages[1:3], 7, 3), Segment(pages[3:5], 8, 4)]
        runs = []
        for number in range(int(self.rng.integers(1, 3))):
            own = pages[5 + 2 * number : 7 + 2 * number]
            start = int(self.rng.integers(0, 4))
            end = int(self.rng.integers(start + 1, 2 * PAGE + 1))
            slots = [own[n // PAGE] * PAGE + n % PAGE for n in range(start, end)]
            runs.append(
                Run(
                    group=group,
                    seen=seen[: int(self.rng.integers(1, 4))],
                    own_pages=own[: -(-end // PAGE)],
                    own_start=start,
                    slots=slots,
                    positions=[],
                    tokens=[],
                    row=row,
                    causal=bool(self.rng.integers(2)),
                )
            )
        return runs

    def attend(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What comes out, and what should: [tokens, num_heads, head_dim] each."""
        count = sum(len(run.slots) for run in self.runs)
        padding = rounded(count) - count
        queries = torch.randn(count + padding, CONFIG.num_heads, CONFIG.head_dim)
        keys = torch.randn(count + padding, CONFIG.num_kv_heads, CONFIG.head_dim)
        values = torch.randn_like(keys)
        slots = [slot for run in self.runs for slot in run.slots] + [0] * padding
        attend = PagedAttention(self.store, torch.tensor(slots), self.runs)
        out = attend(0, queries, keys, values)
        assert bool(out.isfinite().all())
        return out[:count], self._dense(queries)

    def _dense(self, queries: torch.Tensor) -> torch.Tensor:
        keys, values = (
            pages[0].parts[0].flatten(1, 2) for pages in (self.store.keys, self.store.values)
        )
        shared = CONFIG.num_heads // CONFIG.num_kv_heads
        out, row = [], 0
        for run in self.runs:
            before = [
                page * PAGE + n
                for segment in run.seen
                for index, page in enumerate(segment.pages)
                for n in range(min(PAGE, segment.num_tokens - index * PAGE))
            ]
            own = [
                run.own_pages[n // PAGE] * PAGE + n % PAGE
                for n in range(run.own_start + len(run.slots))
            ]
            for number in range(len(run.slots)):
                last = run.own_start + number + 1 if run.causal else len(own)
                sees = before + own[:last]
                for head in range(CONFIG.num_heads):
                    k, v = keys[head // shared, sees], values[head // shared, sees]
                    scores = k @ queries[row, head] / CONFIG.head_dim**0.5
                    out.append(torch.softmax(scores, 0) @ v)
                row += 1
        return torch.stack(out).view(row, CONFIG.num_heads, CONFIG.head_dim)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("least_scores", [1, 2**60])
@pytest.mark.parametrize("seed", range(12))
def test_every_token_attends_to_what_it_sees(
    layout: str, least_scores: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By oneDNN's kernel, where there is one, and by PyTorch's."""
    monkeypatch.setattr(fused, "_LEAST_SCORES", least_scores)
    got, wanted = Step(layout, seed).attend()
    assert float((got - wanted).abs().max()) < 1e-5


def _reads(store: KVTensors, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    read, kinds = store.read, list[object]()

    def noted(layer: int, pages: torch.Tensor | PageRows) -> tuple[torch.Tensor, torch.Tensor]:
        kinds.append(pages)
        return read(layer, pages)

    monkeypatch.setattr(store, "read", noted)
    return kinds


def test_sessions_in_a_row_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step("rows", 0)
    step.runs = [_frame(group, 1 + 20 * group) for group in (0, 1, 2, 4, 5)]
    for part in step.store.parts:
        part.normal_()
    kinds = _reads(step.store, monkeypatch)
    got, wanted = step.attend()
    assert float((got - wanted).abs().max()) < 1e-5
    assert kinds == [PageRows(1, 20, 2, 32), PageRows(41, 20, 1, 32), PageRows(81, 20, 2, 32)]


@pytest.mark.parametrize(
    ("frames", "reads"),
    [
        ({0: 3}, [PageRows(1, 20, 1, 32)] * 2),
        ({0: 4, 1: 4}, [PageRows(1, 20, 1, 32), PageRows(21, 20, 1, 32)]),
        ({0: 2, 1: 2, 2: 2, 3: 2}, [PageRows(1, 20, 4, 32)] * 2),
    ],
)
def test_frames_of_a_burst_read_their_row_together(
    frames: dict[int, int], reads: list[PageRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step("rows", 0)
    step.runs = [
        _frame(group, 1 + 20 * group, number=number)
        for group, count in frames.items()
        for number in range(count)
    ]
    for part in step.store.parts:
        part.normal_()
    kinds = _reads(step.store, monkeypatch)
    got, wanted = step.attend()
    assert float((got - wanted).abs().max()) < 1e-5
    assert kinds == reads


def test_no_row_is_read_beyond_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step("rows", 0)
    step.runs = [_frame(0, 1, length=7)]
    for part in step.store.parts:
        part[:, 8:] = float("nan")
        part[:, :8].normal_()
    kinds = _reads(step.store, monkeypatch)
    got, wanted = step.attend()
    assert float((got - wanted).abs().max()) < 1e-5
    assert kinds == [PageRows(1, 7, 1, 28)]


def test_scattered_pages_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step("scattered", 3)
    kinds = _reads(step.store, monkeypatch)
    step.attend()
    assert any(isinstance(kind, torch.Tensor) for kind in kinds)


def _frame(group: int, first: int, length: int = 20, number: int = 0) -> Run:
    """The `number`th of a burst."""
    page = first + 4 + number
    seen = [Segment([each], PAGE, each) for each in range(first, page)]
    return Run(
        group=group,
        seen=seen,
        own_pages=[page],
        own_start=0,
        slots=[page * PAGE + n for n in range(PAGE)],
        tubelet=Tubelet(LAYOUT, []),
        positions=[],
        tokens=[],
        row=range(first, first + length),
        causal=False,
    )
