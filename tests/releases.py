"""Published checkpoints in small: a folder for each release, with the files, keys, names and types
that its authors chose, tiny sizes and random weights.

Modelled on config.json, generation_config.json, the preprocessors' and tokenizers' files and the
index of weights of each release as its authors published them (Qwen2-VL in 2024, Qwen2.5-VL in
January and March 2025, Qwen3-VL in autumn 2025, InternVL3 in April and 3.5 in August 2025,
SmolVLM2 in February 2025), and on what trainers of 2025 left beside a tuned one. `resave` makes of
each what transformers of today saves.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests import templates
from tests.checkpoints import FAMILY, Family, split_shards, write_checkpoint

# generation_config.json, as published.
_QWEN2 = {
    "do_sample": True,
    "repetition_penalty": 1.0,
    "temperature": 0.01,
    "top_p": 0.001,
    "top_k": 1,
}
_QWEN25 = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.000001}
_QWEN3 = {
    "do_sample": True,
    "top_k": 20,
    "top_p": 0.8,
    "repetition_penalty": 1.0,
    "temperature": 0.7,
}
_THINKING = {**_QWEN3, "top_p": 0.95, "temperature": 1.0}
_SMALL = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 6}
_VISION = {"vision_depth": 2, "vision_fullatt_block_indexes": [1]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One release. `name` is the hub's; `sizes` override the family's tiny ones: whether the last
    matrix is tied, and how many heads share keys, differ within a family. `nested`: what a
    configuration says of words stands in text_config. `trained`: saved by a trainer, with its
    leftovers."""

    name: str
    family: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    shards: int = 1
    dtype: torch.dtype = torch.bfloat16
    generation: Mapping[str, Any] = field(default_factory=dict)
    template: str = templates.QWEN2_VL
    nested: bool = False
    trained: bool = False

    def __str__(self) -> str:
        return self.name.rpartition("/")[2]


def _release(name: str, family: str, heads: int, tied: bool, shards: int, **more: Any) -> Release:
    sizes = {**_SMALL, "num_key_value_heads": heads, "tie_word_embeddings": tied}
    sizes |= more.pop("sizes", {})
    if family.startswith("qwen"):
        sizes["vision_depth"] = 2
    if family == "qwen2_5_vl":
        sizes |= _VISION
    if family.startswith("qwen3_vl"):
        sizes |= {"vision_deepstack_visual_indexes": [0, 1], "head_dim": 16}
    return Release(name=name, family=family, sizes=sizes, shards=shards, **more)


_Q2: dict[str, Any] = {"generation": _QWEN2}
_Q25: dict[str, Any] = {"generation": _QWEN25}
_Q3: dict[str, Any] = {"generation": _QWEN3, "template": templates.QWEN3_VL, "nested": True}
_Q3T: dict[str, Any] = {**_Q3, "generation": _THINKING, "template": templates.QWEN3_VL_THINKING}
_DYNAMIC = {"factor": 2.0, "rope_type": "dynamic"}  # as in Qwen2.5's long texts
_I3: dict[str, Any] = {
    "template": templates.INTERNVL,
    "nested": True,
    "sizes": {"rope_scaling": _DYNAMIC},
}
_I35: dict[str, Any] = {**_I3, "sizes": {"model_type": "qwen3", "head_dim": 16}}
# The towers of the largest have norms of queries and keys.
_I38 = {"vision_use_qk_norm": True, "vision_norm_type": "rms_norm", "vision_attention_bias": False}
_SMOL: dict[str, Any] = {"template": templates.SMOLVLM2, "nested": True}

