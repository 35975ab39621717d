"""Attention of vision towers within spans, all spans of one length at once.

transformers' towers call their attention once for every span, a picture or a window of it: for ten
pictures in windows, thousands of launches. What stands in its place here is called once a block,
knows the spans from `spans` (see `Spans`) and batches those of one length.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from services.inference_worker.model.attention import full_attention
from services.inference_worker.model.rotary import rotate

_WHOLE = "sightline_whole"


class Spans:
    """Spans of one batch of pictures: consecutive tokens that see each other. `groups`: the length
    of those that are equally long, and their tokens [count · length]; None for all tokens in
    order."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.groups: list[tuple[int, Tensor | None]] = []
        places: dict[int, list[Tensor]] = {}
        start = 0
        for length in lengths:
            places.setdefault(length, []).append(torch.arange(start, start + length))
            start += length
        if len(places) == 1:
            self.groups = [(lengths[0], None)]
        else:
            self.groups = [(n, torch.cat(found).to(device)) for n, found in places.items()]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """[tokens, heads, dim] of as many each."""
        whole = queries.new_empty(queries.shape)
        for length, places in self.groups:
            query, key, value = (
                (each if places is None else each.index_select(0, places))
                .unflatten(0, (-1, length))
                .transpose(1, 2)
                for each in (queries, keys, values)
            )
            seen = full_attention(query, key, value, scale).transpose(1, 2).flatten(0, 1)
            if places is None:
                whole = seen
            else:
                whole.index_copy_(0, places, seen)
        return whole


class SpanAttention(nn.Module):
    """Attention of a Qwen tower, with the layers of transformers' own.

    windowed: whether the block attends within windows of a picture, or else within pictures.
    """

    def __init__(self, theirs: Any, windowed: bool) -> None:
        super().__init__()
        self.qkv: nn.Module = theirs.qkv
        self.proj: nn.Module = theirs.proj
        self.num_heads: int = theirs.num_heads
        self.scale: float = theirs.scaling
        self.windowed = windowed

    def forward(
        self,
        hidden: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        spans: tuple[Spans, Spans],
        **_: Any,
    ) -> Tensor:
        """[tokens, size] of as many. position_embeddings: cosine and sine [tokens, dim], twice the
        same half; spans: of pictures, and of windows."""
        qkv: Tensor = self.qkv(hidden).unflatten(-1, (3 * self.num_heads, -1))
        turned, values = qkv.split((2 * self.num_heads, self.num_heads), dim=1)
        cos, sin = (each.chunk(2, dim=-1)[0].unsqueeze(-2) for each in position_embeddings)
        queries, keys = rotate(turned, cos, sin).chunk(2, dim=1)
        attended = spans[int(self.windowed)].attend(queries, keys, values, self.scale)
        out: Tensor = self.proj(attended.flatten(1))
        return out


def use_spans(tower: Any, windowed: Sequence[int] = ()) -> None:
    """Let a tower attend by spans from now on; it then needs `spans` with every call. `windowed`:
    blocks that attend within windows."""
    for index, block in enumerate(tower.blocks):
        block.attn = SpanAttention(block.attn, index in windowed)


def use_whole_pictures(tower: Any) -> None:
    """Let a tower that takes a batch of pictures of one size attend by `full_attention`."""
    AttentionInterface.register(_WHOLE, _whole)
    tower.config._attn_implementation = _WHOLE


def _whole(
    module: nn.Module,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    assert attention_mask is None
    return full_attention(queries, keys, values, scaling).transpose(1, 2), None
