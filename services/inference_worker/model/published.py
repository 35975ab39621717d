"""Published vision-language models on our decoder, cache and scheduler.

A family is a subclass with its vision tower, the names of its tensors, its positions and what it
writes around a picture. The tower is transformers' own; the decoder is ours.
"""

import json
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from services.inference_worker.errors import ModelError
from services.inference_worker.model.chat import Chat
from services.inference_worker.model.checkpoint import Checkpoint, Place, decoder_places
from services.inference_worker.model.decoder import Decoder, DecoderConfig
from services.inference_worker.model.family import Encoded, Round, StreamSpec
from services.inference_worker.model.layout import FrameLayout, SegmentTokens

WINDOW_SEGMENTS = 30
HISTORY_ROUNDS = 10
MAX_ANSWER_TOKENS = 512
LATEST_S = 1e7  # a third of a year: what room is kept for in timestamps
BRANCH_POSITIONS = 4096  # kept free below the position horizon for questions and answers
WATCH = 'Is this true right now: "{condition}"? Answer with Yes or No only.'


class PublishedModel(nn.Module, ABC):
    """Implements `StreamingModel`. `load` makes one; see the abstract parts for a family's own."""

    placeholder: ClassVar[str]
    decoder_prefixes: ClassVar[tuple[str, ...]]
    tower_prefixes: ClassVar[tuple[str, ...]]
    answer_prefix: ClassVar[str] = ""  # what an answer begins with
    tubelet: ClassVar[int] = 1
    preferred_fps: ClassVar[float]

    def __init__(
        self, config: Any, chat: Chat, preprocessor: dict[str, Any], name: str, frame_pixels: int
    ) -> None:
        super().__init__()
        self.config = config
        self.chat = chat
        self.preprocessor = preprocessor
        self.tower = self.make_tower(config)
        self.decoder = Decoder(self.decoder_config(config))
        self.stop_tokens = chat.stop_tokens
        self.yes_token = chat.first_token(self.answer_prefix + "Yes")
        self.no_token = chat.first_token(self.answer_prefix + "No")
        self._sink_tokens = chat.tokens(chat.before_video() + self.intro)
        self.spec = StreamSpec(
            name=name,
            layout=self.default_layout(frame_pixels),
            size_factor=self.size_factor,
            min_pixels=self.size_factor**2,
            max_pixels=max(frame_pixels, 1280 * self.size_factor**2),
            tubelet=self.tubelet,
            causal_segments=True,
            window_segments=WINDOW_SEGMENTS,
            position_horizon=config.text_config.max_position_embeddings - BRANCH_POSITIONS,
            preferred_fps=self.preferred_fps,
            history_rounds=HISTORY_ROUNDS,
            max_answer_tokens=MAX_ANSWER_TOKENS,
            branch_positions=BRANCH_POSITIONS,
        )

    # What a family says

    intro: str = ""  # after the template's own beginning, before the first frame

    @property
    @abstractmethod
    def size_factor(self) -> int:
        """Sides of frames are multiples of it; 0: there is one size."""

    @abstractmethod
    def default_layout(self, frame_pixels: int) -> FrameLayout: ...

    @abstractmethod
    def layout(self, width: int, height: int) -> FrameLayout: ...

    @abstractmethod
    def costliest(self, max_pixels: int) -> FrameLayout: ...

    @abstractmethod
    def segment(self, layout: FrameLayout, cursor: int, seconds: float) -> SegmentTokens: ...

    @abstractmethod
    def encode(self, frames: Tensor) -> Encoded: ...

    @staticmethod
    @abstractmethod
    def make_tower(config: Any) -> nn.Module: ...

    @staticmethod
    @abstractmethod
    def omega(config: Any) -> Tensor:
        """[head_dim // 2, 3]."""

    # StreamingModel

    def sink_tokens(self) -> list[int]:
        return list(self._sink_tokens)

    def question_tokens(self, history: list[Round], question: str) -> list[int]:
        return self.chat.tokens(self.outro + self.chat.after_video(history, question))

    outro: str = ""  # between the last frame and the first question

    def watch_tokens(self, condition: str) -> list[int]:
        return self.question_tokens([], WATCH.format(condition=condition))

    def text(self, tokens: list[int]) -> str:
        return self.chat.text(tokens)

    # Loading

    @staticmethod
    def decoder_config(config: Any) -> DecoderConfig:
        text = config.text_config
        if text.hidden_act != "silu":
            raise ModelError(f"this worker's decoder has SiLU, the model {text.hidden_act!r}")
        if getattr(text, "mlp_bias", False) or getattr(text, "use_sliding_window", False):
            raise ModelError("biases in the MLP and sliding-window layers are not supported")
        qwen2 = text.model_type.startswith("qwen2")  # biases on Q, K and V, always
        if not qwen2 and getattr(text, "attention_bias", False):
            raise ModelError("biases on every attention matrix are not supported")
        head_dim = getattr(text, "head_dim", None)
        return DecoderConfig(
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            num_layers=text.num_hidden_layers,
            num_heads=text.num_attention_heads,
            num_kv_heads=text.num_key_value_heads,
            head_dim=head_dim or text.hidden_size // text.num_attention_heads,
            mlp_size=text.intermediate_size,
            norm_eps=text.rms_norm_eps,
            qkv_bias=qwen2,
            qk_norm=text.model_type.startswith("qwen3"),
            tie_embeddings=bool(config.tie_word_embeddings),
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        dtype: torch.dtype,
        device: torch.device,
        frame_pixels: int,
    ) -> Self:
        """Read a folder. Raises ModelError for whatever does not fit."""
        model = cls.on_meta(folder, name=name, device=device, frame_pixels=frame_pixels)
        checkpoint = Checkpoint(folder)
        tied = model.config.tie_word_embeddings
        checkpoint.load(
            model,
            model.places(checkpoint),
            dtype=dtype,
            device=device,
            unused=frozenset({"lm_head.weight"}) if tied else frozenset(),
        )
        return model.finished(device)

    @classmethod
    def on_meta(cls, folder: Path, *, name: str, device: torch.device, frame_pixels: int) -> Self:
        """Everything of a folder but its weights: parameters have no memory yet. Whoever gives
        them some calls `finished` then."""
        try:
            config = AutoConfig.from_pretrained(folder)
            preprocessor = _preprocessor(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"cannot read the configuration at {folder}: {error}") from error
        chat = Chat(folder, cls.placeholder)
        with torch.device("meta"):
            model = cls(config, chat, preprocessor, name, frame_pixels)
        _restore_buffers(model.tower, device)
        del model.decoder.omega  # computed, not stored
        return model

    def finished(self, device: torch.device) -> Self:
        """Ready to run, once every parameter has its values."""
        omega = self.omega(self.config).to(dtype=torch.float32, device=device)
        self.decoder.omega = nn.Parameter(omega, requires_grad=False)
        self.adapt_tower()
        return self.eval()

    def adapt_tower(self) -> None:
        """Put ours in the place of the tower's parts where it is faster. Names of tensors stay."""
        return

    def places(self, checkpoint: Checkpoint) -> dict[str, Place]:
        """Where each tensor of a checkpoint goes."""
        decoder = checkpoint.prefix(*self.decoder_prefixes, probe="embed_tokens.weight")
        places = decoder_places(self.decoder.config, decoder, "lm_head.weight")
        names = [name for name, _ in self.tower.named_parameters()]
        tower = checkpoint.prefix(*self.tower_prefixes, probe=names[0])
        return places | {tower + name: Place(f"tower.{name}") for name in names}


