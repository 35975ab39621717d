"""Operations between matrix products, each in one pass over memory.

PyTorch takes a pass for every operator, in bfloat16 with copies to float32 and back. For CPUs there
is `ops.c`, which `build` compiled when the image or `.venv` was made; for GPUs there is
`triton_ops`. Where neither works PyTorch's operators run instead.
"""

import ctypes
import importlib.util
import logging
from functools import lru_cache
from typing import Protocol, cast

import torch
from torch import Tensor

from services.inference_worker.device.build import library_for

log = logging.getLogger(__name__)

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_ALONE = 1 << 14  # numbers; starting other threads takes longer than so few

_ADDRESS, _COUNT, _INT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int
_ARGUMENTS = {
    "rms_norm": [_ADDRESS, _COUNT, _ADDRESS, ctypes.c_float, _ADDRESS, *[_COUNT] * 3, _INT],
    "rotate": [_ADDRESS, _COUNT, _ADDRESS, _ADDRESS, _COUNT, _ADDRESS, *[_COUNT] * 3, _INT],
}


class Kernels(Protocol):
    """Kernels of a device. Results are contiguous, and have no gradients."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Norm of x [tokens, size] or [tokens, heads, size] along the last; weight [size]."""

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotation as of `rotary.rotate`. x: [tokens, heads, 2 * pairs]; cos, sin: [tokens, 1,
        pairs] float32, both of the same strides."""


class AllKernels(Kernels, Protocol):
    """Kernels of a GPU, where every launch counts. On a CPU a gate saved at most 4.6 % of a step of
    any family, and writing to slots 0.5 %."""

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """SiLU of `gate` times `up`, of the same shape and strides."""

    def quick_gelu(self, x: Tensor) -> Tensor:
        """x · σ(1.702 x)."""

    def scatter(self, x: Tensor, slots: Tensor, pool: Tensor) -> None:
        """Copy x [tokens, heads, size] to pool [heads, slots, size], contiguous; slots [tokens]
        int64, those that two tokens share get either."""


def kernels_for(x: Tensor) -> Kernels | None:
    """Kernels that take `x`, [tokens, size] or [tokens, heads, size], in inference mode; a token's
    numbers must lie in a row."""
    if x.dim() not in (2, 3) or x.stride(-1) != 1 or not torch.is_inference_mode_enabled():
        return None
    if x.dim() == 3 and x.shape[1] > 1 and x.stride(1) != x.shape[2]:
        return None
    if x.device.type == "cuda":
        return on_gpu(x.device) if x.is_floating_point() else None
    return built(x.dtype) if x.device.type == "cpu" and x.dtype in _NAMES else None


def all_kernels_for(x: Tensor) -> AllKernels | None:
    """Kernels of a GPU that take `x`, as of `kernels_for`."""
    kernels = kernels_for(x)
    return None if isinstance(kernels, _CpuKernels) else cast(AllKernels | None, kernels)


@lru_cache
def on_gpu(device: torch.device) -> Kernels | None:
    """Triton's, tried now if they were not yet; None where it does not work, which is logged."""
    if importlib.util.find_spec("triton") is None:
        log.info("no triton: norms and rotations are PyTorch's, which takes longer")
        return None
    try:
        from services.inference_worker.device.triton_ops import GpuKernels

        kernels = GpuKernels()
        kernels.quick_gelu(torch.zeros(1, 16, device=device))
    except Exception:  # no C compiler, an old driver, another kind of GPU: Triton has many
        log.warning("Triton does not work here: norms and rotations are PyTorch's", exc_info=True)
        return None
    return kernels


class _CpuKernels:
    """Functions of `ops.c` for tensors of one dtype."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None
        self._library = library

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = torch.empty(x.shape, dtype=x.dtype)
        heads = x.shape[1] if x.dim() == 3 else 1
        where = (x.data_ptr(), x.stride(0), weight.data_ptr(), eps, out.data_ptr())
        self._library.rms_norm(*where, len(x), heads, x.shape[-1], _threads(x))
        return out

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        out = torch.empty(x.shape, dtype=x.dtype)
        turns = (cos.data_ptr(), sin.data_ptr(), cos.stride(0))
        where = (x.data_ptr(), x.stride(0), *turns, out.data_ptr())
        self._library.rotate(*where, len(x), x.shape[1], x.shape[2] // 2, _threads(x))
        return out


def _threads(x: Tensor) -> int:
    return 1 if x.numel() < _ALONE else torch.get_num_threads()


@lru_cache
def built(dtype: torch.dtype) -> Kernels | None:
    """Kernels of `ops.c`, loaded now if they were not yet; None where none were built for this
    processor, or they do not load, which is logged."""
    library = library_for(_NAMES[dtype])
    if library is None:
        log.info("no kernels were built for this CPU: PyTorch's operators take their place")
        return None
    try:
        kernels = _CpuKernels(ctypes.CDLL(str(library)))
    except (OSError, AttributeError):  # of another C library, or without OpenMP's
        log.warning("kernels do not load here", exc_info=True)
        return None
    log.info("kernels loaded", extra={"library": library.name})
    return kernels
