"""SmolVLM2 (256M, 500M, 2.2B): a SigLIP tower, pixel shuffle, and a Llama decoder.

A frame is one square picture of fixed size, with its time in words before it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from services.inference_worker.model.family import Encoded
from services.inference_worker.model.layout import VISION, FrameLayout, SegmentTokens
from services.inference_worker.model.published.folder import HALVES
from services.inference_worker.model.published.model import (
    LATEST_S,
    PublishedModel,
    inverse_frequencies,
    normalised,
)
from services.inference_worker.model.published.spans import use_whole_pictures


class Tower(nn.Module):
    """Vision transformer and connector, named as in a checkpoint."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers.models.smolvlm.modeling_smolvlm import (
            SmolVLMConnector,
            SmolVLMVisionTransformer,
        )

        self.vision_model = SmolVLMVisionTransformer._from_config(
            config.vision_config, attn_implementation="sdpa"
        )
        self.connector = SmolVLMConnector(config)

    def forward(self, pixels: Tensor) -> Tensor:
        """[frames, 3, size, size] → [frames, tokens, hidden]."""
        seen = self.vision_model(pixel_values=pixels).last_hidden_state
        return self.connector(seen)  # type: ignore[no-any-return]


class SmolVLM(PublishedModel):
    """One square frame a segment."""

    placeholder = "<video>"
    decoder_prefixes = ("model.text_model.",)
    tower_prefixes = ("model.",)
    answer_prefix = " "
    preferred_fps = 1.0
    model_type = "smolvlm"
    colours = HALVES
    # The prompt it was trained with tells how many frames there are and how long the video is: of a
    # live one, as many as the window holds at one a second.
    intro = (
        "You are provided the following series of thirty frames from a 0:00:30 [H:MM:SS] video.\n"
    )
    outro = "\n\n"

    @property
    def size_factor(self) -> int:
        return 0

    def default_layout(self, frame_pixels: int) -> FrameLayout:
        vision = self.config.vision_config
        tokens = (vision.image_size // vision.patch_size // self.config.scale_factor) ** 2
        words = len(self._words(LATEST_S)) + 1
        return FrameLayout(
            width=vision.image_size,
            height=vision.image_size,
            vision_tokens=tokens,
            segment_tokens=tokens + words,
            segment_advance=tokens + words,
        )

    def layout(self, width: int, height: int) -> FrameLayout:
        self.spec.layout.check_only(width, height)
        return self.spec.layout

    def costliest(self, max_pixels: int) -> FrameLayout:
        return self.spec.layout

    def _words(self, seconds: float) -> list[int]:
        minutes, rest = divmod(int(min(seconds, LATEST_S)), 60)
        text = f"\nFrame from {minutes:02d}:{rest:02d}:<fake_token_around_image><global-img>"
        return self.chat.tokens(text)

    def segment(self, layout: FrameLayout, cursor: int, seconds: float) -> SegmentTokens:
        after = self.chat.tokens("<fake_token_around_image>")
        tokens = [*self._words(seconds), *[VISION] * layout.vision_tokens, *after]
        return SegmentTokens(tokens, [(cursor + n,) * 3 for n in range(len(tokens))], len(tokens))

    def encode(self, frames: Tensor) -> Encoded:
        dtype = self.decoder.embedding.weight.dtype
        return Encoded(self.tower(normalised(frames[:, 0], self.preprocessor, dtype)))

    def adapt_tower(self) -> None:
        use_whole_pictures(self.tower.vision_model)

    @staticmethod
    def chat_template() -> str:
        """Published folders have a template for pictures alone; for videos transformers takes one
        of its own, whatever the folder says."""
        from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

        return str(DEFAULT_CHAT_TEMPLATE)

    @staticmethod
    def make_tower(config: Any) -> nn.Module:
        return Tower(config)

    @classmethod
    def omega(cls, config: Any) -> Tensor:
        head_dim = cls.decoder_config(config).head_dim
        omega = torch.zeros(head_dim // 2, 3)
        omega[:, 0] = inverse_frequencies(config.text_config, head_dim)
        return omega
