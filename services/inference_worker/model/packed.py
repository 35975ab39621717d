"""Linear layers with their weights in the order in which oneDNN's kernels read them: for CPUs.

PyTorch hands a layer's weights over as they lie, and they are put in order anew with every call: of
a step with few tokens that is most of its time. What `torch.compile` emits for a frozen model puts
them in order once; these are the same two operators, called without a compiler.
"""

import logging
import platform

import torch
from torch import Tensor, nn
from transformers.activations import GELUTanh

from services.inference_worker.model.family import StreamingModel

log = logging.getLogger(__name__)

# What vision towers call a layer that a GELU follows, and that GELU.
_GELU_AFTER = {"fc1": "activation_fn", "linear_fc1": "act_fn"}


class PackedLinear(nn.Module):
    """[..., in] → [..., out] as `nn.Linear` does, and a GELU in the same pass: `gelu` is "tanh" for
    its approximation, "none" for the exact one, None for no GELU. No gradients.

    `weight` is opaque: it has a shape and a size, and no numbers to read.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: str | None = None) -> None:
        super().__init__()
        ordered = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.weight = nn.Parameter(ordered, requires_grad=False)
        self.bias = bias
        self.after = ("none", "") if gelu is None else ("gelu", gelu)

    def forward(self, x: Tensor) -> Tensor:
        kind, algorithm = self.after
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, kind, [], algorithm
        )
        return out


def pack(model: StreamingModel) -> None:
    """Pack every linear layer of a model that only runs from now on, in place, where this machine
    is faster for it. Quantised layers stay as they are. The last matrix of a model that shares it
    with the embedding is held twice: reading it is much of an answer's token."""
    assert isinstance(model, nn.Module)
    if not can_pack(model.decoder.embedding.weight):
        return
    for module in list(model.modules()):
        gelus = {
            first: gelu
            for first, second in _GELU_AFTER.items()
            if (gelu := _gelu(getattr(module, second, None))) is not None
        }
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and type(child.weight) is nn.Parameter:
                setattr(module, name, PackedLinear(child.weight, child.bias, gelus.get(name)))
                if name in gelus:
                    setattr(module, _GELU_AFTER[name], nn.Identity())
    if model.decoder.head is None:
        model.decoder.head = PackedLinear(model.decoder.embedding.weight, None)
    log.info("linear layers packed")


def _gelu(activation: nn.Module | None) -> str | None:
    if isinstance(activation, GELUTanh):
        return "tanh"
    return activation.approximate if isinstance(activation, nn.GELU) else None


def can_pack(weight: Tensor) -> bool:
    """Whether layers with such weights run faster packed, on their device."""
    if weight.device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype is torch.float32
