"""Attention of one kernel that keeps a head's scores in the cache: for CPUs.

PyTorch's own fused kernel takes two to five times as long in bfloat16, and up to twice in float32.
oneDNN has a better one, which compiles a graph for one shape; the interpreter of TorchScript is
PyTorch's way to it. Shapes should be few: a new one takes some milliseconds to compile.
"""

import logging
import os
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from services.inference_worker.device.onednn import is_faster

log = logging.getLogger(__name__)

# oneDNN would keep what was compiled for 1,024 shapes, each with its own megabytes. They are kept
# here, and there are fewer. It reads this when it compiles first.
os.environ.setdefault("DNNL_GRAPH_COMPILED_PARTITION_CACHE_CAPACITY", "0")
_SHAPES = 64
_LEAST_SCORES = 512  # of a head: with fewer, starting the kernel is most of its time


def scaled_attention(
    scaled: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """softmax(QKᵀ + mask) V, by the faster kernel there is; oneDNN's only in inference mode.

    scaled: Q / √dim, [groups, heads, queries, dim]; keys, values: [groups, heads, slots, dim], of
    any strides; mask: additive, [groups, 1, queries, slots]. Returns the shape of `scaled`.
    In bfloat16 scores are rounded to that, as models' own eager code has them.
    """
    if (
        scaled.shape[2] * keys.shape[2] < _LEAST_SCORES
        or not torch.is_inference_mode_enabled()
        or not is_faster(scaled.dtype, scaled.device)
        or not _works(scaled.dtype)
        or 0 in (*keys.stride(), *values.stride())  # of these it takes seconds
        or _is_misread(keys)
    ):
        return functional.scaled_dot_product_attention(scaled, keys, values, mask, scale=1.0)
    tensors = (scaled, keys, values) if mask is None else (scaled, keys, values, mask)
    return _compiled(tensors)


def _is_misread(keys: Tensor) -> bool:
    """Groups of one head each that do not follow each other: of some shapes oneDNN takes the head's
    stride for the group's, and reads what lies beyond."""
    return keys.shape[0] > 1 and keys.shape[1] == 1


def _compiled(tensors: tuple[Tensor, ...]) -> Tensor:
    layouts = tuple((each.shape, each.stride()) for each in tensors)
    return _kernel(tensors[0].dtype, torch.get_num_threads(), layouts)(*tensors)


class _OnlyShapes(TorchDispatchMode):
    """The graph's operators make tensors without numbers in them. In inference mode, where they
    arrive as they stand there."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        if func is torch.ops.aten.matmul.default:
            left, right = args
            return torch.empty(*left.shape[:-1], right.shape[-1], dtype=left.dtype)
        if func is torch.ops.aten.transpose.int:
            out: Tensor = func(*args, **(kwargs or {}))
            return out
        return torch.empty_like(args[0])  # a sum with the mask, or a softmax

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # PyTorch would import its compiler, of 150 MB, for that
        return False


class _Kernel:
    """Kernel for tensors of one shape. It holds a buffer for each thread."""

    def __init__(self, masked: bool) -> None:
        graph = torch._C.parse_ir(_graph(masked))
        self._function = torch._C._create_function_from_graph("attention", graph)
        self._seen = False

    def __call__(self, *tensors: Tensor) -> Tensor:
        if not self._seen:
            with _OnlyShapes():  # the first call notes shapes, the next one compiles
                self._function(*tensors)
            self._seen = True
        out: Tensor = self._function(*tensors)
        return out


@lru_cache(_SHAPES)
def _kernel(_dtype: torch.dtype, _num_threads: int, layouts: tuple[Any, ...]) -> _Kernel:
    return _Kernel(masked=len(layouts) == 4)


def _graph(masked: bool) -> str:
    inputs, scores = "%queries : Tensor, %keys : Tensor, %values : Tensor", "%products"
    add = ""
    if masked:
        inputs, scores = inputs + ", %mask : Tensor", "%scores"
        add = "%scores : Tensor = aten::add(%products, %mask, %one)"
    return f"""
graph({inputs}):
  %one : int = prim::Constant[value=1]()
  %last : int = prim::Constant[value=-1]()
  %before : int = prim::Constant[value=-2]()
  %none : NoneType = prim::Constant()
  %turned : Tensor = aten::transpose(%keys, %before, %last)
  %products : Tensor = aten::matmul(%queries, %turned)
  {add}
  %weights : Tensor = aten::softmax({scores}, %last, %none)
  %out : Tensor = aten::matmul(%weights, %values)
  return (%out)
"""


@lru_cache
@torch.inference_mode()
def _works(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch, on this machine, has the kernel: it is none of its public
    names, and a graph that it did not fuse would run slower than the other one."""
    try:
        torch._C._jit_set_llga_enabled(True)
        torch._C._jit_set_num_profiled_runs(1)  # type: ignore[arg-type]
        queries, mask = (
            torch.ones(1, 2, 32, 16, dtype=dtype),
            torch.zeros(1, 1, 32, 32, dtype=dtype),
        )
        for tensors in ((queries, queries, queries), (queries, queries, queries, mask)):
            out = _compiled(tensors)
            fused = "oneDNNFusionGroup" in str(torch._C._last_executed_optimized_graph())
            if not fused or not torch.equal(out, queries):
                log.warning("oneDNN does not fuse attention here: PyTorch's kernel is used")
                return False
    except (AttributeError, RuntimeError):
        log.warning("no oneDNN kernel of attention: PyTorch's is used", exc_info=True)
        return False
    return True
