"""What the engine asks of a model family, and how a model is found by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from services.inference_worker.model.decoder import Decoder

BUILTIN_FOLDER = Path(__file__).resolve().parent.parent / "weights" / "builtin"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """How a model wants live video, in frames, pixels and tokens.

    `tokens_per_segment` tokens come from one tubelet of `tubelet` frames and move the cursor by
    `segment_advance`. `causal_segments`: tokens inside a segment see only earlier ones; otherwise
    a segment's tokens all see each other (causal by frame). `position_horizon`: the largest cursor
    the model was trained for; keys are rebased before it. `history_rounds`: how many earlier
    rounds of a conversation the model was trained to read.
    """

    name: str
    frame_width: int
    frame_height: int
    tubelet: int
    tokens_per_segment: int
    segment_advance: int
    causal_segments: bool
    window_segments: int
    position_horizon: int
    preferred_fps: float
    history_rounds: int
    max_answer_tokens: int


@dataclass(frozen=True, slots=True)
class Round:
    """One earlier question and its answer."""

    question: str
    answer: str


class StreamingModel(Protocol):
    """A family: vision tower, decoder, and the rules for prompts and positions."""

    spec: StreamSpec
    decoder: Decoder
    stop_tokens: frozenset[int]
    yes_token: int
    no_token: int

    def encode(self, frames: Tensor) -> Tensor:
        """[segments, tubelet, height, width, 3] uint8 → [segments, tokens_per_segment, hidden]."""
        ...

    def segment_positions(self, cursor: int) -> list[tuple[int, int, int]]:
        """Position (t, h, w) of every token of a segment that starts at `cursor`."""
        ...

    def sink_tokens(self) -> list[int]:
        """The system prompt every session begins with; it is never evicted."""
        ...

    def question_tokens(self, history: list[Round], question: str) -> list[int]:
        """A branch's tokens up to where the model starts to answer."""
        ...

    def watch_tokens(self, condition: str) -> list[int]:
        """Tokens after which the model says yes or no to `condition`."""
        ...

    def text(self, tokens: list[int]) -> str:
        """Answer tokens as text; special tokens are left out."""
        ...


def load_model(name: str, dtype: torch.dtype, device: torch.device) -> StreamingModel:
    """Load `builtin` or a local folder in Hugging Face layout.

    Raises ModelError when the folder is missing, incomplete, or of a family we do not stream.
    """
    from services.inference_worker.model.builtin import BuiltinModel

    folder = BUILTIN_FOLDER if name == "builtin" else Path(name)
    return BuiltinModel.load(folder, dtype, device)