def inverse_frequencies(text_config: Any, head_dim: int) -> Tensor:
    """θ_j of rotary position, [head_dim // 2], in radians per position."""
    rope = text_config.rope_parameters
    kind = rope.get("rope_type", "default")
    if kind in ("default", "mrope"):
        steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
        return 1.0 / (float(rope["rope_theta"]) ** steps)
    if kind not in ("linear", "llama3"):
        raise ModelError(f"rotary position of type {kind!r} is not supported")
    frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](text_config, device=torch.device("cpu"))
    assert scaling == 1.0
    return frequencies.to(torch.float32)


def normalised(frames: Tensor, preprocessor: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """[…, height, width, 3] uint8 → […, 3, height, width], as the preprocessor's file says."""
    mean, std = (_channels(preprocessor, name) for name in ("image_mean", "image_std"))
    scale = float(preprocessor.get("rescale_factor", 1 / 255))
    shift, width = _scaled(mean, std, scale, frames.device)
    return ((frames.to(torch.float32) - shift) / width).movedim(-1, -3).to(dtype)


@lru_cache(maxsize=16)
def _scaled(
    mean: tuple[float, ...], std: tuple[float, ...], scale: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """On the device once: sending them with every picture would be waited for."""
    with torch.inference_mode(False):  # tuning may be who uses them next
        shift, width = (torch.tensor(each) / scale for each in (mean, std))
        return shift.to(device), width.to(device)


def _channels(preprocessor: dict[str, Any], key: str) -> tuple[float, ...]:
    return tuple(float(value) for value in preprocessor.get(key, (0.5, 0.5, 0.5)))


def _preprocessor(folder: Path) -> dict[str, Any]:
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            return dict(json.loads((folder / name).read_text()))
    raise ModelError(f"{folder} has no preprocessor_config.json")


def _restore_buffers(tower: nn.Module, device: torch.device) -> None:
    """Buffers are computed when a module is made, and nothing is computed on the meta device: make
    those modules again. In the towers we use they are rotary tables, made from a configuration."""
    for module in list(tower.modules()):
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.device.type == "meta":
                assert module.config is not None, f"no way to make buffer {name} again"
                fresh = type(module)(module.config)
                setattr(module, name, dict(fresh.named_buffers())[name].to(device))
