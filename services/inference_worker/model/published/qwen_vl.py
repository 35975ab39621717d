"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL, dense and of experts, and what was tuned from them.

Two frames make a tubelet. Each gets a vision span of its own, which is where transformers and the
authors' code agree on positions: within one span of several tubelets they advance differently.
A span's cell (i, j) sits at (p, p + i, p + j), and the words after it at p + max(rows, columns).
"""

from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import QuickGELUActivation
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from services.inference_worker.device.ops import all_kernels_for
from services.inference_worker.model.decoder import DecoderConfig, Mixture, RMSNorm, swiglu
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import Encoded
from services.inference_worker.model.layout import VISION, FrameLayout, SegmentTokens
from services.inference_worker.model.published.folder import CLIP, HALVES
from services.inference_worker.model.published.model import (
    LATEST_S,
    PublishedModel,
    inverse_frequencies,
    normalised,
)
from services.inference_worker.model.published.spans import Spans, use_spans
from sightline.errors import InvalidArgumentError

MOST_GRIDS = 64  # batches × sizes of pictures


class Patches(nn.Conv3d):
    """A convolution over pictures that are one patch each, as the matrix product that it is, which
    takes a third as long on a CPU."""

    @classmethod
    def like(cls, conv: nn.Conv3d) -> Self:
        sizes: Any = conv.kernel_size
        return cls(conv.in_channels, conv.out_channels, sizes, sizes, bias=conv.bias is not None)

    def forward(self, patches: Tensor) -> Tensor:
        """[patches, channels, time, y, x] → [patches, hidden]."""
        return functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


class QuickGELU(nn.Module):
    """Activation of Qwen2-VL (Hendrycks and Gimpel, 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        kernels = all_kernels_for(x)
        if kernels is not None:
            return kernels.quick_gelu(x)
        return x * torch.sigmoid(1.702 * x)


class GatedMLP(nn.Module):
    """Gated MLP of Qwen2.5-VL, with the layers of transformers' own."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.gate_proj: nn.Module = theirs.gate_proj
        self.up_proj: nn.Module = theirs.up_proj
        self.down_proj: nn.Module = theirs.down_proj

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.down_proj(swiglu(self.gate_proj(hidden), self.up_proj(hidden)))
        return out


class Qwen2VL(PublishedModel):
    """Qwen2-VL: q, k and v with biases, chunked multimodal RoPE."""

    model_type = "qwen2_vl"
    colours = CLIP
    placeholder = "<|vision_start|><|video_pad|><|vision_end|>"
    decoder_prefixes = ("model.language_model.", "model.", "language_model.model.")
    tower_prefixes = ("visual.", "model.visual.")
    tubelet = 2
    preferred_fps = 2.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        embed: Any = self.tower.patch_embed
        embed.proj = Patches.like(embed.proj)
        self._grids: dict[tuple[int, int, int, torch.device], dict[str, Any]] = {}

    @property
    def size_factor(self) -> int:
        vision = self.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

    def timestamp(self, seconds: float) -> list[int]:
        """Words before a tubelet's vision span."""
        return []

    def default_layout(self, frame_pixels: int) -> FrameLayout:
        side = max(1, int(frame_pixels**0.5) // self.size_factor) * self.size_factor
        return self.layout(side, side)

    def layout(self, width: int, height: int) -> FrameLayout:
        factor = self.size_factor
        if width % factor or height % factor or not width or not height:
            raise InvalidArgumentError(
                f"frames of {width}×{height}; this model's sides are multiples of {factor}"
            )
        return self._layout(width // factor, height // factor)

    def costliest(self, max_pixels: int) -> FrameLayout:
        cells = (max_pixels or self._pixels(self.spec.layout)) // self.size_factor**2
        if cells < 1 or max_pixels > self.spec.max_pixels:
            raise InvalidArgumentError(
                f"a frame has {self.spec.min_pixels} to {self.spec.max_pixels} pixels"
            )
        return self._layout(cells, 1)

    def _layout(self, columns: int, rows: int) -> FrameLayout:
        words = 2 + len(self.timestamp(LATEST_S))
        return FrameLayout(
            width=columns * self.size_factor,
            height=rows * self.size_factor,
            vision_tokens=columns * rows,
            segment_tokens=columns * rows + words,
            segment_advance=max(columns, rows) + words,
        )

    @staticmethod
    def _pixels(layout: FrameLayout) -> int:
        return layout.width * layout.height

    def segment(self, layout: FrameLayout, cursor: int, seconds: float) -> SegmentTokens:
        columns, rows = layout.width // self.size_factor, layout.height // self.size_factor
        before = [*self.timestamp(seconds), self.config.vision_start_token_id]
        start = cursor + len(before)
        after = start + max(rows, columns)
        positions = [(cursor + n,) * 3 for n in range(len(before))]
        positions += [(start, start + i, start + j) for i in range(rows) for j in range(columns)]
        positions.append((after,) * 3)
        tokens = [*before, *[VISION] * (rows * columns), self.config.vision_end_token_id]
        return SegmentTokens(tokens, positions, after + 1 - cursor)

    def encode(self, frames: Tensor) -> Encoded:
        vision = self.config.vision_config
        patch, merge = vision.patch_size, vision.spatial_merge_size
        tubelets, depth, height, width, _ = frames.shape
        rows, columns = height // patch, width // patch
        dtype = self.decoder.embedding.weight.dtype
        # The patches of one merged cell follow each other; a patch is channels, time, y, x.
        pixels = normalised(frames, self.preprocessor, dtype).view(
            tubelets, depth, 3, rows // merge, merge, patch, columns // merge, merge, patch
        )
        patches = pixels.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(tubelets * rows * columns, -1)
        seen = self.tower(patches, **self._of_grid(tubelets, rows, columns, frames.device))
        deep = tuple(
            layer.unflatten(0, (tubelets, -1)) for layer in getattr(seen, "deepstack_features", ())
        )
        return Encoded(seen.pooler_output.unflatten(0, (tubelets, -1)), deep)

    def adapt_tower(self) -> None:
        use_spans(self.tower, self.windowed)
        tower: Any = self.tower
        for block in tower.blocks:
            if isinstance(getattr(block.mlp, "act", None), QuickGELUActivation):
                block.mlp.act = QuickGELU()

    @property
    def windowed(self) -> list[int]:
        """Blocks of the tower that attend within windows of a picture."""
        return []

    def _of_grid(
        self, tubelets: int, rows: int, columns: int, device: torch.device
    ) -> dict[str, Any]:
        """Tables that the tower makes of a batch's grid, made once for each: it would ask the
        device for it every time, and wait. The lengths of its spans stay on the host, where it
        wants them."""
        key = (tubelets, rows, columns, device)
        if key not in self._grids:
            if len(self._grids) >= MOST_GRIDS:
                self._grids.clear()
            with torch.inference_mode(False):  # tuning may be who uses them next
                self._grids[key] = self._new_grid(tubelets, rows, columns, device)
        return self._grids[key]

    def _new_grid(
        self, tubelets: int, rows: int, columns: int, device: torch.device
    ) -> dict[str, Any]:
        grid = torch.tensor([[1, rows, columns]] * tubelets)
        found = {"grid_thw": grid, **self._grid_arguments(grid)}
        spans = {name: each for name, each in found.items() if name.startswith("cu_")}
        found = {name: each.to(device) for name, each in found.items()} | spans
        whole = spans["cu_seqlens"]
        windows = spans.get("cu_window_seqlens", whole)
        known = [Spans(each.diff().tolist(), device) for each in (whole, windows)]
        return found | {"spans": known}

    def _grid_arguments(self, grid: Tensor) -> dict[str, Tensor]:
        merge = self.config.vision_config.spatial_merge_size
        return {
            "position_ids": get_vision_position_ids(grid, merge),
            "cu_seqlens": get_vision_cu_seqlens(grid),
        }

    @staticmethod
    def make_tower(config: Any) -> nn.Module:
        from transformers.models.qwen2_vl.modeling_qwen2_vl import (
            Qwen2VisionTransformerPretrainedModel as Tower,
        )

        return Tower._from_config(config.vision_config, attn_implementation="sdpa")  # type: ignore[no-any-return]

    @staticmethod
    def axes(sections: list[int]) -> list[int]:
        """Axes, t, h or w, that the channel pairs measure: one block after the other."""
        return [axis for axis, size in enumerate(sections) for _ in range(size)]

    @classmethod
    def omega(cls, config: Any) -> Tensor:
        text = config.text_config
        head_dim = cls.decoder_config(config).head_dim
        frequencies = inverse_frequencies(text, head_dim)
        axes = torch.tensor(cls.axes(list(text.rope_parameters["mrope_section"])))
        omega = torch.zeros(head_dim // 2, 3)
        omega[torch.arange(head_dim // 2), axes] = frequencies
        return omega


class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL: another tower, with windowed attention. A tubelet that has a vision span of its
    own is at no distance in time from itself, so its absolute-time positions are those above."""

    model_type = "qwen2_5_vl"

    @property
    def windowed(self) -> list[int]:
        vision = self.config.vision_config
        return [n for n in range(vision.depth) if n not in vision.fullatt_block_indexes]

    def adapt_tower(self) -> None:
        super().adapt_tower()
        tower: Any = self.tower
        tower.merger.ln_q = RMSNorm.like(tower.merger.ln_q)
        for block in tower.blocks:
            block.norm1, block.norm2 = RMSNorm.like(block.norm1), RMSNorm.like(block.norm2)
            if isinstance(block.mlp.act_fn, nn.SiLU):
                block.mlp = GatedMLP(block.mlp)

    def _grid_arguments(self, grid: Tensor) -> dict[str, Tensor]:
        vision = self.config.vision_config
        index, lengths = get_vision_window_index(
            grid,
            spatial_merge_size=vision.spatial_merge_size,
            window_size=vision.window_size,
            patch_size=vision.patch_size,
        )
        arguments = super()._grid_arguments(grid)
        return arguments | {"window_index": index, "cu_window_seqlens": lengths}

    @staticmethod
    def make_tower(config: Any) -> nn.Module:
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
            Qwen2_5_VisionTransformerPretrainedModel as Tower,
        )

        return Tower._from_config(config.vision_config, attn_implementation="sdpa")  # type: ignore[no-any-return]


class Qwen3VL(Qwen2VL):
    """Qwen3-VL, dense: normed queries and keys, interleaved multimodal RoPE, DeepStack, and the
    time of each tubelet in words before its vision span."""

    model_type = "qwen3_vl"
    colours = HALVES

    def timestamp(self, seconds: float) -> list[int]:
        return self.chat.tokens(f"<{min(seconds, LATEST_S):.1f} seconds>")

    def _grid_arguments(self, grid: Tensor) -> dict[str, Tensor]:
        vision = self.config.vision_config
        tower: Any = self.tower
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=vision.spatial_merge_size,
        )
        arguments = super()._grid_arguments(grid)
        return arguments | {"interp_indices": indices, "interp_weights": weights}

    @staticmethod
    def make_tower(config: Any) -> nn.Module:
        from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel as Tower

        return Tower._from_config(config.vision_config, attn_implementation="sdpa")  # type: ignore[no-any-return]

    @staticmethod
    def axes(sections: list[int]) -> list[int]:
        """t, h, w in turn, until h and w have as many as they get."""
        axes = [0] * sum(sections)
        for axis in (1, 2):
            for pair in range(axis, 3 * sections[axis], 3):
                axes[pair] = axis
        return axes


class Qwen3VLMoe(Qwen3VL):
    """Qwen3-VL with a mixture of experts in the place of most layers' MLP."""

    model_type = "qwen3_vl_moe"

    @staticmethod
    def decoder_config(config: Any) -> DecoderConfig:
        text = config.text_config
        layers = frozenset(
            n
            for n in range(text.num_hidden_layers)
            if n not in text.mlp_only_layers and (n + 1) % text.decoder_sparse_step == 0
        )
        if text.num_experts_per_tok > text.num_experts:
            raise ModelError(
                f"config.json: {text.num_experts_per_tok} experts a token of {text.num_experts}"
            )
        mixture = Mixture(
            count=text.num_experts,
            chosen=text.num_experts_per_tok,
            mlp_size=text.moe_intermediate_size,
            layers=layers,
        )
        return replace(Qwen3VL.decoder_config(config), experts=mixture)

    def finished(self, device: torch.device) -> Self:
        dtype = self.decoder.embedding.weight.dtype
        if device.type == "cuda" and dtype is not torch.bfloat16:
            raise ModelError("mixtures of experts want WORKER_DTYPE=bfloat16 on a GPU")
        return super().finished(device)

    @staticmethod
    def make_tower(config: Any) -> nn.Module:
        from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import (
            Qwen3VLMoeVisionModel as Tower,
        )

        return Tower._from_config(config.vision_config, attn_implementation="sdpa")  # type: ignore[no-any-return]
