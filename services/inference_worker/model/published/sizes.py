"""Sizes that a configuration may name. Checked before anything is made of them."""

import math
from typing import Any

from services.inference_worker.model.errors import ModelError

# The largest published models have a tenth of these; a file that was spoilt has anything.
_TEXT = {
    "vocab_size": 2**21,
    "hidden_size": 2**16,
    "intermediate_size": 2**18,
    "num_hidden_layers": 512,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "max_position_embeddings": 2**30,
    "num_experts": 4096,
    "num_experts_per_tok": 4096,
    "moe_intermediate_size": 2**18,
    "decoder_sparse_step": 512,
}
_VISION = {
    "depth": 512,
    "embed_dim": 2**16,
    "hidden_size": 2**16,
    "image_size": 8192,
    "in_channels": 3,
    "num_channels": 3,
    "intermediate_size": 2**18,
    "mlp_ratio": 64,
    "num_attention_heads": 1024,
    "num_heads": 1024,
    "num_hidden_layers": 512,
    "num_position_embeddings": 2**20,
    "out_hidden_size": 2**16,
    "patch_size": 256,
    "spatial_merge_size": 16,
    "temporal_patch_size": 16,
    "window_size": 2**16,
}
_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def check_sizes(config: Any) -> None:
    """Raise ModelError for sizes no model has, or that do not go together."""
    text, vision = config.text_config, config.vision_config
    for part, limits in ((text, _TEXT), (vision, _VISION), (config, {"scale_factor": 16})):
        for name, most in limits.items():
            value = getattr(part, name, 1)
            if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
                value = value[0]  # a square, as InternVL writes it
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not 1 <= value <= most:
                raise ModelError(f"config.json: {name} is {value!r}; a whole number, 1 to {most}")
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
    if heads % kv_heads:
        raise ModelError(f"config.json: {heads} heads do not share {kv_heads} of keys evenly")
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    if not isinstance(head_dim, int) or not 2 <= head_dim <= 1024 or head_dim % 2:
        raise ModelError(f"config.json: heads of {head_dim!r} numbers; an even number, 2 to 1024")
    eps = text.rms_norm_eps
    if not (isinstance(eps, float) and 0 <= eps < 1):
        raise ModelError(f"config.json: rms_norm_eps is {eps!r}")
    theta = text.rope_parameters.get("rope_theta")
    if not (isinstance(theta, int | float) and math.isfinite(theta) and theta > 0):
        raise ModelError(f"config.json: rope_theta is {theta!r}")
    for name in _TOKENS:
        token = getattr(config, name, 0)
        if not (isinstance(token, int) and 0 <= token < text.vocab_size):
            raise ModelError(f"config.json: {name} is {token!r}; the vocabulary has no such word")