ANSWERING = (
    _release("Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl", 2, True, 2, **_Q2),
    _release("Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl", 2, False, 5, **_Q2),
    _release("Qwen/Qwen2-VL-72B-Instruct", "qwen2_vl", 3, False, 38, **_Q2),
    _release("chenjoya/LiveCC-7B-Instruct", "qwen2_vl", 2, False, 4, trained=True, **_Q2),
    _release("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl", 2, True, 2, **_Q25),
    _release("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", 2, False, 5, **_Q25),
    _release("Qwen/Qwen2.5-VL-32B-Instruct", "qwen2_5_vl", 2, False, 18, **_Q25),
    _release("Qwen/Qwen2.5-VL-72B-Instruct", "qwen2_5_vl", 3, False, 38, **_Q25),
    _release(
        "wyccccc/TimeChatOnline-7B", "qwen2_5_vl", 2, False, 4, trained=True, nested=True, **_Q25
    ),
    _release(
        "mit-han-lab/StreamingVLM", "qwen2_5_vl", 2, False, 4, trained=True, nested=True, **_Q25
    ),
    _release("Qwen/Qwen3-VL-2B-Instruct", "qwen3_vl", 3, True, 1, **_Q3),
    _release("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl", 2, True, 2, **_Q3),
    _release("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl", 2, False, 4, **_Q3),
    _release("Qwen/Qwen3-VL-32B-Instruct", "qwen3_vl", 1, False, 14, **_Q3),
    _release("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", "smolvlm", 3, False, 1, **_SMOL),
    _release(
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "smolvlm",
        2,
        False,
        1,
        dtype=torch.float32,
        **_SMOL,
    ),
    _release(
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        "smolvlm",
        6,
        False,
        2,
        dtype=torch.float32,
        **_SMOL,
    ),
)
_A3B = {"mlp_only_layers": []}
EXPERTS = (
    _release("Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen3_vl_moe", 1, False, 13, **_Q3, sizes=_A3B),
    _release("Qwen/Qwen3-VL-235B-A22B-Instruct", "qwen3_vl_moe", 1, False, 32, **_Q3, sizes=_A3B),
)
INTERNVL = (
    _release("OpenGVLab/InternVL3-1B-hf", "internvl", 3, True, 1, **_I3),
    _release("OpenGVLab/InternVL3-8B-hf", "internvl", 2, False, 4, **_I3),
    _release(
        "OpenGVLab/InternVL3-38B-hf",
        "internvl",
        1,
        False,
        16,
        **{**_I3, "sizes": {**_I3["sizes"], **_I38}},
    ),
    _release("OpenGVLab/InternVL3_5-1B-HF", "internvl", 3, True, 1, **_I35),
    _release("OpenGVLab/InternVL3_5-8B-HF", "internvl", 2, False, 4, **_I35),
)
THINKING = tuple(
    _release(f"Qwen/Qwen3-VL-{size}-Thinking", "qwen3_vl", 2, tied, 2, **_Q3T)
    for size, tied in (("2B", True), ("4B", True), ("8B", False), ("32B", False))
)


def write_release(release: Release, folder: Path) -> Path:
    """Write a release's folder as it was published, and return it."""
    write_checkpoint(release.family, folder, **release.sizes)
    for file in ("chat_template.jinja", "video_preprocessor_config.json"):
        (folder / file).unlink(missing_ok=True)
    config = _read(folder, "config.json")
    if release.family == "smolvlm":
        said = _smol_config(config)
    elif release.family == "internvl":
        said = _intern_config(config)
    else:
        said = _qwen_config(config, release)
    _write(folder, "config.json", said)
    generation = _read(folder, "generation_config.json")
    _write(folder, "generation_config.json", {**generation, **release.generation})
    for name, content in _pictures(release, config).items():
        _write(folder, name, content)
    _words(release, folder)
    if release.trained:
        _write(folder, "trainer_state.json", {"best_metric": None, "epoch": 1.0, "log_history": []})
        (folder / "training_args.bin").write_bytes(b"\x80\x02.")
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.to(release.dtype) for name, tensor in tensors.items()}
    if release in EXPERTS:  # whose matrices lie there transposed
        tensors = {
            name: tensor.transpose(1, 2).contiguous() if ".experts." in name else tensor
            for name, tensor in tensors.items()
        }
    if "3_5" in release.name:  # saved after transformers had moved everything but the last matrix
        tensors = {_moved(name): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if release.shards > 1:
        split_shards(folder, release.shards)
    return folder


def resave(release: Release, published: Path, folder: Path) -> Path:
    """What transformers of today saves of a published folder: `save_pretrained` of the model and of
    the tokenizer, and what that of the processor writes, all in processor_config.json."""
    import transformers

    model = transformers.AutoModelForImageTextToText.from_pretrained(published, dtype="auto")
    model.save_pretrained(folder, max_shard_size="100KB")
    transformers.AutoTokenizer.from_pretrained(published).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(release.template)
    _write(folder, "processor_config.json", processor_config(release, model.config.to_dict()))
    return folder


def processor_config(release: Release, config: dict[str, Any]) -> dict[str, Any]:
    """processor_config.json as `save_pretrained` of transformers 5.24 writes it."""
    kind = FAMILY[release.family]
    vision, processor = config["vision_config"], f"{kind.classes}Processor"
    shared = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(kind.mean),
        "image_std": list(kind.std),
        "rescale_factor": 0.00392156862745098,
    }
    if release.family == "smolvlm":
        side = vision["image_size"]
        shared |= {
            "do_pad": True,
            "max_image_size": {"longest_edge": side},
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": side}},
        }
        image = {"do_image_splitting": True, "resample": 1, "size": {"longest_edge": 4 * side}}
        video = {"do_sample_frames": False, "fps": 1, "num_frames": 64, "return_metadata": True}
        names = ("SmolVLMImageProcessor", "SmolVLMVideoProcessor")
        whole: dict[str, Any] = {"image_seq_len": _seen(config), "processor_class": processor}
    elif release.family == "internvl":
        shared = _intern_pictures(kind, config)
        image = {"crop_to_patches": False, "max_patches": 12, "min_patches": 1}
        video = {"do_sample_frames": False, "initial_shift": True, "return_metadata": False}
        names = ("GotOcr2ImageProcessor", "InternVLVideoProcessor")
        whole = {
            "image_seq_length": config["image_seq_length"],
            "processor_class": processor,
        }
    else:
        shared |= {
            "resample": 3,
            "patch_size": vision["patch_size"],
            "temporal_patch_size": 2,
            "merge_size": 2,
        }
        three = release.family.startswith("qwen3_vl")
        image = {"size": {"longest_edge": 16777216, "shortest_edge": 65536}}
        video = {"max_frames": 768, "min_frames": 4, "do_sample_frames": three, **image}
        names = ("Qwen2VLImageProcessor", f"Qwen{3 if three else 2}VLVideoProcessor")
        whole = {"processor_class": processor}
    return {
        **whole,
        "image_processor": {**shared, **image, "image_processor_type": names[0]},
        "video_processor": {**shared, **video, "video_processor_type": names[1]},
    }


