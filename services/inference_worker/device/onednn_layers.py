"""Layers with their weights in the order in which oneDNN's kernels read them: for CPUs.

PyTorch hands a layer's weights over as they lie, and they are put in order anew with every call: of
a step with few tokens that is most of its time. What `torch.compile` emits for a frozen model puts
them in order once; these are the same two operators, called without a compiler.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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
