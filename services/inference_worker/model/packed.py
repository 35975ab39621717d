"""Puts a model's layers in the order in which this machine's kernels read them."""

import logging
import sys

from torch import nn

from services.inference_worker.device.onednn import is_faster
from services.inference_worker.device.onednn_layers import PackedConvolution, PackedLinear
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.model.lite0 import Convolution

log = logging.getLogger(__name__)

# What vision towers call a layer that a GELU follows, and that GELU; in sequences, the first two.
_GELU_AFTER = {"fc1": "activation_fn", "linear_fc1": "act_fn", "0": "1"}
_CONVOLUTION = [nn.Conv2d, nn.BatchNorm2d, nn.GELU]


def pack(model: StreamingModel) -> None:
    """Pack every linear layer of a model that only runs from now on, and every convolution that a
    batch norm and a GELU follow, in place, where this machine is faster for it. Quantised layers
    stay as they are. The last matrix of a model that shares it with the embedding is held twice:
    reading it is much of an answer's token."""
    assert isinstance(model, nn.Module)
    for module in list(model.modules()):
        if isinstance(module, Convolution):
            module.fold()
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
