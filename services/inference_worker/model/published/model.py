"""Published vision-language models on our decoder, cache and scheduler.

A family is a subclass with its vision tower, the names of its tensors, its positions and what it
writes around a picture. The tower is transformers' own; the decoder is ours.
"""

from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from services.inference_worker.model.card import NO_CARD
from services.inference_worker.model.constraint import Constraint, Grammars
from services.inference_worker.model.decoder import Decoder, DecoderConfig
from services.inference_worker.model.doubt import Doubt
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import Encoded, Round, StreamSpec
from services.inference_worker.model.form import Form
from services.inference_worker.model.layout import FrameLayout, SegmentTokens, largest_frame_pixels
from services.inference_worker.model.loading import Loading
from services.inference_worker.model.published.chat import Chat
from services.inference_worker.model.published.checkpoint import Checkpoint, Place, decoder_places
from services.inference_worker.model.published.folder import (
    generation,
    preprocessor,
    stop_tokens,
    usual_sampling,
)
from services.inference_worker.model.published.refusals import thoughts_error
from services.inference_worker.model.published.sizes import check_sizes

WINDOW_SEGMENTS = 30
HISTORY_ROUNDS = 10
MAX_ANSWER_TOKENS = 512
LATEST_S = 1e7  # a third of a year: what room is kept for in timestamps
BRANCH_POSITIONS = 4096  # kept free beyond the position horizon for questions and answers
HEADS = ("lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight")
WATCH = 'Is this true right now: "{condition}"? Answer with Yes or No only.'


