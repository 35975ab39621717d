"""Attention of vision towers within spans, all spans of one length at once.

transformers' towers call their attention once for every span, a picture or a window of it: for ten
pictures in windows, thousands of launches. Given one span that is all of them, they call this once,
which knows the spans from `spans` (see `Spans`) and batches those of one length.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

NAME = "sightline_spans"


class Spans:
    """Of one batch of pictures: consecutive tokens that see each other. `groups`: the length of
    those that are equally long, and their tokens [count · length]; None for all tokens in order."""

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
        """[1, tokens, heads, dim] of [1, heads, tokens, dim] each."""
        whole = queries.new_empty((queries.shape[2], queries.shape[1], queries.shape[3]))
        for length, places in self.groups:
            picked = [
                each if places is None else each.index_select(2, places)
                for each in (queries, keys, values)
            ]
            query, key, value = (
                each[0].unflatten(1, (-1, length)).transpose(0, 1) for each in picked
            )
            seen = functional.scaled_dot_product_attention(query, key, value, scale=scale)
            seen = seen.transpose(1, 2).flatten(0, 1)  # which is how kernels lay it out
            if places is None:
                whole = seen
            else:
                whole.index_copy_(0, places, seen)
        return whole[None]


def use_spans(tower: Any, windowed: Sequence[int] = ()) -> None:
    """Let a tower attend by spans from now on; it then needs `spans` with every call: those of
    whole pictures, and those of windows, in which the blocks `windowed` attend."""
    AttentionInterface.register(NAME, _attention)
    tower.config._attn_implementation = NAME
    for index, block in enumerate(tower.blocks):
        block.attn.attends_in = int(index in windowed)


def _attention(
    module: nn.Module,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    spans: tuple[Spans, Spans],
    **_: Any,
) -> tuple[Tensor, None]:
    assert attention_mask is None
    chosen = spans[int(module.attends_in)]  # type: ignore[arg-type]
    return chosen.attend(queries, keys, values, scaling), None
