"""Use of oneDNN's own operators instead of PyTorch's."""

import platform

import torch


def is_faster(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN is here, on a machine that is faster for it in this dtype."""
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32
