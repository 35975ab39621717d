"""Two ways to attend: dense (training, reference) and paged (the engine)."""

import torch
from torch import Tensor
from torch.nn import functional

MOST_SCORES = 2**21  # to be had of one product: what caches hold
_MANY_ROWS = 12  # with fewer, reading keys and values once more for a copy costs what it saves


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
    rows = shared.shape[2]
    if rows == 1 and _slow(queries.dtype, queries.device):  # for one row it takes a slower way yet
        shared = shared.expand(-1, -1, 2, -1)
        mask = mask.expand(-1, -1, 2, -1)
    out = functional.scaled_dot_product_attention(shared, keys, values, mask)[:, :, :rows]
    out = out.reshape(groups, kv_heads, num_heads // kv_heads, count, dim).permute(0, 3, 1, 2, 4)
    return out.reshape(groups, count, num_heads, dim)


def prefers_products(dtype: torch.dtype, device: torch.device, rows: int) -> bool:
    """Whether so many queries of a head attend faster by `product_attention`."""
    return _slow(dtype, device) and rows >= _MANY_ROWS


def _slow(dtype: torch.dtype, device: torch.device) -> bool:
    """In bfloat16 on CPUs, PyTorch's fused kernel takes up to three times as long as two products,
    and longer for one row than for two."""
    return dtype is torch.bfloat16 and device.type == "cpu"


def product_attention(
    scaled: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """softmax(QKᵀ + mask) V as two matrix products.

    scaled: Q / √dim, [heads, queries, dim]; keys, values: [heads, slots, dim]; mask: additive,
    [groups, 1, queries, last], of the last slots; the heads are those of one group after the other.
    The fused kernel keeps scores in float32; these are rounded to the inputs' dtype, as models' own
    eager code has them.
    """
    scores = torch.bmm(scaled, keys.transpose(1, 2))
    if mask is not None:
        grouped = scores.view(len(mask), -1, *scores.shape[1:])
        grouped[..., grouped.shape[-1] - mask.shape[-1] :] += mask
    return torch.bmm(scores.softmax(-1), values)


def full_attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attention in which all see all, on [batch, heads, tokens, dim] tensors."""
    if torch.is_grad_enabled() or not _slow(queries.dtype, queries.device):
        return functional.scaled_dot_product_attention(queries, keys, values, scale=scale)
    # In its own order, whatever that of `queries` is; what writes in place has no gradients.
    scaled = queries.new_empty(queries.shape)
    torch.mul(queries, scale, out=scaled)
    size = max(1, MOST_SCORES // queries.shape[2] ** 2)
    parts = zip(*(each.flatten(0, 1).split(size) for each in (scaled, keys, values)), strict=True)
    return torch.cat([product_attention(*part) for part in parts]).view(queries.shape)


class DenseAttention:
    """Attention among the tokens of one forward under an explicit mask.

    mask: [batch, 1, tokens, tokens] boolean. Used by training and as the oracle of the engine.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return masked_attention(queries, keys, values, self.mask)
