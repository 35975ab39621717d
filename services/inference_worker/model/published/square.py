"""Families that see a frame as one square picture of fixed size, at plain positions."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from services.inference_worker.model.family import Encoded
from services.inference_worker.model.layout import VISION, FrameLayout, SegmentTokens
from services.inference_worker.model.published.model import (
    LATEST_S,
    PublishedModel,
    inverse_frequencies,
    normalised,
)


class SquareModel(PublishedModel):
    """One square frame a segment, with words before and after it."""

    preferred_fps = 1.0

    @property
    def size_factor(self) -> int:
        return 0

    @property
    @abstractmethod
    def side(self) -> int:
        """Pixels of a side."""

    @property
    @abstractmethod
    def frame_tokens(self) -> int: ...

    @abstractmethod
    def words_before(self, seconds: float) -> str: ...

    @property
    @abstractmethod
    def words_after(self) -> str: ...

    def default_layout(self, frame_pixels: int) -> FrameLayout:
        words = self.chat.tokens(self.words_before(LATEST_S)) + self.chat.tokens(self.words_after)
        count = self.frame_tokens + len(words)
        return FrameLayout(
            width=self.side,
            height=self.side,
            vision_tokens=self.frame_tokens,
            segment_tokens=count,
            segment_advance=count,
        )

    def layout(self, width: int, height: int) -> FrameLayout:
        self.spec.layout.check_only(width, height)
        return self.spec.layout

    def costliest(self, max_pixels: int) -> FrameLayout:
        return self.spec.layout

    def segment(self, layout: FrameLayout, cursor: int, seconds: float) -> SegmentTokens:
        before = self.chat.tokens(self.words_before(min(seconds, LATEST_S)))
        after = self.chat.tokens(self.words_after)
        tokens = [*before, *[VISION] * layout.vision_tokens, *after]
        return SegmentTokens(tokens, [(cursor + n,) * 3 for n in range(len(tokens))], len(tokens))

    def encode(self, frames: Tensor) -> Encoded:
        dtype = self.decoder.embedding.weight.dtype
        return Encoded(self.tower(normalised(frames[:, 0], self.preprocessor, dtype)))

    @classmethod
    def omega(cls, config: Any) -> Tensor:
        head_dim = cls.decoder_config(config).head_dim
        omega = torch.zeros(head_dim // 2, 3)
        omega[:, 0] = inverse_frequencies(config.text_config, head_dim)
        return omega
