"""Two ways to attend: dense (training, reference) and paged (the engine)."""

import torch
from torch import Tensor
from torch.nn import functional

_MANY_QUERIES = 64  # below that, keys are copied for a product at no gain
_MOST_SCORES = 2**22  # of one product: what caches hold


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


def grouped_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention in which the query heads that share keys are rows of one
    product, so that keys are read once.

    queries: [groups, queries, num_heads, dim]; keys, values: [groups, kv_heads, slots, dim], of any
    strides; mask: [groups, 1, shared × queries, slots] additive, the queries' rows once for every
    head of those that share. Returns the shape of `queries`.
    """
    groups, count, num_heads, dim = queries.shape
    kv_heads = keys.shape[1]
    shared = queries.view(groups, count, kv_heads, -1, dim).permute(0, 2, 3, 1, 4)
    shared = shared.reshape(groups, kv_heads, -1, dim)
    slow = shared.dtype is torch.bfloat16 and shared.device.type == "cpu"
    by_products = slow and shared.shape[2] >= _MANY_QUERIES
    attend = product_attention if by_products else functional.scaled_dot_product_attention
    out = attend(shared, keys, values, mask)
    out = out.view(groups, kv_heads, num_heads // kv_heads, count, dim).permute(0, 3, 1, 2, 4)
    return out.reshape(groups, count, num_heads, dim)


def product_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """softmax(QKᵀ / √dim + mask) V as two matrix products, as many groups at once as caches bear.

    queries: [groups, heads, queries, dim]; the rest as in `grouped_attention`. PyTorch's fused
    kernel takes more than twice as long for many queries in bfloat16 on CPUs. It keeps scores in
    float32; these are rounded to bfloat16, as models' own eager code has them.
    """
    scores_of_one = queries.shape[1] * queries.shape[2] * keys.shape[2]
    size = max(1, _MOST_SCORES // scores_of_one)
    scaled = queries * queries.shape[-1] ** -0.5
    out = torch.empty_like(queries)
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        scores = scaled[part] @ keys[part].transpose(-1, -2)
        out[part] = scores.add_(mask[part]).softmax(-1) @ values[part]
    return out


class DenseAttention:
    """Attention among the tokens of one forward under an explicit mask.

    mask: [batch, 1, tokens, tokens] boolean. Used by training and as the oracle of the engine.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return masked_attention(queries, keys, values, self.mask)
