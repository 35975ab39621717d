"""Steps on a device that is not the CPU, where there is none.

Fake tensors know their shape, dtype and device and have no numbers: an operator on two devices at
once raises, and so does whatever needs a number on the host, which would wait for a GPU. Kernels of
attention have tests of their own and are left out here, and so are the bytes of uploads.

PyTorch gets another kind of device for it, which stays: `test_away` runs this in its own process.
"""

import copy
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeCopyMode,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from services.inference_worker.device.graphs import Graphs
from services.inference_worker.device.upload import Arrays
from services.inference_worker.kv import tensors as kv_store
from services.inference_worker.kv.tensors import Pages
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.model.published.model import _scaled
from services.inference_worker.model.published.qwen_vl import Qwen2VL
from services.inference_worker.model.sampling import Sampling
from services.inference_worker.runner import sampling as choice
from services.inference_worker.runner.batch import Run, RunOutput
from services.inference_worker.runner.cuda import block_steps
from services.inference_worker.runner.runner import Runner
from services.inference_worker.runner.vision import Vision
from tests.checkpoints import FAMILIES
from tests.published import Pair
from tests.unit.tiny import Bench, random_picture, tiny_model

block_attention = pytest.importorskip(
    "services.inference_worker.runner.cuda.block_attention",
    reason="the kernels are written in Triton",
)

_setup_privateuseone_for_python_backend("away")
AWAY = torch.device("away", 0)
SECOND_NS = 1_000_000_000


def empty(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype, device=AWAY)


def moved(model: StreamingModel, mode: FakeTensorMode) -> StreamingModel:
    """The model with its weights and tables away."""
    assert isinstance(model, nn.Module)
    with FakeCopyMode(mode):
        copied = copy.deepcopy(model)
    with mode:
        for module in copied.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        put = empty(tensor)
                        weight = isinstance(tensor, nn.Parameter)
                        tensors[name] = nn.Parameter(put, False) if weight else put
    return copied


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """What moves bytes, or is no operator of PyTorch's, only says where its results lie."""

    def upload(arrays: Arrays, device: torch.device, target: Tensor | None = None) -> list[Tensor]:
        types = [torch.from_numpy(array[:0]).dtype for array in arrays]
        pairs = zip(arrays, types, strict=True)
        return [torch.empty(array.shape, dtype=dtype, device=device) for array, dtype in pairs]

    for module in (block_steps, choice, kv_store):
        monkeypatch.setattr(module, "upload", upload)

    def pixels(self: Vision, layout: Any, members: Any, frames: int) -> Tensor:
        return torch.empty(frames * layout.frame_bytes, dtype=torch.uint8, device=self.device)

    monkeypatch.setattr(Vision, "_pixels", pixels)
    plain_grid = Qwen2VL._new_grid

    def new_grid(self: Qwen2VL, tubelets: int, rows: int, columns: int, device: Any) -> Any:
        """Made once for a batch's grid, of numbers that it reads on the host."""
        with unset_fake_temporarily():
            found = plain_grid(self, tubelets, rows, columns, torch.device("cpu"))
        for spans in found["spans"]:
            spans.groups = [(n, at if at is None else empty(at)) for n, at in spans.groups]
        given = {name: each for name, each in found.items() if name.startswith("cu_")}
        tables = {name: each for name, each in found.items() if isinstance(each, Tensor)}
        return found | {name: empty(each) for name, each in tables.items()} | given

    monkeypatch.setattr(Qwen2VL, "_new_grid", new_grid)
    _scaled.cache_clear()

    def write(keys: Pages, values: Pages, slots: Tensor, *new: Tensor) -> None:
        assert {each.device for each in (*keys.parts, *values.parts, slots, *new)} == {AWAY}

    def attend(keys: Pages, values: Pages, queries: Tensor, where: Any) -> Tensor:
        tables = (where.tiles, where.limits, where.starts, where.lists)
        assert {each.device for each in (*keys.parts, *values.parts, *tables)} == {AWAY}
        return torch.empty_like(queries)

    monkeypatch.setattr(block_attention, "write", write)
    monkeypatch.setattr(block_attention, "attend", attend)
    plain_sample = Runner._sample

    def sample(self: Runner, logits: Tensor, runs: list[Run]) -> list[RunOutput]:
        """The one place of a step that waits."""
        with pytest.raises(DataDependentOutputException) as waited:
            plain_sample(self, logits, runs)
        frames = traceback.extract_tb(waited.tb)
        ours = [frame for frame in frames if "/services/" in frame.filename]
        assert str(ours[-1].line).endswith(".tolist()"), ours[-1]
        return [RunOutput(5, 0.5, True) for _ in runs]

    monkeypatch.setattr(Runner, "_sample", sample)
    return FakeTensorMode()


def play(model: StreamingModel, sampling: Sequence[Sampling], **options: Any) -> list[list[int]]:
    """More frames than the window holds to two sessions, then a question in each way of sampling;
    the answers' tokens."""
    bench = Bench(model, page_size=16, device=AWAY, attention="block", **options)
    assert bench.runner.blocks is not None
    bench.runner.blocks.graphs = Graphs(replayed)
    layout = model.spec.layout
    size = (layout.height, layout.width)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        bench.open(name)
        for number in range(5 * model.spec.tubelet):
            picture = np.resize(random_picture(rng), (*size, 3))
            bench.push(name, picture, number * SECOND_NS)
    bench.run()
    assert not [result for result in bench.results if isinstance(result, Exception)]
    asked = [bench.ask("a", [1, 2, 3, 4], 4, each) for each in sampling]
    bench.run()
    assert not [recorder.error for recorder in asked if recorder.error]
    return [recorder.tokens for recorder in asked]


def replayed(work: Callable[[], None]) -> Callable[[], None]:
    return work


GREEDY_AND_PENALISED = (Sampling(), Sampling(repetition_penalty=1.2))


@pytest.mark.parametrize("family", FAMILIES)
def test_published_models_run_on_their_device_alone(
    family: str, tmp_path: Path, away: FakeTensorMode
) -> None:
    model = moved(Pair.of(family, tmp_path).ours, away)
    with away:
        assert play(model, GREEDY_AND_PENALISED, num_pages=2048, branch_tokens=200) == [[5] * 4] * 2


def test_experts_run_on_their_device_alone(tmp_path: Path, away: FakeTensorMode) -> None:
    """In bfloat16, as they do there."""
    model = Pair.of("qwen3_vl_moe", tmp_path).ours
    omega = model.decoder.omega.data
    model.bfloat16()
    model.decoder.omega.data = omega
    options = {"num_pages": 2048, "branch_tokens": 200, "dtype": torch.bfloat16}
    there = moved(model, away)
    with away:
        assert play(there, GREEDY_AND_PENALISED, **options) == [[5] * 4] * 2


@pytest.mark.parametrize("kind", ["auto", "int8"])
def test_the_builtin_model_runs_on_its_device_alone(kind: str, away: FakeTensorMode) -> None:
    model = moved(tiny_model(window=3, horizon=32), away)  # rebases on its way
    with away:
        assert play(model, GREEDY_AND_PENALISED, kv_dtype=kind) == [[5] * 4] * 2


def test_what_waits_or_lies_elsewhere_would_be_seen(away: FakeTensorMode) -> None:
    with away:
        there, here = torch.ones(3, device=AWAY), torch.ones(3)
        for wrong in (there.tolist, lambda: bool(there.any()), lambda: there[there > 0]):
            with pytest.raises(Exception, match=r"_local_scalar_dense|nonzero"):
                wrong()
        with pytest.raises(RuntimeError, match="same device"):
            there + here
