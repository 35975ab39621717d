"""GELU's tanh approximation, quicker on CPUs."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUTanh

_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR


class SigmoidGelu(nn.Module):
    """½x(1 + tanh u) with u = √(2/π)(x + 0.044715x³) (Hendrycks and Gimpel, arXiv:1606.08415), as
    x·σ(2u), which is the same: PyTorch has a fast σ on CPUs and a slow tanh. In float32, whatever
    x is. Where a kernel of one pass serves better, or gradients are wanted, that one is taken."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return functional.gelu(x, approximate="tanh")
        wide = x.float()
        doubled = torch.addcmul(wide.new_tensor(_LINEAR), wide, wide, value=_CUBIC).mul_(wide)
        return doubled.sigmoid_().mul_(wide).to(x.dtype)


def use_sigmoid_gelu(tower: nn.Module) -> None:
    """Put it wherever transformers put its own."""
    for module in list(tower.modules()):
        for name, child in module.named_children():
            if isinstance(child, GELUTanh):
                setattr(module, name, SigmoidGelu())
