"""Operations between matrix products, each in one launch, for GPUs.

A step that decodes launches hundreds of kernels that each do next to nothing: a rotation by
PyTorch's operators is eight of them. Importing this needs triton. With TRITON_INTERPRET=1 the
kernels run on the CPU, for tests.
"""

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024  # numbers of a program


class GpuKernels:
    """Kernels in Triton, of every floating dtype."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = x.new_empty(x.shape)
        heads = x.shape[1] if x.dim() == 3 else 1
        size = x.shape[-1]
        block = triton.next_power_of_2(size)
        _rms_norm[(len(x), heads)](x, weight, out, eps, x.stride(0), heads, size, BLOCK=block)
        return out

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        out = x.new_empty(x.shape)
        tokens, heads, size = x.shape
        _rotate[(tokens,)](
            x,
            cos,
            sin,
            out,
            x.stride(0),
            cos.stride(0),
            HEADS=heads,
            PAIRS=size // 2,
            BLOCK_HEADS=triton.next_power_of_2(heads),
            BLOCK_PAIRS=triton.next_power_of_2(size // 2),
        )
        return out

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        out = gate.new_empty(gate.shape)
        size = gate.shape[1:].numel()
        grid = (len(gate), triton.cdiv(size, _BLOCK))
        _swiglu[grid](gate, up, out, gate.stride(0), size, BLOCK=_BLOCK)
        return out

    def quick_gelu(self, x: Tensor) -> Tensor:
        out = x.new_empty(x.shape)
        size = x.shape[1:].numel()
        grid = (len(x), triton.cdiv(size, _BLOCK))
        _quick_gelu[grid](x, out, x.stride(0), size, BLOCK=_BLOCK)
        return out

    def scatter(self, x: Tensor, slots: Tensor, pool: Tensor) -> None:
        tokens, heads, size = x.shape
        _scatter[(tokens, heads)](
            x, slots, pool, x.stride(0), pool.stride(0), size, BLOCK=triton.next_power_of_2(size)
        )


@triton.jit
def _rms_norm(x, weight, out, eps, x_token, heads, size, BLOCK: tl.constexpr):
    """Normalise one head of a token."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.arange(0, BLOCK)
    inside = at < size
    found = tl.load(x + token * x_token + head * size + at, mask=inside, other=0.0).to(tl.float32)
    scale = 1 / tl.sqrt_rn(tl.sum(found * found, 0) / size + eps)
    by = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    normed = (found * scale * by).to(out.dtype.element_ty)
    tl.store(out + (token * heads + head) * size + at, normed, mask=inside)


@triton.jit
def _rotate(
    x,
    cos,
    sin,
    out,
    x_token,
    angles_token,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
):
    """All heads of a token."""
    token = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, BLOCK_PAIRS)
    near = pair < PAIRS
    turn = token * angles_token + pair
    c = tl.load(cos + turn, mask=near, other=0.0)[None, :]
    s = tl.load(sin + turn, mask=near, other=0.0)[None, :]
    head = tl.arange(0, BLOCK_HEADS)[:, None]
    inside = (head < HEADS) & near[None, :]
    at = head * (2 * PAIRS) + pair[None, :]
    x += token * x_token
    first = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + at + PAIRS, mask=inside, other=0.0).to(tl.float32)
    out += token * (HEADS * 2 * PAIRS)
    tl.store(out + at, (first * c - second * s).to(out.dtype.element_ty), mask=inside)
    tl.store(out + at + PAIRS, (second * c + first * s).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu(gate, up, out, token_stride, size, BLOCK: tl.constexpr):
    """A part of a token."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    opened = tl.load(gate + token * token_stride + at, mask=inside, other=0.0).to(tl.float32)
    passed = tl.load(up + token * token_stride + at, mask=inside, other=0.0).to(tl.float32)
    gated = opened / (1 + tl.exp(-opened)) * passed
    tl.store(out + token * size + at, gated.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _quick_gelu(x, out, token_stride, size, BLOCK: tl.constexpr):
    """A part of a token."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    found = tl.load(x + token * token_stride + at, mask=inside, other=0.0).to(tl.float32)
    gated = found / (1 + tl.exp(-1.702 * found))
    tl.store(out + token * size + at, gated.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _scatter(x, slots, pool, x_token, pool_head, size, BLOCK: tl.constexpr):
    """Normalise one head of a token."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + token)
    at = tl.arange(0, BLOCK)
    inside = at < size
    new = tl.load(x + token * x_token + head * size + at, mask=inside, other=0.0)
    tl.store(pool + head * pool_head + slot * size + at, new, mask=inside)
