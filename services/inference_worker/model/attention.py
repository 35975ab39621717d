"""Two ways to attend: dense (training, reference) and paged (the engine)."""

import torch
from torch import Tensor
from torch.nn import functional

from services.inference_worker.device.onednn_attention import scaled_attention


def _repeat_heads(x: Tensor, num_heads: int) -> Tensor:
    """[batch, kv_heads, tokens, dim] → [batch, num_heads, tokens, dim] for grouped queries."""
    repeats = num_heads // x.shape[1]
    return x if repeats == 1 else x.repeat_interleave(repeats, dim=1)


def masked_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention on [batch, tokens, heads, head_dim] tensors.

    mask: broadcastable to [batch, heads, queries, keys]; boolean (True: may see) or additive.
    """
    num_heads = queries.shape[-2]
    out = functional.scaled_dot_product_attention(
        queries.transpose(1, 2),
        _repeat_heads(keys.transpose(1, 2), num_heads),
        _repeat_heads(values.transpose(1, 2), num_heads),
        attn_mask=mask,
    )
    return out.transpose(1, 2)


def grouped_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, out: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention in which the query heads that share keys are rows of one
    product, so that keys are read once.

    queries: [groups, queries, num_heads, dim]; keys, values: [groups, kv_heads, slots, dim], of any
    strides; mask: [groups, 1, shared × queries, slots] additive, the queries' rows once for every
    head of those that share. Returns the shape of `queries`; in `out` if there is one.
    """
    if out is None:
        out = queries.new_empty(queries.shape)
    groups, count, _, dim = queries.shape
    shared, to = (
        each.view(groups, count, keys.shape[1], -1, dim).permute(0, 2, 3, 1, 4)
        for each in (queries, out)
    )
    scaled = queries.new_empty(shared.shape)
    torch.mul(shared, dim**-0.5, out=scaled)
    to.copy_(scaled_attention(scaled.flatten(2, 3), keys, values, mask).view(shared.shape))
    return out


def full_attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attention in which all see all, on [batch, heads, tokens, dim] tensors."""
    if torch.is_grad_enabled():  # what writes in place has no gradients
        return functional.scaled_dot_product_attention(queries, keys, values, scale=scale)
    scaled = queries.new_empty(queries.shape)  # in its own order, whatever that of `queries` is
    torch.mul(queries, scale, out=scaled)
    return scaled_attention(scaled, keys, values)


class DenseAttention:
    """Attention among the tokens of one forward under an explicit mask.

    mask: [batch, 1, tokens, tokens] boolean. Used by training and as the oracle of the engine.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return masked_attention(queries, keys, values, self.mask)
