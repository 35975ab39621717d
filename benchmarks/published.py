"""Random checkpoints of published families at sizes that a CPU bears, and what transformers does
with the same weights and the same stream."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.feed import TIMEOUT_S
from services.inference_worker.assembly import build_engine
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.thread import Engine
from services.inference_worker.model.layout import VISION
from services.inference_worker.model.published.model import PublishedModel

MAX_SESSIONS = 1024  # more than the pool holds

# Widths, heads and proportions of the smallest published models, with fewer layers. Frames of
# 224 × 224, SmolVLM2's of 256 × 256.
_QWEN2 = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 8,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rope_theta": 1e6,
    "vocab_size": 32_768,
    "vision_depth": 8,
    "vision_num_heads": 8,
}
_GATED = {"vision_hidden_size": 512, "vision_intermediate_size": 1368}
SIZES: dict[str, dict[str, Any]] = {
    "qwen2_vl": {**_QWEN2, "vision_embed_dim": 512, "vision_mlp_ratio": 4},
    "qwen2_5_vl": {
        **_QWEN2,
        **_GATED,
        "vision_window_size": 112,
        "vision_fullatt_block_indexes": [3, 7],
        "tie_word_embeddings": True,
    },
    "qwen3_vl": {
        **_QWEN2,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "rope_theta": 5e6,
        "vision_hidden_size": 512,
        "vision_intermediate_size": 2048,
        "vision_num_position_embeddings": 2304,
        "vision_deepstack_visual_indexes": [1, 3, 5],
        "tie_word_embeddings": True,
    },
    "internvl": {
        **{
            name: size
            for name, size in _QWEN2.items()
            if name not in ("vision_depth", "vision_num_heads")
        },
        "vision_hidden_size": 512,
        "vision_intermediate_size": 2048,
        "vision_num_hidden_layers": 8,
        "vision_num_attention_heads": 8,
        "vision_image_size": 224,
        "vision_patch_size": 14,
        "tie_word_embeddings": True,
    },
    "smolvlm": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 16,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rope_theta": 100_000.0,
        "vocab_size": 49_280,
        "vision_hidden_size": 512,
        "vision_intermediate_size": 2048,
        "vision_num_hidden_layers": 8,
        "vision_num_attention_heads": 8,
        "vision_image_size": 256,
        "vision_patch_size": 16,
        "tie_word_embeddings": True,
    },
}
PIXELS = 224 * 224

# For streams of thousands of frames; so few positions that they are rebased on the way.
SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "max_position_embeddings": 8192,
    "rope_theta": 1e6,
}
SMALL_SIZES: dict[str, dict[str, Any]] = {
    family: {**SMALL, **({"vision_image_size": 128} if family in ("internvl", "smolvlm") else {})}
    for family in SIZES
}
SMALL_PIXELS = 112 * 112


def write(family: str, folder: Path, sizes: Mapping[str, Any]) -> Path:
    """A folder in Hugging Face layout; random weights, drawn so that attention has peaks."""
    from tests.checkpoints import write_checkpoint

    return write_checkpoint(family, folder, **sizes)


def published_engine(folder: Path, frame_pixels: int) -> tuple[Engine, PublishedModel]:
    """A warm engine as the environment's WORKER_* want it, but for the model, and on every core
    unless they say otherwise. Its answers end at their length: random ones would by chance."""
    config = WorkerConfig.from_env()
    config = replace(
        config,
        model=str(folder),
        frame_pixels=frame_pixels,
        threads=config.threads or os.cpu_count() or 1,
        max_sessions=MAX_SESSIONS,
    )
    engine = build_engine(config)
    model = engine.model
    assert isinstance(model, PublishedModel)
    model.stop_tokens = frozenset()
    engine.start().result(TIMEOUT_S)
    return engine, model


def noise(model: PublishedModel, number: int) -> list[bytes]:
    """Frames of the model's own size."""
    layout, random = model.spec.layout, np.random.default_rng(0)
    return [random.bytes(layout.frame_bytes) for _ in range(number)]


