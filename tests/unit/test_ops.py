"""Kernels built here, against PyTorch in float64; and PyTorch in their place."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from services.inference_worker.device import ops as kernels
from services.inference_worker.device.ops import AllKernels, Kernels, kernels_for
from services.inference_worker.kv.tensors import Pages
from services.inference_worker.model.decoder import RMSNorm, swiglu
from services.inference_worker.model.published.qwen_vl import QuickGELU
from services.inference_worker.model.rotary import rotate
from tests.unit.tiny import Bench, random_picture, tiny_model

DTYPES = [torch.float32, torch.bfloat16]
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8}
TOKENS = [1, 3, 700]  # of the last, threads share


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(params=["built", pytest.param("interpreted", marks=pytest.mark.device), "PyTorch"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "built":
        _built_here(torch.float32)
        return
    found = None if request.param == "PyTorch" else _interpreted()
    monkeypatch.setattr(kernels, "built", lambda dtype: found)


def _built_here(dtype: torch.dtype) -> Kernels:
    found = kernels.built(dtype)
    if found is None:
        pytest.skip("no kernels were built: make setup, with a C compiler")
    return found


def _interpreted() -> AllKernels:
    """A GPU's."""
    triton = pytest.importorskip("triton", reason="a GPU's kernels are written in Triton")
    if not triton.knobs.runtime.interpret:
        pytest.skip("needs TRITON_INTERPRET=1, set before triton is imported")
    from services.inference_worker.device.triton_ops import GpuKernels

    return GpuKernels()


def _near(found: Tensor, exact: Tensor, times: float = 4) -> None:
    """To within what rounding the result, and PyTorch its steps, may change."""
    assert found.shape == exact.shape
    assert found.is_contiguous()
    off = (found.double() - exact).abs()
    assert (off <= times * ROUNDING[found.dtype] * (1 + exact.abs())).all(), off.max()


def _strided(tokens: int, heads: int, size: int, dtype: torch.dtype) -> Tensor:
    """[tokens, heads, size], between other numbers of the same tokens."""
    return torch.randn(tokens, heads + 3, size).to(dtype)[:, 1 : heads + 1]


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", TOKENS)
def test_norms(dtype: torch.dtype, tokens: int) -> None:
    for x in (torch.randn(tokens, 77).to(dtype), _strided(tokens, 5, 16, dtype)):
        norm = RMSNorm(x.shape[-1], 1e-3).to(dtype)
        norm.weight.copy_(torch.randn(x.shape[-1]))
        exact = functional.rms_norm(x.double(), x.shape[-1:], norm.weight.double(), 1e-3)
        _near(norm(x).contiguous(), exact)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", TOKENS)
def test_rotation(dtype: torch.dtype, tokens: int) -> None:
    x = _strided(tokens, 5, 2 * 11, dtype)
    theta = 100 * torch.randn(tokens, 1, 22)[..., :11]  # its rows, too, lie apart
    cos, sin = theta.cos(), theta.sin()
    first, second = x.double().chunk(2, dim=-1)
    exact = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    _near(rotate(x, cos, sin), exact)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.filterwarnings("ignore:overflow")
def test_gates(dtype: torch.dtype, tokens: int) -> None:
    both = 8 * torch.randn(tokens, 2 * 33).to(dtype)
    both[0, :4] = torch.tensor([-1e4, 1e4, -90.0, 0.0])
    gate, up = both.chunk(2, dim=-1)
    exact = functional.silu(gate.double()) * up.double()
    _near(swiglu(gate, up), exact)
    _near(swiglu(gate.contiguous(), up.contiguous()), exact)
    heads = both.view(tokens, 6, 11)  # halves of three heads, each whole
    _near(swiglu(heads[:, :3], heads[:, 3:]), exact.view(tokens, 3, 11))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.filterwarnings("ignore:overflow")
def test_quick_gelu(dtype: torch.dtype, tokens: int) -> None:
    x = 8 * torch.randn(tokens, 33).to(dtype)
    x[0, :4] = torch.tensor([-1e4, 1e4, -90.0, 0.0])
    _near(QuickGELU()(x), x.double() * torch.sigmoid(1.702 * x.double()))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", TOKENS)