def _qwen_config(config: dict[str, Any], release: Release) -> dict[str, Any]:
    """Qwen2-VL and Qwen2.5-VL: one flat object but for the vision; from transformers 4.52 on, and
    in Qwen3-VL, a text_config, which the tuned ones have beside the flat one."""
    text, vision = config["text_config"], config["vision_config"]
    rope = text["rope_parameters"]
    three = release.family.startswith("qwen3_vl")
    words = {key: text[key] for key in _TEXT if key in text}
    words["rope_theta"] = rope["rope_theta"]
    words["rope_scaling"] = {"mrope_section": rope["mrope_section"], "type": "mrope"}
    pictures = {
        "in_chans" if key == "in_channels" and not three else key: vision[key]
        for key in _VISION_KEYS
        if key in vision
    }
    whole = {
        "architectures": config["architectures"],
        "model_type": config["model_type"],
        "tie_word_embeddings": config["tie_word_embeddings"],
        **{key: config[key] for key in _TOKENS},
        "transformers_version": "4.57.0.dev0" if three else "4.41.2",
    }
    if three:
        words["rope_scaling"] = {
            "mrope_interleaved": True,
            "mrope_section": rope["mrope_section"],
            "rope_type": "default",
        }
        words |= {"attention_bias": False, "head_dim": text["head_dim"], "dtype": "bfloat16"}
        words |= {"model_type": f"{release.family}_text", "initializer_range": 0.02}
        if release.family == "qwen3_vl_moe":
            words |= {key: text[key] for key in _EXPERTS}
            words["num_experts"] = text["num_local_experts"]
        return {
            **whole,
            "text_config": words,
            "vision_config": {**pictures, "model_type": release.family},
        }
    pictures["spatial_patch_size"] = vision["patch_size"]
    whole |= {"torch_dtype": "bfloat16", "vision_token_id": whole["image_token_id"] - 1}
    if not release.nested:
        return {**whole, **words, "vision_config": pictures}
    kind = release.family
    words["rope_scaling"] |= {"rope_type": "default", "type": "default"}
    inner = {
        **words,
        "architectures": config["architectures"],
        "layer_types": ["full_attention"] * words["num_hidden_layers"],
        "image_token_id": None,
        "video_token_id": None,
        "model_type": f"{kind}_text",
        "sliding_window": None,
        "torch_dtype": "float32",
    }
    pictures |= {"in_channels": 3, "model_type": kind, "torch_dtype": "float32"}
    return {**whole, **words, "text_config": inner, "vision_config": pictures}


