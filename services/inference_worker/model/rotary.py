"""Rotary position for every model: angle_j = Ω[j] · p, one row of Ω per channel pair.

A token's position is p = (t, h, w). A dense learned Ω is the joint space-time encoding
ω_t·t + ω_h·h + ω_w·w (article, section 2.2.1); an Ω with one non-zero per row is the multimodal
RoPE of the Qwen-VL family; Ω[j] = (θ_j, 0, 0) with p = (n, n, n) is plain RoPE. Angles are always
computed in float32: a bfloat16 angle is wrong by whole turns after a few hundred frames.
"""

import torch
from torch import Tensor

from services.inference_worker.device.ops import kernels_for


def angles(omega: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every token's angles.

    omega: [pairs, 3] float32. positions: [..., 3], integer or float32.
    Returns two float32 tensors [..., 1, pairs]; the 1 broadcasts over heads.
    """
    # Products and a sum, not a matrix product: autocast (and TF32) would take that to fewer bits.
    products = positions.to(torch.float32).unsqueeze(-2) * omega.to(torch.float32)
    theta = products.sum(-1).unsqueeze(-2)
    return theta.cos(), theta.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel pairs (j, j + pairs) of x [..., heads, 2 * pairs]; keeps x's dtype."""
    kernels = kernels_for(x)
    whole = cos.dim() == x.dim() == 3 and len(cos) == len(x) and cos.dtype is torch.float32
    if kernels is not None and whole:
        return kernels.rotate(x, cos, sin)
    first, second = x.to(torch.float32).chunk(2, dim=-1)
    turned = (
        torch.addcmul(first * cos, second, sin, value=-1),
        torch.addcmul(second * cos, first, sin),
    )
    return torch.cat([half.to(x.dtype) for half in turned], dim=-1)


def shift(keys: Tensor, omega: Tensor, delta: int) -> Tensor:
    """Move already rotated keys by `delta` positions on every axis, exactly, in float32.

    Rotations compose: R(p + δ) = R(δ) R(p), so K' = K·cos δθ + rotate_half(K)·sin δθ and values
    need no change. keys: [..., heads, head_dim].
    """
    step = torch.full((3,), float(delta), device=omega.device)
    cos, sin = angles(omega, step)
    return rotate(keys, cos, sin)