def test_keys_are_written_to_their_slots(dtype: torch.dtype, tokens: int) -> None:
    pages = Pages((2, 60, 14, 16), dtype, torch.device("cpu"))
    slots = torch.randperm(60 * 14)[:tokens]
    new = _strided(tokens, 2, 16, dtype)
    pages.write(slots, new)
    pool = pages.parts[0].flatten(1, 2)
    assert torch.equal(pool[:, slots], new.transpose(0, 1))
    pool[:, slots] = 0
    assert not pool.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interpreted", [False, True])
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_what_is_no_number_stays_none(dtype: torch.dtype, interpreted: bool) -> None:
    """A session whose numbers broke must be found out, and no other token be touched."""
    gpus = _interpreted() if interpreted else None
    found = gpus or _built_here(dtype)
    for bad in (torch.nan, torch.inf, -torch.inf):
        x = torch.ones(3, 1, 8, dtype=dtype)
        x[1, 0, 5] = bad
        ones = torch.ones(8, dtype=dtype)
        turns = torch.ones(3, 1, 4)
        outs = [found.rms_norm(x, ones, 1e-6), found.rotate(x, turns, turns)]
        if gpus is not None:
            outs.append(gpus.swiglu(x[:, 0], -x[:, 0]))
            outs.append(gpus.quick_gelu(-x[:, 0] if bad == -torch.inf else x[:, 0]))
        for out in outs:
            assert torch.isfinite(out[[0, 2]]).all()
            assert not torch.isfinite(out[1]).all()
    # All bits of a NaN set: rounding it would give a zero.
    full = torch.full((1, 8), -1, dtype=torch.int32).view(torch.float32).to(dtype)
    assert found.rotate(full[None], turns[:1], turns[:1]).isnan().all()


def test_rounding_is_pytorchs() -> None:
    """To the nearest, and halves to the even."""
    found = _built_here(torch.bfloat16)
    x = torch.randn(1, 1000, 64).bfloat16()
    cos, sin = torch.full((1, 1, 32), 0.75), torch.full((1, 1, 32), 0.25)
    first, second = x.float().chunk(2, dim=-1)  # products are exact
    exact = torch.cat((first * 0.75 - second * 0.25, second * 0.75 + first * 0.25), dim=-1)
    assert torch.equal(found.rotate(x, cos, sin), exact.bfloat16())


def test_other_angles_are_pytorchs() -> None:
    """One for all tokens, or of less precision."""
    x = torch.randn(3, 2, 8)
    theta = torch.randn(1, 1, 4)
    exact = rotate(x.double(), theta.double().cos(), theta.double().sin())
    assert (rotate(x, theta.cos(), theta.sin()) - exact).abs().max() < 1e-5
    rounded = theta.bfloat16().expand(3, -1, -1)
    exact = rotate(x.double(), rounded.cos().double(), rounded.sin().double())
    assert (rotate(x, rounded.cos(), rounded.sin()) - exact).abs().max() < 1e-5


def test_what_they_do_not_take() -> None:
    _built_here(torch.float32)
    x = torch.ones(4, 6, 8)
    assert kernels_for(x) is not None
    assert kernels_for(x.half()) is None
    assert kernels_for(x.transpose(0, 1)[:, :2]) is None  # heads lie apart
    assert kernels_for(x[..., ::2]) is None
    assert kernels_for(x[None]) is None
    assert kernels_for(x.to("meta")) is None
    with torch.inference_mode(False):
        assert kernels_for(torch.ones(4, 6, 8)) is None


def test_where_none_were_built_pytorch_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "library_for", lambda dtype: None)
    kernels.built.cache_clear()
    with caplog.at_level(logging.INFO):
        assert kernels_for(torch.ones(4, 8)) is None
        assert kernels_for(torch.ones(4, 8)) is None
    assert caplog.text.count("no kernels were built") == 1
    gate = torch.randn(4, 8)
    assert torch.equal(swiglu(gate, gate), functional.silu(gate) * gate)
    kernels.built.cache_clear()


def test_a_library_that_does_not_load_costs_speed_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    broken = tmp_path / "ops.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(kernels, "library_for", lambda dtype: broken)
    kernels.built.cache_clear()
    assert kernels_for(torch.ones(4, 8)) is None
    assert "do not load" in caplog.text
    kernels.built.cache_clear()


@pytest.mark.device
def test_an_engine_on_a_gpus_kernels_answers_as_on_pytorchs_operators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = []
    for found in (None, _interpreted()):
        monkeypatch.setattr(kernels, "built", lambda dtype, found=found: found)
        bench = Bench(tiny_model(window=2))
        bench.open("s")
        rng = np.random.default_rng(1)
        for number in range(3):
            bench.push("s", random_picture(rng), number)
        bench.run()
        bench.ask("s", [1, 10, 11, 12, 7], max_tokens=2)
        bench.run()
        logits.append(torch.stack(bench.runner.logits))
    assert torch.allclose(*logits, atol=1e-4)


def test_a_gpu_on_which_triton_does_not_work(caplog: pytest.LogCaptureFixture) -> None:
    _interpreted()
    absent = torch.device("cuda", 77)
    assert kernels.on_gpu(absent) is None
    assert kernels.on_gpu(absent) is None
    assert caplog.text.count("Triton does not work here") == 1