def _moved(name: str) -> str:
    inner = name.replace("language_model.model.", "language_model.")
    return "lm_head.weight" if name.endswith("lm_head.weight") else f"model.{inner}"


def _intern_config(config: dict[str, Any]) -> dict[str, Any]:
    """InternVL: sizes of pictures and patches twice, the base of the rotary embedding by its old
    names, and whether the last matrix is tied said of the words alone."""
    text, vision = config["text_config"], config["vision_config"]
    rope = dict(text["rope_parameters"])
    base, kind = rope.pop("rope_theta"), rope.get("rope_type")
    words = {key: text[key] for key in _TEXT if key in text}
    words |= {
        "architectures": [
            "Qwen2ForCausalLM" if text["model_type"] == "qwen2" else "Qwen3ForCausalLM"
        ],
        "model_type": text["model_type"],
        "rope_scaling": None if kind == "default" else {**rope, "type": kind},
        "rope_theta": base,
        "tie_word_embeddings": config["tie_word_embeddings"],
        "torch_dtype": "bfloat16",
    }
    if text["model_type"] == "qwen3":
        words |= {"head_dim": text["head_dim"], "attention_bias": False}
    pictures = {key: vision[key] for key in _INTERN_VISION}
    return {
        "architectures": config["architectures"],
        "downsample_ratio": config["downsample_ratio"],
        "image_seq_length": config["image_seq_length"],
        "image_token_id": config["image_token_id"],
        "model_type": "internvl",
        "projector_hidden_act": "gelu",
        "text_config": words,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.0.dev0",
        "vision_config": {
            **pictures,
            "architectures": ["InternVisionModel"],
            "model_type": "internvl_vision",
            "torch_dtype": "bfloat16",
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }


def _smol_config(config: dict[str, Any]) -> dict[str, Any]:
    """SmolVLM2: with what its trainer wrote into it, a padding token of another vocabulary among
    it, and without what are defaults, such as the depth of the vision tower where it is one."""
    text, vision = config["text_config"], config["vision_config"]
    keys = ("hidden_size", "image_size", "intermediate_size", "num_attention_heads", "patch_size")
    return {
        "architectures": config["architectures"],
        "image_token_id": config["image_token_id"],
        "model_type": "smolvlm",
        "pad_token_id": 128002,
        "scale_factor": config["scale_factor"],
        "text_config": {
            **{key: text[key] for key in _TEXT[:-4] if key in text},
            "_flash_attn_2_enabled": True,
            "architectures": ["VLlama3ForCausalLM"],
            "head_dim": text["hidden_size"] // text["num_attention_heads"],
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "neftune_noise_alpha": 0.0,
            "pad_token_id": 2,
            "pixel_shuffle_factor": config["scale_factor"],
            "qk_layer_norms": False,
            "rope_interleaved": False,
            "rope_theta": text["rope_parameters"]["rope_theta"],
            "torch_dtype": "bfloat16",
            "use_resampler": False,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.47.1",
        "use_cache": False,
        "use_reentrant_checkpointing": False,
        "vision_config": {
            **{key: vision[key] for key in keys},
            "num_hidden_layers": vision["num_hidden_layers"],
            "max_image_size": {"longest_edge": vision["image_size"]},
            "model_type": "smolvlm_vision",
            "size": {"longest_edge": 4 * vision["image_size"]},
            "tie_word_embeddings": False,
            "use_base_siglip": False,
        },
        "vocab_size": text["vocab_size"],
    }


_TEXT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "use_cache",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "max_window_layers",
    "sliding_window",
    "use_sliding_window",
)
_EXPERTS = (
    "decoder_sparse_step",
    "mlp_only_layers",
    "moe_intermediate_size",
    "num_experts_per_tok",
)
_VISION_KEYS = (
    "deepstack_visual_indexes",
    "depth",
    "embed_dim",
    "fullatt_block_indexes",
    "hidden_act",
    "hidden_size",
    "in_channels",
    "intermediate_size",
    "mlp_ratio",
    "num_heads",
    "num_position_embeddings",
    "out_hidden_size",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
    "tokens_per_second",
    "window_size",
)
_INTERN_VISION = (
    "attention_bias",
    "attention_dropout",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "image_size",
    "intermediate_size",
    "layer_norm_eps",
    "layer_scale_init_value",
    "norm_type",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "patch_size",
    "projection_dropout",
    "use_absolute_position_embeddings",
    "use_mask_token",
    "use_mean_pooling",
    "use_qk_norm",
)
_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def _seen(config: dict[str, Any]) -> int:
    vision = config["vision_config"]
    side: int = vision["image_size"] // vision["patch_size"] // config["scale_factor"]
    return side**2


def _pictures(release: Release, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Files of the preprocessors, by name. Qwen2-VL and Qwen2.5-VL have the picture's alone, which
    serves videos as well, and leave rescaling to the default."""
    kind = FAMILY[release.family]
    processor = f"{kind.classes}Processor"
    vision = config["vision_config"]
    if release.family == "smolvlm":
        side = vision["image_size"]
        pictures = {
            "do_convert_rgb": True,
            "do_image_splitting": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SmolVLMImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "max_image_size": {"longest_edge": side},
            "processor_class": processor,
            "resample": 1,
            "rescale_factor": 0.00392156862745098,
            "size": {"longest_edge": 4 * side},
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": side}},
        }
        named = {"image_seq_len": _seen(config), "processor_class": processor}
        return {"preprocessor_config.json": pictures, "processor_config.json": named}
    if release.family == "internvl":
        pictures = {
            **_intern_pictures(kind, config),
            "crop_size": None,
            "crop_to_patches": False,
            "data_format": "channels_first",
            "image_processor_type": "GotOcr2ImageProcessorFast",
            "max_patches": 12,
            "min_patches": 1,
            "processor_class": processor,
        }
        named = {"image_seq_length": config["image_seq_length"], "processor_class": processor}
        return {"preprocessor_config.json": pictures, "processor_config.json": named}
    shared = {
        "patch_size": vision["patch_size"],
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": list(kind.mean),
        "image_std": list(kind.std),
        "processor_class": processor,
    }
    if not release.family.startswith("qwen3_vl"):
        bounds = {"min_pixels": 3136, "max_pixels": 12845056}
        image = "Qwen2VLImageProcessorFast" if release.trained else "Qwen2VLImageProcessor"
        return {"preprocessor_config.json": {**bounds, **shared, "image_processor_type": image}}
    return {
        "preprocessor_config.json": {
            **shared,
            "size": {"longest_edge": 16777216, "shortest_edge": 65536},
            "image_processor_type": "Qwen2VLImageProcessorFast",
        },
        "video_preprocessor_config.json": {
            **shared,
            "size": {"longest_edge": 25165824, "shortest_edge": 4096},
            "video_processor_type": "Qwen3VLVideoProcessor",
        },
    }


def _intern_pictures(kind: Family, config: dict[str, Any]) -> dict[str, Any]:
    height, width = config["vision_config"]["image_size"]
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(kind.mean),
        "image_std": list(kind.std),
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": height, "width": width},
    }


def _words(release: Release, folder: Path) -> None:
    """The tokenizer's files, with the slow one's and the trainer's, and the template."""
    tokenizer = _read(folder, "tokenizer.json")
    merges = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]
    ]
    _write(folder, "vocab.json", tokenizer["model"]["vocab"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    config = _read(folder, "tokenizer_config.json")
    config["added_tokens_decoder"] = {
        str(token["id"]): {key: token[key] for key in token if key != "id"}
        for token in tokenizer["added_tokens"]
    }
    config["processor_class"] = f"{FAMILY[release.family].classes}Processor"
    if release.family == "smolvlm":
        named = ("end_of_utterance_token", "fake_image_token", "global_image_token", "image_token")
        config["extra_special_tokens"] = {name: config[name] for name in named}
        config["truncation_side"] = "left"
    if release.family == "internvl":
        named = ("context_image_token", "end_image_token", "start_image_token")
        config["extra_special_tokens"] = {name: config.pop(name) for name in named}
        config.pop("video_token")
        (folder / "chat_template.jinja").write_text(release.template)
    else:
        _write(folder, "chat_template.json", {"chat_template": release.template})
    if release.family.startswith("qwen"):
        config["chat_template"] = release.template
    _write(folder, "tokenizer_config.json", config)
    if release.trained or not release.family.startswith("qwen"):
        added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        _write(folder, "added_tokens.json", added)
        ends = {key: config[key] for key in ("eos_token", "pad_token")}
        _write(folder, "special_tokens_map.json", ends)


def _read(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


def _write(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content, indent=2) + "\n")
