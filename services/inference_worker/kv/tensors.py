"""Keys and values of every layer, in pages: as the model computed them, or in int8.

A step writes its new tokens first and then reads all that it sees, those among it: a token is
attended as it is stored, in its own step as in every later one. So in 8 bits, too, an answer does
not depend on how steps were batched or cut, but for what that changes in the last bits of the
model's own arithmetic: they may now and then round a stored number to its neighbour.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.inference_worker.device.ops import all_kernels_for
from services.inference_worker.device.upload import upload
from services.inference_worker.model.decoder import DecoderConfig
from services.inference_worker.model.rotary import shift

LARGEST_CODE = 127
_LEAST_SCALE = 1e-30  # of tokens that are all zero


@dataclass(frozen=True, slots=True)
class PageRows:
    """`groups` rows of `slots` consecutive slots. Each begins with a page: the first with page
    `first`, each other one `stride` pages after the last."""

    first: int
    stride: int
    groups: int
    slots: int

    def view(self, pool: Tensor) -> Tensor:
        """[groups, kv_heads, slots, …] of a pool [kv_heads, pages, page_size, …], in place."""
        heads, _, _, width = pool.shape
        by_head, by_page, by_slot, _ = pool.stride()
        return pool.as_strided(
            (self.groups, heads, self.slots, width),
            (self.stride * by_page, by_head, by_slot, 1),
            pool.storage_offset() + self.first * by_page,
        )


class Pages:
    """Keys or values of one layer, exact.

    parts: [kv_heads, pages, page_size, …] each. Heads come first so that what one step gathers is
    already a batch of matrices.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.parts = [_zeros(shape, dtype, device)]

    def write(self, slots: Tensor, new: Tensor) -> None:
        """Store `new` [tokens, kv_heads, head_dim], of any floating dtype, in `slots` [tokens]."""
        pool = self.parts[0].flatten(1, 2)
        new = new.to(pool.dtype)
        kernels = all_kernels_for(new)
        if kernels is not None:
            kernels.scatter(new, slots, pool)
        else:
            pool.index_copy_(1, slots, new.transpose(0, 1))

    def read(self, pages: Tensor, dtype: torch.dtype) -> Tensor:
        """[kv_heads, pages, page_size, head_dim] of `pages` [pages], as `dtype`."""
        return self.parts[0].index_select(1, pages).to(dtype)

    def read_rows(self, rows: PageRows, dtype: torch.dtype) -> Tensor:
        """[groups, kv_heads, slots, head_dim] of whole rows, as `dtype`; not copied if it is."""
        return rows.view(self.parts[0]).to(dtype)


