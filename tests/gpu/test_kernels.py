"""What stands between matrix products, compiled, against PyTorch's operators."""

import pytest
import torch
from torch.nn import functional

from services.inference_worker.device.ops import all_kernels_for
from services.inference_worker.model.rotary import rotate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
pytest.importorskip("triton", reason="the kernels are written in Triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_kernels_equal_pytorchs_operators(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    heads = torch.randn(700, 9, 80, device="cuda").to(dtype)[:, 1:8]
    theta = 100 * torch.randn(700, 1, 40, device="cuda")
    weight = torch.randn(80, device="cuda").to(dtype)
    kernels = all_kernels_for(heads)
    assert kernels is not None
    pool = torch.zeros(7, 900, 80, dtype=dtype, device="cuda")
    slots = torch.randperm(900, device="cuda")[:700]
    kernels.scatter(heads, slots, pool)
    assert torch.equal(pool[:, slots], heads.transpose(0, 1))
    wide = heads.double()
    exact = {
        "rms_norm": functional.rms_norm(wide, (80,), weight.double(), 1e-6),
        "rotate": rotate(wide, theta.cos().double(), theta.sin().double()),
        "swiglu": functional.silu(wide[:, :3]) * wide[:, 3:6],
        "quick_gelu": wide * torch.sigmoid(1.702 * wide),
    }
    found = {
        "rms_norm": kernels.rms_norm(heads, weight, 1e-6),
        "rotate": kernels.rotate(heads, theta.cos(), theta.sin()),
        "swiglu": kernels.swiglu(heads[:, :3], heads[:, 3:6]),
        "quick_gelu": kernels.quick_gelu(heads),
    }
    for name, result in found.items():
        assert result.is_contiguous()
        bound = 4 * max(torch.finfo(dtype).eps, 1e-6) * (1 + exact[name].abs())
        assert ((result.double() - exact[name]).abs() <= bound).all(), name
