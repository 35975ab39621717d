"""Published shapes with random weights, drawn where they stay: no checkpoint of theirs on disk."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.feed import TIMEOUT_S
from services.inference_worker.assembly import assemble, fast_dtype
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.thread import Engine
from services.inference_worker.model.published.model import PublishedModel
from services.inference_worker.model.published.qwen_vl import Qwen3VL, Qwen25VL

FAMILIES: Mapping[str, type[PublishedModel]] = {"qwen2_5_vl": Qwen25VL, "qwen3_vl": Qwen3VL}

# As in the published configurations.
QWEN25_VL_7B: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128_000,
    "rope_theta": 1e6,
    "vocab_size": 152_064,
    "vision_depth": 32,
    "vision_hidden_size": 1280,
    "vision_intermediate_size": 3420,
    "vision_num_heads": 16,
    "vision_window_size": 112,
    "vision_fullatt_block_indexes": [7, 15, 23, 31],
}
QWEN3_VL_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262_144,
    "rope_theta": 5e6,
    "vocab_size": 151_936,
    "vision_depth": 27,
    "vision_hidden_size": 1152,
    "vision_intermediate_size": 4304,
    "vision_num_heads": 16,
    "vision_num_position_embeddings": 2304,
    "vision_deepstack_visual_indexes": [8, 16, 24],
}


def random_model(
    family: str,
    sizes: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    device: torch.device,
    frame_pixels: int,
) -> PublishedModel:
    """Matrices deviate by 1/√fan-in, so that activations keep their size; norms are 1, biases 0."""
    from tests.checkpoints import write_checkpoint

    with tempfile.TemporaryDirectory(prefix="sightline-") as name:
        folder = write_checkpoint(family, Path(name), weights=False, **sizes)
        model = FAMILIES[family].on_meta(
            folder, name=family, device=device, frame_pixels=frame_pixels
        )
    torch.manual_seed(0)
    for path, parameter in list(model.named_parameters()):
        value = torch.empty(parameter.shape, dtype=dtype, device=device)
        if parameter.ndim > 1:
            value.normal_(std=parameter[0].numel() ** -0.5)
        else:
            value.fill_(1.0 if path.endswith("weight") else 0.0)
        owner, _, leaf = path.rpartition(".")
        fresh = nn.Parameter(value, requires_grad=False)
        model.get_submodule(owner).register_parameter(leaf, fresh)
    return model.finished(device)


def random_engine(
    family: str, sizes: Mapping[str, Any], frame_pixels: int, kv_fraction: float
) -> tuple[Engine, PublishedModel]:
    """A warm engine as the environment's WORKER_* want it, but for the model and, unless they say
    how much, the pool. Its answers end at their length: random ones would by chance."""
    config = WorkerConfig.from_env()
    config = replace(config, kv_fraction=max(kv_fraction, config.kv_fraction))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = fast_dtype(device) if config.dtype == "auto" else getattr(torch, config.dtype)
    model = random_model(family, sizes, dtype=dtype, device=device, frame_pixels=frame_pixels)
    model.stop_tokens = frozenset()
    engine = assemble(model, config, dtype, device)
    engine.start().result(TIMEOUT_S)
    return engine, model
