"""The least work of a step, and how long this machine's best rates would take for it.

Counted are the matrix products, the attention over what each token really sees, and one reading of
every weight and of every session's keys and values. No padding, no copies, no activations.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.machine import copy_rate, matmul_rate
from services.inference_worker.model.decoder import DecoderConfig
from services.inference_worker.model.family import StreamingModel

SQUARES = (512, 1024, 2048)


@dataclass(frozen=True, slots=True)
class Rates:
    """FLOP/s of matrix products, at their best and at one frame's shape, and bytes/s of a copy.
    `size`: rows, inner and columns of the best."""

    flops: float
    frame_flops: float
    bytes: float
    size: tuple[int, int, int]

    @classmethod
    def of(cls, model: StreamingModel, tokens: int) -> "Rates":
        """Rates of the model's device and dtype, with the threads torch has now. `tokens`: of a
        step."""
        weights, config = model.decoder.embedding.weight, model.decoder.config
        own = (tokens, config.hidden_size, 2 * config.mlp_size)
        sizes = [own, *((n, n, n) for n in SQUARES)]
        flops = {size: matmul_rate(*size, weights.dtype, weights.device) for size in sizes}
        best = max(sizes, key=lambda size: flops[size])
        return cls(flops[best], flops[own], copy_rate(weights.device), best)

    def again(self, model: StreamingModel) -> "Rates":
        """These rates with the best product measured now, as long as a few steps take: rates change
        with what else the machine does."""
        weights = model.decoder.embedding.weight
        flops = matmul_rate(*self.size, weights.dtype, weights.device, seconds=0.2)
        return replace(self, flops=flops)


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs to be computed and bytes to be read, at least."""

    flops: float
    bytes: float

    def floor_s(self, rates: Rates) -> float:
        return max(self.flops / rates.flops, self.bytes / rates.bytes)


def frame_work(model: StreamingModel, sessions: int, tokens: int, seen: int) -> Work:
    """Work of one segment of `tokens` in each of `sessions`, each of which holds `seen` tokens
    already."""
    config, layers = model.decoder.config, model.decoder.layers
    assert isinstance(model, nn.Module)
    tower = sum(p.numel() for name, p in model.named_parameters() if not _of_decoder(name))
    flops = tower_flops(model, sessions)
    flops += sessions * (2.0 * _count(layers) * tokens + attention_flops(config, tokens, seen))
    read = (_count(layers) + tower) * _item_bytes(model)
    return Work(flops, read + sessions * kv_bytes(config, seen, _item_bytes(model)))


def decode_work(model: StreamingModel, sessions: int, seen: int) -> Work:
    """The next token of one answer in each of `sessions`."""
    config = model.decoder.config
    weights = _count(model.decoder.layers) + config.vocab_size * config.hidden_size
    flops = sessions * (2.0 * weights + attention_flops(config, 1, seen))
    read = weights * _item_bytes(model)
    return Work(flops, read + sessions * kv_bytes(config, seen, _item_bytes(model)))


def attention_flops(config: DecoderConfig, tokens: int, seen: int) -> float:
    """Two products per visible pair and head; new tokens see `seen` and each other causally."""
    pairs = tokens * seen + tokens * (tokens + 1) / 2
    return 4.0 * pairs * config.num_heads * config.head_dim * config.num_layers


def kv_bytes(config: DecoderConfig, tokens: int, item_bytes: int) -> float:
    """Keys and values of all layers."""
    return 2.0 * tokens * config.num_kv_heads * config.head_dim * config.num_layers * item_bytes


def tower_flops(model: StreamingModel, tubelets: int) -> float:
    spec = model.spec
    shape = (tubelets, spec.tubelet, spec.layout.height, spec.layout.width, 3)
    pictures = torch.zeros(shape, dtype=torch.uint8, device=model.decoder.embedding.weight.device)
    counter = FlopCounterMode(display=False, custom_mapping=_ON_CPUS)
    with torch.inference_mode(), counter:
        model.encode(pictures)
    return float(counter.get_total_flops())


def _attention_flops(queries: Any, keys: Any, values: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(queries, keys, values))  # type: ignore[no-untyped-call]


def _linear_flops(inputs: Any, weight: Any, *_: Any, **__: Any) -> int:
    return int(2 * math.prod(inputs) * weight[0])


# The counter knows the kernels of GPUs, and takes what it does not know for nothing.
_ON_CPUS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.mkldnn._linear_pointwise: _linear_flops,
}


def _of_decoder(name: str) -> bool:
    return name.startswith("decoder.")


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _item_bytes(model: StreamingModel) -> int:
    return int(model.decoder.embedding.weight.element_size())