class Theirs:
    """transformers' class on a checkpoint that `ours` was read from, in its dtype, on its device.

    Pictures are normalised and cut into patches beforehand, and positions are given: its own
    processor would take longer.
    """

    def __init__(self, ours: PublishedModel, folder: Path) -> None:
        from transformers import AutoModelForImageTextToText

        weights = ours.decoder.embedding.weight
        self.ours, self.dtype, self.device = ours, weights.dtype, weights.device
        loaded: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=self.dtype)
        self.model = loaded.to(self.device).eval()

    def inputs(
        self, tokens: list[int], positions: list[tuple[int, int, int]], tubelets: list[list[bytes]]
    ) -> dict[str, Any]:
        """Inputs of one forward, as the class takes them. `tokens` hold VISION in the tubelets'
        places."""
        config, device = self.ours.config, self.device
        ids = torch.tensor([tokens], device=device)
        vision = ids == VISION
        single = self.ours.tubelet == 1
        token = config.image_token_id if single else config.video_token_id
        places = torch.tensor(positions, device=device).T[:, None]
        inputs = {
            "input_ids": ids.masked_fill(vision, token),
            "position_ids": places[0] if single else places,
        }
        if not tubelets:
            return inputs
        pixels = self._normalised(tubelets)
        if single:
            pictures = pixels[:, 0].movedim(-1, 1).to(self.dtype)
            videos = pictures[None] if config.model_type == "smolvlm" else pictures
            return inputs | {"pixel_values": videos}
        patch = config.vision_config.patch_size
        rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
        split = pixels.view(-1, 2, rows // 2, 2, patch, columns // 2, 2, patch, 3)
        flat = split.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, 6 * patch * patch)
        return inputs | {
            "pixel_values_videos": flat.to(self.dtype),
            "video_grid_thw": torch.tensor([[1, rows, columns]] * len(pixels), device=device),
            "mm_token_type_ids": vision.int() * 2,
        }

    def _normalised(self, tubelets: list[list[bytes]]) -> torch.Tensor:
        """[tubelets, frames, height, width, 3]."""
        layout, files = self.ours.spec.layout, self.ours.preprocessor
        raw = bytearray(b"".join(frame for tubelet in tubelets for frame in tubelet))
        pixels = torch.frombuffer(raw, dtype=torch.uint8).to(self.device)
        pixels = pixels.view(len(tubelets), -1, layout.height, layout.width, 3)
        mean, std = (
            torch.tensor(files[f"image_{name}"], device=self.device) for name in ("mean", "std")
        )
        return (pixels / 255 - mean) / std

    def window(self, tubelets: list[list[bytes]], question: list[int]) -> dict[str, Any]:
        """Sink, tubelets and question as one sequence."""
        tokens = self.ours.sink_tokens()
        positions = [(n, n, n) for n in range(len(tokens))]
        cursor = len(tokens)
        for number in range(len(tubelets)):
            segment = self.ours.segment(self.ours.spec.layout, cursor, 0.25 * number)
            tokens += segment.tokens
            positions += segment.positions
            cursor += segment.advance
        positions += [(cursor + n,) * 3 for n in range(len(question))]
        return self.inputs(tokens + question, positions, tubelets)

    @torch.inference_mode()
    def first_token(self, inputs: dict[str, Any]) -> tuple[int, float]:
        """Everything anew; the token and the seconds it took."""
        started_s = time.perf_counter()
        logits = self.model(**inputs, use_cache=False, logits_to_keep=1).logits
        token = int(logits[0, -1].argmax())
        return token, time.perf_counter() - started_s


class Growing:
    """A stream in transformers' cache, which keeps all of it."""

    def __init__(self, theirs: Theirs, frames: list[bytes]) -> None:
        from transformers import DynamicCache

        self.theirs = theirs
        self.cache = DynamicCache(config=theirs.model.config.get_text_config())
        self.shown = 0  # frames
        self._frames = frames
        sink = theirs.ours.sink_tokens()
        self._cursor = len(sink)
        self._forward(theirs.inputs(sink, [(n, n, n) for n in range(len(sink))], []))

    def show(self) -> float:
        """Show one more tubelet. Returns the seconds it took."""
        ours = self.theirs.ours
        tubelet = [
            self._frames[(self.shown + n) % len(self._frames)] for n in range(ours.spec.tubelet)
        ]
        segment = ours.segment(ours.spec.layout, self._cursor, self.shown / 8)
        inputs = self.theirs.inputs(segment.tokens, segment.positions, [tubelet])
        self._cursor += segment.advance
        self.shown += ours.spec.tubelet
        return self._forward(inputs)

    @torch.inference_mode()
    def _forward(self, inputs: dict[str, Any]) -> float:
        started_s = time.perf_counter()
        self.theirs.model.model(**inputs, cache=self.cache, use_cache=True)
        if self.theirs.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started_s