class Int8Pages(Pages):
    """Keys or values of one layer in int8, with a scale for each token and head, so that a token's
    largest number is the largest code. A number errs by 1/254 of that at most.

    Scales are bfloat16, which has the range for it, and are rounded before they are divided by.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        codes = _zeros(shape, torch.int8, device)
        self.parts = [codes, _zeros((*shape[:-1], 1), torch.bfloat16, device)]

    def write(self, slots: Tensor, new: Tensor) -> None:
        codes, scales = self.parts
        new = new.transpose(0, 1).float()
        # One of NaN or infinity makes the scale that, so that it is not hidden by its code.
        scale = new.abs().amax(-1, keepdim=True).div_(LARGEST_CODE).clamp_min_(_LEAST_SCALE)
        scale = scale.to(scales.dtype)
        coded = (new / scale).round_().clamp_(-LARGEST_CODE, LARGEST_CODE).to(codes.dtype)
        codes.flatten(1, 2).index_copy_(1, slots, coded)
        scales.flatten(1, 2).index_copy_(1, slots, scale)

    def read(self, pages: Tensor, dtype: torch.dtype) -> Tensor:
        return self._decoded([part.index_select(1, pages) for part in self.parts], dtype)

    def read_rows(self, rows: PageRows, dtype: torch.dtype) -> Tensor:
        return self._decoded([rows.view(part) for part in self.parts], dtype)

    def _decoded(self, parts: list[Tensor], dtype: torch.dtype) -> Tensor:
        codes, scales = parts
        # In place, and computed in float32 where dtype is float16, which has no room for scales.
        return codes.to(dtype).mul_(scales)


class KVTensors:
    """The KV tensors of a decoder. Only the device thread calls it.

    kind: "auto", in `dtype`, the model's own, or "int8". What is read is in `dtype`.
    """

    def __init__(
        self,
        config: DecoderConfig,
        kind: str,
        *,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.dtype = dtype
        self.device = device
        self.page_size = page_size
        self.num_heads = config.num_heads
        self.heads_per_kv_head = config.num_heads // config.num_kv_heads
        shape = (config.num_kv_heads, num_pages, page_size, config.head_dim)

        def pages() -> Pages:
            if kind == "auto":
                return Pages(shape, dtype, device)
            return Int8Pages(shape, device)

        self.keys = [pages() for _ in range(config.num_layers)]
        self.values = [pages() for _ in range(config.num_layers)]

    @property
    def parts(self) -> list[Tensor]:
        """Every tensor, those of the widest numbers first."""
        parts = [part for pages in (*self.keys, *self.values) for part in pages.parts]
        return sorted(parts, key=lambda part: -part.itemsize)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page, over all layers."""
        return sum(part[:, 0].nbytes for part in self.parts)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store new tokens. slots: [tokens]. keys, values: [tokens, kv_heads, head_dim]."""
        self.keys[layer].write(slots, keys)
        self.values[layer].write(slots, values)

    def read(self, layer: int, pages: Tensor | PageRows) -> tuple[Tensor, Tensor]:
        """Keys and values [groups, kv_heads, slots, head_dim] of rows, where they lie if they are
        exact, or gathered from `pages` [groups, pages]."""
        keys, values = self.keys[layer], self.values[layer]
        if isinstance(pages, PageRows):
            return keys.read_rows(pages, self.dtype), values.read_rows(pages, self.dtype)
        groups, count = pages.shape
        index = pages.flatten()

        def gathered(part: Pages) -> Tensor:
            read = part.read(index, self.dtype)
            slots = read.view(len(read), groups, count * self.page_size, read.shape[-1])
            return slots.transpose(0, 1)

        return gathered(keys), gathered(values)

    def clear(self, pages: list[int]) -> None:
        """Zeros in these pages, whose numbers are nobody's any more but may be read: what is not
        seen is masked, but masking a NaN leaves a NaN."""
        if not pages:
            return
        index = self._uploaded(pages)
        for part in self.parts:
            part.index_fill_(1, index, 0)

    def shift(self, pages: list[int], into: list[int], omega: Tensor, delta: int) -> None:
        """Write the keys of these pages, rotated by `delta` positions, and their values into the
        pages `into`: the same ones, or free ones where somebody goes on reading the old. In 8 bits
        keys are rounded once more, which is all that a window meets: it has moved on before its
        next rebase."""
        index, target = self._uploaded(pages), self._uploaded(into)
        offsets = torch.arange(self.page_size, device=self.device)
        slots = (target[:, None] * self.page_size + offsets).flatten()
        for keys in self.keys:
            moved = shift(keys.read(index, torch.float32), omega, delta)
            keys.write(slots, moved.flatten(1, 2).transpose(0, 1))
        copied = [(old, new) for old, new in zip(pages, into, strict=True) if old != new]
        if not copied:
            return
        index, target = (self._uploaded(list(each)) for each in zip(*copied, strict=True))
        for values in self.values:
            for part in values.parts:
                part.index_copy_(1, target, part.index_select(1, index))

    def save(self, pages: list[int]) -> Tensor:
        """A copy of these pages in host memory, pinned where the device is CUDA: [bytes] uint8.
        There it is complete when the work queued so far is; only `restore`, which queues behind
        that, may read it."""
        index = self._uploaded(pages)
        pinned = self.device.type == "cuda"
        saved = torch.empty(len(pages) * self.page_bytes, dtype=torch.uint8, pin_memory=pinned)
        for part, copy in self._copies(saved, len(pages)):
            copy.copy_(part.index_select(1, index), non_blocking=pinned)
        return saved

    def trimmed(self, saved: Tensor, count: int, gone: range) -> Tensor:
        """Pages that `save` gave, of which there are `count`, without those numbered `gone`."""
        if saved.is_pinned():
            torch.cuda.synchronize(self.device)
        kept = torch.tensor([number for number in range(count) if number not in gone])
        size = len(kept) * self.page_bytes
        smaller = torch.empty(size, dtype=torch.uint8, pin_memory=saved.is_pinned())
        copies = zip(self._copies(saved, count), self._copies(smaller, len(kept)), strict=True)
        for (_, old), (_, new) in copies:
            new.copy_(old.index_select(1, kept))
        return smaller

    def restore(self, pages: list[int], saved: Tensor) -> None:
        """Write what `save` gave into these pages, bit for bit."""
        index = self._uploaded(pages)
        for part, copy in self._copies(saved, len(pages)):
            part.index_copy_(1, index, copy.to(self.device, non_blocking=True))

    def _uploaded(self, pages: list[int]) -> Tensor:
        """Numbers [pages] of pages on the device, which is not waited for."""
        return upload([np.array(pages, dtype=np.int64)], self.device)[0]

    def _copies(self, saved: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Each part with its place in a copy of `count` pages."""
        start = 0
        for part in self.parts:
            heads, _, size, width = part.shape
            end = start + heads * count * size * width * part.itemsize
            yield part, saved[start:end].view(part.dtype).view(heads, count, size, width)
            start = end


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, because a slot nobody wrote is masked, and masking a NaN leaves a NaN. In host memory
    they are the system's own zero pages, which cost nothing until a session writes to them."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    raw = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)
