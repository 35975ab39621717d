"""The one decoder that every model family runs on.

The decoder knows nothing of batches, pages or sessions: it maps token embeddings and positions to
hidden states and asks its caller, an `Attend`, to attend. Training passes dense masks, the engine
passes block tables, and both run the same weights through the same code.
"""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.inference_worker.device.ops import all_kernels_for, kernels_for
from services.inference_worker.model.rotary import angles, rotate


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Shape of a mixture of experts, of which each token is sent to `chosen`. `layers`: those that
    have one."""

    count: int
    chosen: int
    mlp_size: int
    layers: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Shape of a decoder. `num_kv_heads` < `num_heads` is grouped-query attention."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = True
    experts: Mixture | None = None

    def is_mixture(self, layer: int) -> bool:
        """Whether a layer has experts in the place of its MLP."""
        return self.experts is not None and layer in self.experts.layers


class Attend(Protocol):
    """Attention over whatever the caller keeps.

    `queries` [..., num_heads, head_dim]; `keys` and `values` [..., num_kv_heads, head_dim], of the
    tokens in this forward, rotated. Returns [..., num_heads, head_dim].
    """

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor: ...


@dataclass(slots=True, eq=False)
class Deep:
    """Visual features that enter after the first layers (DeepStack, Meng et al., 2024).

    `places` [vision tokens]: their rows among the flat tokens. `layers[n]` [vision tokens, hidden]
    is added to them after layer n.
    """

    places: Tensor
    layers: list[Tensor]


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    @classmethod
    def like(cls, theirs: Any) -> Self:
        """The norm with the weight of one of transformers'."""
        ours = cls(len(theirs.weight), theirs.variance_epsilon)
        ours.weight = theirs.weight
        return ours

    def forward(self, x: Tensor) -> Tensor:
        kernels = kernels_for(x)
        if kernels is not None and self.weight.dtype is x.dtype:
            return kernels.rms_norm(x, self.weight, self.eps)
        # The same dtype on both sides keeps the fused kernel under autocast.
        return functional.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """SiLU of `gate` times `up`, which have the same shape and strides (Shazeer, 2020)."""
    kernels = all_kernels_for(gate)
    if kernels is not None:
        return kernels.swiglu(gate, up)
    return functional.silu(gate) * up


class Experts(nn.Module):
    """SwiGLU MLPs, of which a router chooses some for each token and weighs what they say by its
    softmax over the chosen (Shazeer et al., 2017; Qwen3). Nothing waits for the device: tokens are
    sorted by expert, and all experts are one grouped product."""

    def __init__(self, hidden_size: int, shape: Mixture) -> None:
        super().__init__()
        self.chosen = shape.chosen
        self.router = nn.Linear(hidden_size, shape.count, bias=False)
        self.gate_up = nn.Parameter(torch.zeros(shape.count, 2 * shape.mlp_size, hidden_size))
        self.down = nn.Parameter(torch.zeros(shape.count, hidden_size, shape.mlp_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden_size] of as many."""
        flat = hidden.flatten(0, -2)
        weights, experts = self.router(flat).softmax(-1, dtype=torch.float32).topk(self.chosen)
        weights = (weights / weights.sum(-1, keepdim=True)).to(flat.dtype)
        sent = experts.flatten()
        order = sent.argsort(stable=True)
        every = torch.arange(len(self.down), device=sent.device)
        ends = (sent <= every[:, None]).sum(-1, dtype=torch.int32)
        rows = flat.index_select(0, order // self.chosen)
        inner = functional.grouped_mm(rows, self.gate_up.transpose(1, 2), offs=ends)
        gate, up = inner.chunk(2, dim=-1)
        said = functional.grouped_mm(swiglu(gate, up), self.down.transpose(1, 2), offs=ends)
        ordered = torch.empty_like(said).index_copy(0, order, said)
        mixed: Tensor = (ordered.unflatten(0, (-1, self.chosen)) * weights.unsqueeze(-1)).sum(1)
        return mixed.view(hidden.shape)


class Layer(nn.Module):
    """One pre-norm transformer layer: rotary attention, then a SwiGLU MLP or experts."""

    def __init__(self, config: DecoderConfig, experts: Mixture | None = None) -> None:
        super().__init__()
        self.config = config
        query_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        self.split = (query_size, kv_size, kv_size)
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.qkv = nn.Linear(config.hidden_size, sum(self.split), bias=config.qkv_bias)
        self.output = nn.Linear(query_size, config.hidden_size, bias=False)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.experts = None if experts is None else Experts(config.hidden_size, experts)
        if experts is None:
            self.gate_up = nn.Linear(config.hidden_size, 2 * config.mlp_size, bias=False)
            self.down = nn.Linear(config.mlp_size, config.hidden_size, bias=False)
        if config.qk_norm:
            self.query_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.key_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(
        self, index: int, hidden: Tensor, cos: Tensor, sin: Tensor, attend: Attend
    ) -> Tensor:
        queries, keys, values = self.qkv(self.attention_norm(hidden)).split(self.split, dim=-1)
        queries = queries.unflatten(-1, (self.config.num_heads, self.config.head_dim))
        keys = keys.unflatten(-1, (self.config.num_kv_heads, self.config.head_dim))
        values = values.unflatten(-1, (self.config.num_kv_heads, self.config.head_dim))
        if self.config.qk_norm:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        attended = attend(index, rotate(queries, cos, sin), rotate(keys, cos, sin), values)
        hidden = hidden + self.output(attended.flatten(-2))
        normed = self.mlp_norm(hidden)
        if self.experts is not None:
            return hidden + self.experts(normed)  # type: ignore[no-any-return]
        gate, up = self.gate_up(normed).chunk(2, dim=-1)
        return hidden + self.down(swiglu(gate, up))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Causal decoder with space-time rotary attention.

    `omega` [head_dim // 2, 3] float32 is kept out of any dtype conversion of the weights by the
    loader; see `rotary` for its meaning.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.omega = nn.Parameter(torch.zeros(config.head_dim // 2, 3))
        self.layers = nn.ModuleList(
            Layer(config, config.experts if config.is_mixture(n) else None)
            for n in range(config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head: nn.Module | None = None
        if not config.tie_embeddings:
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self, hidden: Tensor, positions: Tensor, attend: Attend, deep: Deep | None = None
    ) -> Tensor:
        """Hidden states after the last norm.

        hidden: [..., hidden_size] embeddings of text or vision tokens, in any mixture.
        positions: [..., 3]. Leading dimensions are the caller's: [tokens] or [batch, tokens];
        with `deep` they are [tokens].
        """
        cos, sin = angles(self.omega, positions)
        for index, layer in enumerate(self.layers):
            hidden = layer(index, hidden, cos, sin, attend)
            if deep is not None and index < len(deep.layers):
                hidden = hidden.index_add(0, deep.places, deep.layers[index])
        normed: Tensor = self.norm(hidden)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary scores [..., vocab_size] of normed hidden states."""
        if self.head is None:
            return functional.linear(hidden, self.embedding.weight)
        logits: Tensor = self.head(hidden)
        return logits
