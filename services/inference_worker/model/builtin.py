"""The built-in model: light convolutional encoder → visual tokens → causal decoder → words.

The article's shape in small (sections 2.2 and 5.1): a light convolutional encoder turns one frame
into a 4×4 grid of tokens, and one decoder with a dense learned Ω reads frames and words alike. The
encoder is strided convolutions at 128×128 pixels, or for photographs EfficientNet-Lite0's trunk.
Saved as a folder: config.json, model.safetensors, tokenizer.json.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from services.inference_worker.model.card import NO_CARD
from services.inference_worker.model.constraint import NO_TOOLS
from services.inference_worker.model.decoder import Decoder, DecoderConfig, Layer
from services.inference_worker.model.doubt import Doubt, spoken
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.familiarity import Familiarity
from services.inference_worker.model.family import Encoded, Round, StreamSpec
from services.inference_worker.model.form import Form
from services.inference_worker.model.layout import VISION, FrameLayout, SegmentTokens
from services.inference_worker.model.lite0 import STRIDE, PhotoEncoder
from services.inference_worker.model.sampling import GREEDY
from sightline.errors import InvalidArgumentError
from sightline.reasons import Reason

ARCHITECTURE = "SightlineBuiltin"
BEGIN, USER, WATCH, ASSISTANT, END = "<begin>", "<user>", "<watch>", "<assistant>", "<end>"
UNKNOWN = "<unk>"
SYSTEM_PROMPT = "you watch live video and answer about it"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltinConfig:
    """config.json of a built-in model. Sizes in pixels, tokens and channels."""

    decoder: DecoderConfig
    frame_size: int = 128
    grid: int = 4
    stem_channels: int = 32
    tower: str = "strided"  # or "lite0", which knows photographs
    window_segments: int = 30
    position_horizon: int = 4096
    preferred_fps: float = 8.0
    history_rounds: int = 10
    history_before_cursor: bool = False  # folders saved before there was a choice
    max_answer_tokens: int = 48

    def spec(self, name: str) -> StreamSpec:
        return StreamSpec(
            name=name,
            layout=FrameLayout(
                width=self.frame_size,
                height=self.frame_size,
                vision_tokens=self.grid * self.grid,
                segment_tokens=self.grid * self.grid,
                segment_advance=1,
            ),
            tubelet=1,
            causal_segments=False,
            window_segments=self.window_segments,
            position_horizon=self.position_horizon,
            preferred_fps=self.preferred_fps,
            time_by_position=True,
            history_rounds=self.history_rounds,
            history_before_cursor=self.history_before_cursor,
            max_answer_tokens=self.max_answer_tokens,
        )


def default_config(vocab_size: int) -> BuiltinConfig:
    """The shipped size: about 5 M parameters."""
    return BuiltinConfig(
        history_before_cursor=True,
        decoder=DecoderConfig(
            vocab_size=vocab_size,
            hidden_size=256,
            num_layers=5,
            num_heads=4,
            num_kv_heads=4,
            head_dim=64,
            mlp_size=768,
            qk_norm=True,
        ),
    )


class Encoder(nn.Module):
    """[frames, 3, size, size] in −1…1 → [frames, grid², hidden].

    A patchifying stem and strided 3×3 convolutions: on CPUs a strided stem costs a small fraction
    of depthwise blocks. Batch norm, because it folds away at inference and does not mix frames.
    """

    def __init__(self, config: BuiltinConfig) -> None:
        super().__init__()
        stem, hidden = config.stem_channels, config.decoder.hidden_size

        def block(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(
                    inputs, outputs, kernel, stride, padding=1 if kernel == 3 else 0, bias=False
                ),
                nn.BatchNorm2d(outputs),
                nn.GELU(approximate="tanh"),
            )

        self.stem = block(3, stem, 4, 4)  # 128 → 32
        self.down1 = block(stem, 2 * stem, 3, 2)  # → 16
        self.down2 = block(2 * stem, 4 * stem, 3, 2)  # → 8
        self.mix = block(4 * stem, 4 * stem, 3, 1)
        self.down3 = block(4 * stem, hidden, 3, 2)  # → 4
        self.project = nn.Sequential(
            nn.Linear(hidden, 2 * hidden),
            nn.GELU(approximate="tanh"),
            nn.Linear(2 * hidden, hidden),
        )
        # Where each cell is, in the token itself: motion is a difference between such places.
        self.places = nn.Parameter(torch.zeros(config.grid**2, hidden))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tokens(self.maps(pixels))

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """What each layer makes of pictures [frames, channels, height, width]."""
        stem = self.stem(pixels)
        once = self.down1(stem)
        twice = self.down2(once)
        mixed = self.mix(twice)
        return [stem, once, twice, mixed, self.down3(twice + mixed)]

    def tokens(self, maps: list[Tensor]) -> Tensor:
        tokens = maps[-1].flatten(2).transpose(1, 2)
        return tokens + self.project(tokens) + self.places  # type: ignore[no-any-return]


def _encoder_of(config: BuiltinConfig) -> Encoder | PhotoEncoder:
    if config.tower == "strided":
        return Encoder(config)
    if config.tower != "lite0" or config.frame_size % STRIDE:
        raise ModelError(f"no tower {config.tower!r} for frames of {config.frame_size} pixels")
    return PhotoEncoder(config.grid, config.decoder.hidden_size)


class BuiltinModel(nn.Module):
    """Implements `StreamingModel`. Build with random weights, or `load` a saved folder."""

    def __init__(self, config: BuiltinConfig, tokenizer: Tokenizer, name: str = "builtin") -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # a viewer who types <end> gets words, not control
        self.spec = config.spec(name)
        self.card = NO_CARD
        self.familiarity: Familiarity | None = None
        self.doubt: Doubt | None = None
        self.encoder = _encoder_of(config)
        self.decoder = Decoder(config.decoder)
        self.sampling = GREEDY
        self.vision_token: int | None = None
        self.stop_tokens = frozenset({self._token(END)})
        self.yes_token = self._token("yes")
        self.no_token = self._token("no")
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.04)
        for layer in self.decoder.layers:
            assert isinstance(layer, Layer)
            for projection in (layer.output, layer.down):
                projection.weight.data.mul_((2 * len(self.decoder.layers)) ** -0.5)
        # A quarter of the rows measures each side of the picture and is blind to time, because a
        # cell's h and w carry its time too; the rest measures time, from one radian a frame down
        # to nearly nothing, which leaves those pairs to content. All rows are dense and learned.
        omega = self.decoder.omega.data
        pairs = omega.shape[0]
        across = pairs // 8
        spatial = torch.logspace(0.2, -0.6, across)
        omega.normal_(std=0.002)
        omega[:across] += spatial[:, None] * torch.tensor([-1.0, 1.0, 0.0])
        omega[across : 2 * across] += spatial[:, None] * torch.tensor([-1.0, 0.0, 1.0])
        temporal = torch.logspace(0, -3, pairs - 2 * across)
        omega[2 * across :] += temporal[:, None] * torch.tensor([1.0, 0.0, 0.0])
        # All vision tokens share one direction, so that a head can be told before training to
        # look at the same cell a few frames ago: motion and change are differences to that, and
        # finding it by gradient alone takes longer than everything else.
        shared = functional.normalize(torch.randn(self.encoder.places.shape[1]), dim=0)
        nn.init.normal_(self.encoder.places, std=0.3)
        self.encoder.places.data += 12.0 * shared
        for index, head, lag in ((0, 0, 2.0), (0, 1, 4.0), (1, 0, 1.0)):
            if index < len(self.decoder.layers) and head < self.config.decoder.num_kv_heads:
                self._look_back(index, head, lag, shared)

    def _look_back(self, layer: int, head: int, lag: float, shared: Tensor) -> None:
        """Make a head attend to its own cell, `lag` frames ago, by the rotary pairs that measure
        place and those that turn slowly enough to tell such lags apart."""
        attention = self.decoder.layers[layer]
        assert isinstance(attention, Layer)
        size = self.config.decoder.head_dim
        pairs = size // 2
        across = pairs // 8
        place = range(2 * across)
        recent = range(2 * across + 1, min(2 * across + 7, pairs))
        query, key = torch.zeros(size), torch.zeros(size)
        for pair in (*place, *recent):
            turn = -lag * float(self.decoder.omega[pair, 0].detach()) if pair in recent else 0.0
            query[pair], query[pair + pairs] = math.cos(turn), math.sin(turn)
            key[pair] = 1.0
            for half in (pair, pair + pairs):
                attention.query_norm.weight.data[half] = 2**0.5
                attention.key_norm.weight.data[half] = 2**0.5
        for start, direction in ((0, query), (attention.split[0], key)):
            rows = slice(start + head * size, start + (head + 1) * size)
            noise = 0.02 * torch.randn(size, shared.shape[0])
            attention.qkv.weight.data[rows] = direction[:, None] * shared + noise

    def _token(self, text: str) -> int:
        token = self.tokenizer.token_to_id(text)
        if token is None:
            raise ModelError(f"tokenizer.json has no token {text!r}")
        return int(token)

    def _words(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    # StreamingModel

    def layout(self, width: int, height: int) -> FrameLayout:
        self.spec.layout.check_only(width, height)
        return self.spec.layout

    def costliest(self, max_pixels: int) -> FrameLayout:
        return self.spec.layout

    def encode(self, frames: Tensor) -> Encoded:
        dtype = self.decoder.embedding.weight.dtype
        pixels = frames.flatten(0, 1).permute(0, 3, 1, 2).to(dtype) / 127.5 - 1.0
        maps = self.encoder.maps(pixels)
        strangeness = None if self.familiarity is None else self.familiarity(maps)
        return Encoded(self.encoder.tokens(maps), strangeness=strangeness)

    def segment(self, layout: FrameLayout, cursor: int, seconds: float) -> SegmentTokens:
        grid = range(self.config.grid)
        positions = [(cursor, cursor + row, cursor + column) for row in grid for column in grid]
        return SegmentTokens([VISION] * len(positions), positions, layout.segment_advance)

    def sink_tokens(self) -> list[int]:
        return [self._token(BEGIN), *self._words(SYSTEM_PROMPT)]

    def question_tokens(
        self, history: list[Round], question: str, form: Form | None = None
    ) -> list[int]:
        user, assistant, end = self._token(USER), self._token(ASSISTANT), self._token(END)
        tokens: list[int] = []
        kept = self.config.history_rounds
        for past in history[-kept:] if kept else []:
            tokens += [user, *self._words(past.question), assistant]
            tokens += [*self._words(past.answer), end]
        return [*tokens, user, *self._words(question), assistant]

    @property
    def knows_calls(self) -> bool:
        return False

    def hold(self, form: Form) -> None:
        """No form is held: the model has a few hundred words, and none of JSON's."""
        if form.tools:
            raise InvalidArgumentError(NO_TOOLS, reason=Reason.TOOLS_UNSUPPORTED)

    def watch_tokens(self, condition: str) -> list[int]:
        return [self._token(WATCH), *self._words(condition), self._token(ASSISTANT)]

    def unknown_words(self, text: str) -> list[str]:
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        unknown = self.tokenizer.token_to_id(UNKNOWN)
        pairs = zip(encoded.ids, encoded.offsets, strict=True)
        found = [text[slice(*span)] for token, span in pairs if token == unknown]
        return [word for word in found if word.isalnum()]

    def text(self, tokens: list[int]) -> str:
        return spoken(self.tokenizer.decode(tokens, skip_special_tokens=True))

    # Folders

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and tokenizer.json.

        Weights are stored as bfloat16; Ω and batch-norm statistics as float32.
        """
        folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {"architectures": [ARCHITECTURE], **asdict(self.config)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        self.tokenizer.save(str(folder / "tokenizer.json"))
        tensors = {
            name: tensor.detach().cpu().contiguous()
            if _stays_float32(name)
            else tensor.detach().cpu().to(torch.bfloat16).contiguous()
            for name, tensor in self.state_dict().items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype, device: torch.device) -> Self:
        """Read a folder written by `save`, ready to run: no gradients, batch norm frozen.

        Raises ModelError for a missing or corrupt file, another architecture, or tensors that do
        not match the configuration.
        """
        try:
            raw = json.loads((folder / "config.json").read_text())
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            tensors = load_file(folder / "model.safetensors", device="cpu")
        except FileNotFoundError as error:
            raise ModelError(f"no model at {folder}: {error}") from error
        except (SafetensorError, ValueError) as error:
            raise ModelError(f"cannot read the model at {folder}: {error}") from error
        except Exception as error:  # tokenizers raises plain Exception for a bad file
            raise ModelError(f"cannot read {folder / 'tokenizer.json'}: {error}") from error
        architectures = raw.pop("architectures", [])
        if architectures != [ARCHITECTURE]:
            raise ModelError(f"{folder} holds {architectures}; this worker runs {ARCHITECTURE}")
        config = BuiltinConfig(**{**raw, "decoder": DecoderConfig(**raw["decoder"])})
        model = cls(config, tokenizer, name=folder.name)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ModelError(
                f"{folder / 'model.safetensors'} does not fit its config: {error}"
            ) from error
        model.familiarity = Familiarity.load(folder, device)
        model.doubt = Doubt.load(folder, tokenizer, config.decoder.vocab_size, device)
        return model.prepare(dtype, device)

    def prepare(self, dtype: torch.dtype, device: torch.device) -> Self:
        """Freeze for inference in `dtype` on `device`; Ω stays float32."""
        omega = self.decoder.omega.data.to(torch.float32)
        self.requires_grad_(False).eval().to(device=device, dtype=dtype)
        self.decoder.omega.data = omega.to(device)
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self


def _stays_float32(name: str) -> bool:
    return name.endswith(("omega", "running_mean", "running_var", "num_batches_tracked"))
