"""SmolVLM2 (256M, 500M, 2.2B): a SigLIP tower, pixel shuffle, and a Llama decoder.

A frame has its time in words before it.
"""

from typing import Any

from torch import Tensor, nn

from services.inference_worker.model.published.folder import HALVES
from services.inference_worker.model.published.spans import use_whole_pictures
from services.inference_worker.model.published.square import SquareModel


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


class SmolVLM(SquareModel):
    """SmolVLM2, with transformers' template for videos."""

    placeholder = "<video>"
    decoder_prefixes = ("model.text_model.",)
    tower_prefixes = ("model.",)
    answer_prefix = " "
    model_type = "smolvlm"
    colours = HALVES
    # The prompt it was trained with tells how many frames there are and how long the video is: of a
    # live one, as many as the window holds at one a second.
    intro = (
        "You are provided the following series of thirty frames from a 0:00:30 [H:MM:SS] video.\n"
    )
    outro = "\n\n"

    @property
    def side(self) -> int:
        return int(self.config.vision_config.image_size)

    @property
    def frame_tokens(self) -> int:
        patches = self.side // self.config.vision_config.patch_size
        return int(patches // self.config.scale_factor) ** 2

    def words_before(self, seconds: float) -> str:
        minutes, rest = divmod(int(seconds), 60)
        return f"\nFrame from {minutes:02d}:{rest:02d}:<fake_token_around_image><global-img>"

    @property
    def words_after(self) -> str:
        return "<fake_token_around_image>"

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