class PublishedModel(nn.Module, ABC):
    """Implements `StreamingModel`. `load` makes one; see the abstract parts for a family's own."""

    model_type: ClassVar[str]  # transformers' name for the family
    colours: ClassVar[tuple[tuple[float, ...], ...]]  # mean and deviation where a folder has none
    placeholder: ClassVar[str]
    decoder_prefixes: ClassVar[tuple[str, ...]]
    tower_prefixes: ClassVar[tuple[str, ...]]
    answer_prefix: ClassVar[str] = ""  # what an answer begins with
    tubelet: ClassVar[int] = 1
    preferred_fps: ClassVar[float]

    def __init__(self, config: Any, chat: Chat, folder: Path, name: str, frame_pixels: int) -> None:
        super().__init__()
        self.config = config
        self.chat = chat
        self.card = NO_CARD
        self.preprocessor = preprocessor(folder, self.colours)
        usual = generation(folder)
        self.sampling = usual_sampling(usual)
        self.tower = self.make_tower(config)
        self.decoder = Decoder(self.decoder_config(config))
        end = usual.get("eos_token_id")
        if end is None:
            end = config.text_config.eos_token_id
        self.stop_tokens = stop_tokens(end, chat.tokenizer.eos_token_id)
        self._grammars = Grammars(
            chat.written,
            size=self.decoder.config.vocab_size,
            ends=self.stop_tokens,
            words=chat.added,
        )
        single = self.tubelet == 1
        self.vision_token: int | None = config.image_token_id if single else config.video_token_id
        self.doubt: Doubt | None = None
        self.yes_token = chat.first_token(self.answer_prefix + "Yes")
        self.no_token = chat.first_token(self.answer_prefix + "No")
        self._sink_tokens = chat.tokens(chat.before_video() + self.intro)
        positions = config.text_config.max_position_embeddings
        kept = min(BRANCH_POSITIONS, positions // 2)
        self.spec = StreamSpec(
            name=name,
            layout=self.default_layout(frame_pixels),
            size_factor=self.size_factor,
            min_pixels=self.size_factor**2,
            max_pixels=largest_frame_pixels(frame_pixels, self.size_factor),
            tubelet=self.tubelet,
            causal_segments=True,
            window_segments=WINDOW_SEGMENTS,
            position_horizon=positions - kept,
            branch_positions=kept,
            preferred_fps=self.preferred_fps,
            history_rounds=HISTORY_ROUNDS,
            max_answer_tokens=MAX_ANSWER_TOKENS,
            reads_instructions=True,
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
    def chat_template() -> str | None:
        """The family's own, if it has one whatever a folder says."""
        return None

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

    def question_tokens(
        self, history: list[Round], question: str, form: Form | None = None
    ) -> list[int]:
        return self.chat.tokens(self.outro + self.chat.after_video(history, question, form))

    @property
    def knows_calls(self) -> bool:
        return self._grammars.knows_calls

    def hold(self, form: Form) -> Constraint | None:
        return self._grammars.constraint(form)

    outro: str = ""  # between the last frame and the first question

    def watch_tokens(self, condition: str) -> list[int]:
        return self.question_tokens([], WATCH.format(condition=condition))

    def unknown_words(self, text: str) -> list[str]:
        return []  # what it has no word for it spells

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
        progress: Loading | None = None,
    ) -> Self:
        """Read a folder. Raises ModelError for whatever does not fit."""
        checkpoint = Checkpoint(folder)
        model = cls.on_meta(
            folder,
            name=name,
            device=device,
            frame_pixels=frame_pixels,
            checkpoint=checkpoint,
        )
        checkpoint.load(
            model,
            model.places(checkpoint),
            dtype=dtype,
            device=device,
            unused=frozenset(HEADS) if model.config.tie_word_embeddings else frozenset(),
            progress=progress,
        )
        return model.finished(device)

    @classmethod
    def on_meta(
        cls,
        folder: Path,
        *,
        name: str,
        device: torch.device,
        frame_pixels: int,
        checkpoint: Checkpoint | None = None,
    ) -> Self:
        """Everything of a folder but its weights: parameters have no memory yet. Whoever gives
        them some calls `finished` then. checkpoint: those to come, where they are known."""
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # transformers raises whatever comes to it
            raise ModelError(f"cannot read the configuration at {folder}: {error}") from error
        if config.model_type != cls.model_type:
            raise ModelError(
                f"config.json: model_type is {config.model_type}, not {cls.model_type}"
            )
        if checkpoint is not None and config.tie_word_embeddings:
            config.tie_word_embeddings = cls._tied(checkpoint)
        check_sizes(config)
        chat = Chat(folder, cls.placeholder, cls.chat_template())
        if chat.thinks:
            raise thoughts_error(name)
        chat.check_fits(config.text_config.vocab_size)
        with torch.device("meta"):
            model = cls(config, chat, folder, name, frame_pixels)
        _restore_buffers(model.tower, device)
        del model.decoder.omega  # computed, not stored
        return model

    @classmethod
    def _tied(cls, checkpoint: Checkpoint) -> bool:
        """Whether the last matrix is the embeddings, as the configuration says. Where both are
        there and differ, transformers believes the weights."""
        head = checkpoint.first(*HEADS)
        prefix = checkpoint.prefix(*cls.decoder_prefixes, probe="norm.weight")
        words = checkpoint.first(f"{prefix}embed_tokens.weight")
        return head is None or words is None or checkpoint.same(head, words)

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
        """Place of each tensor of a checkpoint."""
        decoder = checkpoint.prefix(*self.decoder_prefixes, probe="norm.weight")
        head = checkpoint.first(*HEADS)
        places = decoder_places(self.decoder.config, decoder, head or HEADS[0])
        words = f"{decoder}embed_tokens.weight"
        if head is not None and self.decoder.config.tie_embeddings and not checkpoint.first(words):
            places[head] = places.pop(words)  # the one of the two that was kept
        names = [name for name, _ in self.tower.named_parameters()]
        tower = checkpoint.prefix(*self.tower_prefixes, probe=names[0])
        return places | {tower + name: Place(f"tower.{name}") for name in names}


def inverse_frequencies(text_config: Any, head_dim: int) -> Tensor:
    """θ_j of rotary position, [head_dim // 2], in radians per position."""
    rope = text_config.rope_parameters
    kind = rope.get("rope_type", "default")
    # A dynamic one differs beyond max_position_embeddings alone, which no session reaches.
    if kind in ("default", "mrope", "dynamic"):
        steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
        return 1.0 / (float(rope["rope_theta"]) ** steps)
    if kind not in ("linear", "llama3"):
        raise ModelError(f"rotary position of type {kind!r} is not supported")
    frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](text_config, device=torch.device("cpu"))
    assert scaling == 1.0
    return frequencies.to(torch.float32)


def normalised(frames: Tensor, preprocessor: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """[…, height, width, 3] uint8 → […, 3, height, width], as the preprocessor's file says."""
    mean, std = preprocessor["image_mean"], preprocessor["image_std"]
    shift, width = _scaled(mean, std, preprocessor["rescale_factor"], frames.device)
    return ((frames.to(torch.float32) - shift) / width).movedim(-1, -3).to(dtype)


@lru_cache(maxsize=16)
def _scaled(
    mean: tuple[float, ...], std: tuple[float, ...], scale: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factors on the device, sent once: sending them with every picture would be waited for."""
    with torch.inference_mode(False):  # tuning may be who uses them next
        shift, width = (torch.tensor(each) / scale for each in (mean, std))
        return shift.to(device), width.to(device)


def _restore_buffers(tower: nn.Module, device: torch.device) -> None:
    """Buffers are computed when a module is made, and nothing is computed on the meta device: make
    those modules again. In the towers we use they are rotary tables, made from a configuration."""
    for module in list(tower.modules()):
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.device.type == "meta":
                assert module.config is not None, f"no way to make buffer {name} again"
                fresh = type(module)(module.config)
                setattr(module, name, dict(fresh.named_buffers())[name].to(device))
