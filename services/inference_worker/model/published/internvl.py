"""InternVL3 and 3.5, in transformers' layout (the releases that end in -hf): an InternViT tower,
pixel shuffle, an MLP, and a decoder of Qwen2, Qwen3 or Llama.

A frame has its number before it, as in the videos of its training. Of a live stream that is the
second which it shows, counted from 1: the same at the one frame a second that it prefers.
"""

from typing import Any

from torch import Tensor, nn
from transformers.activations import GELUActivation

from services.inference_worker.model.decoder import DecoderConfig
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.published.folder import CLIP
from services.inference_worker.model.published.spans import use_whole_pictures
from services.inference_worker.model.published.square import SquareModel

DECODERS = ("qwen2", "qwen3", "llama")


class Tower(nn.Module):
    """Vision transformer and projector, named as in a checkpoint."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers.models.internvl.modeling_internvl import (
            InternVLMultiModalProjector,
            InternVLVisionModel,
        )

        self.vision_tower = InternVLVisionModel._from_config(
            config.vision_config, attn_implementation="sdpa"
        )
        self.multi_modal_projector = InternVLMultiModalProjector(config)
        self.merge = _merge(config)

    def forward(self, pixels: Tensor) -> Tensor:
        """[frames, 3, size, size] → [frames, tokens, hidden]."""
        seen = self.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
        side, merge = int(seen.shape[1] ** 0.5), self.merge
        # A cell's channels are those of its patches, row after row.
        cells = seen.unflatten(1, (side // merge, merge, side // merge, merge)).transpose(2, 3)
        return self.multi_modal_projector(cells.flatten(3).flatten(1, 2))  # type: ignore[no-any-return]


class InternVL(SquareModel):
    """InternVL3.x, with the template of its folder."""

    placeholder = "<video>\n"
    decoder_prefixes = ("model.language_model.", "language_model.model.")
    tower_prefixes = ("model.", "")
    model_type = "internvl"
    colours = CLIP

    @property
    def side(self) -> int:
        return int(_square(self.config.vision_config.image_size))

    @property
    def frame_tokens(self) -> int:
        patches = self.side // _square(self.config.vision_config.patch_size)
        return int(patches // _merge(self.config)) ** 2

    def words_before(self, seconds: float) -> str:
        return f"Frame{int(seconds) + 1}: <img>"

    @property
    def words_after(self) -> str:
        return "</img>\n"

    @staticmethod
    def decoder_config(config: Any) -> DecoderConfig:
        kind = config.text_config.model_type
        if kind not in DECODERS:
            raise ModelError(f"its decoder is {kind}; this worker has {', '.join(DECODERS)}")
        return SquareModel.decoder_config(config)

    def adapt_tower(self) -> None:
        tower: Any = self.tower.vision_tower
        use_whole_pictures(tower)
        for layer in tower.encoder.layer:
            if isinstance(layer.mlp.activation_fn, GELUActivation):
                layer.mlp.activation_fn = nn.GELU()  # the same, which packing knows

    @staticmethod
    def make_tower(config: Any) -> nn.Module:
        layers, seen = config.vision_feature_layer, config.vision_feature_select_strategy
        if layers != -1 or seen != "default":
            raise ModelError(
                f"config.json: features of layer {layers!r}, {seen!r}: this worker reads those of "
                "the patches after the last layer"
            )
        return Tower(config)


def _merge(config: Any) -> int:
    """Patches on a side of a cell. Raises ModelError where cells would be cut."""
    ratio, vision = config.downsample_ratio, config.vision_config
    merge = round(1 / ratio) if isinstance(ratio, float) and 0 < ratio <= 1 else 0
    patches, rest = divmod(_square(vision.image_size), _square(vision.patch_size))
    if merge < 1 or merge * ratio != 1 or rest or patches % merge:
        raise ModelError(
            f"config.json: pictures of {vision.image_size} in patches of {vision.patch_size}, "
            f"downsample_ratio {ratio!r}: this makes no whole cells"
        )
    return merge


def _square(size: Any) -> int:
    """The side of what is square, which the configuration's check has seen to."""
    return int(size[0] if isinstance(size, list | tuple) else size)
