"""oneDNN's kernel of attention against PyTorch's, in float64."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from services.inference_worker.device import onednn_attention as fused
from services.inference_worker.device.onednn_attention import scaled_attention
from services.inference_worker.model.attention import full_attention, grouped_attention

DTYPES = [torch.float32, torch.bfloat16]
NEAR = {torch.float32: 1e-5, torch.bfloat16: 0.03}


@pytest.fixture(params=[1, 2**60], ids=["oneDNN", "PyTorch"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fused, "_LEAST_SCORES", request.param)
    with torch.inference_mode():
        yield


def _exact(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    masked = None if mask is None else mask.double()
    return functional.scaled_dot_product_attention(
        queries.double(), keys.double(), values.double(), masked, scale=1.0
    )


def _masked(rows: int, slots: int, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(2, 1, rows, slots, dtype=dtype)
    mask[torch.rand(mask.shape) < 0.3] = -torch.inf
    mask[..., 0] = 0.0
    return mask


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "slots", "dim"), [(1, 40, 16), (7, 33, 10), (60, 500, 64)])
@pytest.mark.parametrize("masked", [True, False])
def test_both_kernels_attend_alike(
    dtype: torch.dtype, rows: int, slots: int, dim: int, masked: bool
) -> None:
    """From rows of a pool, at any number of queries, and the same with every call."""
    torch.manual_seed(rows)
    queries = torch.randn(2, 3, rows, dim).to(dtype) / dim**0.5
    pool = torch.randn(2, 3, 2 * (slots + 5), dim).to(dtype)
    keys, values = (
        each.as_strided((2, 3, slots, dim), ((slots + 5) * dim, each.stride(0), dim, 1))
        for each in pool
    )
    mask = _masked(rows, slots, dtype) if masked else None
    first, again = (scaled_attention(queries, keys, values, mask) for _ in range(2))
    assert first.shape == queries.shape
    assert (first - _exact(queries, keys, values, mask)).abs().max() < NEAR[dtype]
    assert torch.equal(first, again)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("groups", "slots", "dim"), [(2, 64, 64), (2, 160, 16), (4, 288, 64)])
@pytest.mark.parametrize("apart", [0, 4096, 64768])
def test_nothing_beyond_its_own_slots_is_read(
    groups: int, heads: int, slots: int, dim: int, apart: int
) -> None:
    """What lies between the sessions' rows may be no numbers: others' pages, or nobody's memory."""
    torch.manual_seed(slots)
    size = slots * dim
    strides = (heads * size + apart, size, dim, 1)
    pool = torch.full((2, strides[0] * groups + 4 * size), torch.nan)
    keys, values = (each.as_strided((groups, heads, slots, dim), strides) for each in pool)
    keys.normal_()
    values.normal_()
    queries = torch.randn(groups, heads, 16, dim) / dim**0.5
    with torch.inference_mode():
        out = scaled_attention(queries, keys, values)
    assert (out - _exact(queries, keys, values)).abs().max() < NEAR[torch.float32]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_see_all(dtype: torch.dtype) -> None:
    queries, keys, values = torch.randn(3, 5, 40, 2, 16).to(dtype).transpose(2, 3)
    exact = _exact(queries * 0.3, keys, values)
    for inference in (True, False):
        with torch.inference_mode(inference):
            near = full_attention(queries, keys, values, 0.3)
        assert (near - exact).abs().max() < NEAR[dtype]


def test_outside_inference_mode_it_is_pytorchs() -> None:
    """With or without gradients."""
    queries, keys, values = torch.randn(3, 1, 2, 40, 16).unbind()
    exact = _exact(queries / 4, keys, values)
    fused._kernel.cache_clear()
    with torch.no_grad():
        near = full_attention(queries, keys, values, 0.25)
    assert (near - exact).abs().max() < 1e-5
    assert fused._kernel.cache_info().currsize == 0


def test_what_oneDNN_is_slow_for_is_pytorchs() -> None:
    """Groups that begin at the same place: for some shapes hundreds of times as long."""
    queries, keys = torch.randn(2, 2, 3, 40, 16).unbind()
    shared = keys[:1].expand(2, -1, -1, -1)
    fused._kernel.cache_clear()
    with torch.inference_mode():
        near = scaled_attention(queries, shared, shared)
    assert fused._kernel.cache_info().currsize == 0
    assert (near - _exact(queries, shared, shared)).abs().max() < 1e-5


def test_gradients_reach_what_attends() -> None:
    tensors = torch.randn(3, 1, 2, 40, 16, requires_grad=True)
    full_attention(*tensors.unbind(), 0.25).square().sum().backward()
    assert tensors.grad is not None
    assert all(each.any() for each in tensors.grad)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 30])
def test_heads_that_share_keys_are_rows(dtype: torch.dtype, count: int) -> None:
    queries = torch.randn(2, count, 6, 16).to(dtype)
    keys, values = torch.randn(2, 2, 3, 40, 16).to(dtype)
    mask = _masked(count, 40, dtype)
    exact = _exact(
        queries.transpose(1, 2) / 4,
        keys.repeat_interleave(2, dim=1),
        values.repeat_interleave(2, dim=1),
        mask,
    )
    near = grouped_attention(queries, keys, values, mask.repeat(1, 1, 2, 1)).transpose(1, 2)
    assert near.shape == exact.shape
    assert (near - exact).abs().max() < NEAR[dtype]


def test_the_kernel_is_there() -> None:
    """On machines like those that figures are measured on: else all of this tests PyTorch's."""
    if not torch.backends.mkldnn.is_available() or not torch.cpu.get_capabilities().get("avx2"):
        pytest.skip("no oneDNN, or another kind of machine")
    assert fused._works(torch.float32)
    fused._kernel.cache_clear()
    queries = torch.ones(1, 2, 64, 16)
    with torch.inference_mode():
        scaled_attention(queries, queries, queries)
    assert fused._kernel.cache_info().currsize == 1


def test_without_the_kernel_pytorchs_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_jit_set_llga_enabled")
    fused._works.cache_clear()
    queries = torch.ones(1, 2, 64, 16)
    with torch.inference_mode():
        assert torch.equal(scaled_attention(queries, queries, queries), queries)
    assert not fused._works(torch.float32)
    fused._works.cache_clear()
