"""Layers with their weights in the order in which oneDNN's kernels read them: for CPUs.

PyTorch hands a layer's weights over as they lie, and they are put in order anew with every call: of
a step with few tokens that is most of its time. What `torch.compile` emits for a frozen model puts
them in order once; these are the same two operators, called without a compiler.
"""

import copy
import logging
import sys

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from services.inference_worker.device.onednn import is_faster
from services.inference_worker.model.family import StreamingModel

log = logging.getLogger(__name__)

# What vision towers call a layer that a GELU follows, and that GELU; in sequences, the first two.
_GELU_AFTER = {"fc1": "activation_fn", "linear_fc1": "act_fn", "0": "1"}
_CONVOLUTION = [nn.Conv2d, nn.BatchNorm2d, nn.GELU]


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


class PackedConvolution(nn.Module):
    """A convolution, the batch norm after it, which only shifts and scales once it is trained, and
    the GELU after that, in one pass. [batch, channels, height, width], as its parts do."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, gelu: nn.GELU) -> None:
        super().__init__()
        dtype = convolution.weight.dtype
        folded = fuse_conv_bn_eval(
            copy.deepcopy(convolution).eval().float(), copy.deepcopy(norm).eval().float()
        )
        self.shape = (folded.padding, folded.stride, folded.dilation, folded.groups)
        weight = folded.weight.detach().to(dtype, memory_format=torch.channels_last)
        ordered = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.shape)
        self.weight = nn.Parameter(ordered, requires_grad=False)
        assert folded.bias is not None
        self.bias = nn.Parameter(folded.bias.detach().to(dtype), requires_grad=False)
        self.gelu = gelu.approximate

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.shape, "gelu", [], self.gelu
        )
        return out


def pack(model: StreamingModel) -> None:
    """Pack every linear layer of a model that only runs from now on, and every convolution that a
    batch norm and a GELU follow, in place, where this machine is faster for it. Quantised layers
    stay as they are. The last matrix of a model that shares it with the embedding is held twice:
    reading it is much of an answer's token."""
    assert isinstance(model, nn.Module)
    embedding = model.decoder.embedding.weight
    if not is_faster(embedding.dtype, embedding.device):
        return
    for module in list(model.modules()):
        gelus = {
            first: gelu
            for first, second in _GELU_AFTER.items()
            if (gelu := _gelu(getattr(module, second, None))) is not None
        }
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Sequential) and [type(each) for each in child] == _CONVOLUTION:
                setattr(module, name, PackedConvolution(*child))
            elif type(child) is nn.Linear and type(child.weight) is nn.Parameter:
                setattr(module, name, PackedLinear(child.weight, child.bias, gelus.get(name)))
                if name in gelus:
                    setattr(module, _GELU_AFTER[name], nn.Identity())
    if model.decoder.head is None:
        model.decoder.head = PackedLinear(embedding, None)
    log.info("layers packed")


def _gelu(activation: nn.Module | None) -> str | None:
    # Not imported here: it takes seconds and memory that a model of our own has no use for.
    theirs = sys.modules.get("transformers.activations")
    if theirs is not None and isinstance(activation, theirs.GELUTanh):
        return "tanh"
    return activation.approximate if isinstance(activation, nn.GELU) else None
