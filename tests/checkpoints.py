"""Random checkpoints of published families as Hugging Face folders, tiny or of any size.

The weights are those of transformers' own classes, so that a reader of these folders can be
compared with them, and are drawn far larger than an initialisation, so that attention has peaks
and an error shows. Needs transformers, which is imported on use; nothing is downloaded.
"""

import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from services.inference_worker.model.family import StreamingModel
from services.inference_worker.model.registry import load_model
from tests import templates

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm")

# Deviations of what is drawn: of matrices over √fan-in, so that attention scores deviate by the
# square, with norms of queries and keys where a family has them; of tables and of the last matrix
# over √width, so that logits deviate by it; of biases around 0 and of norms around 1.
GAIN = 1.3
TABLE_GAIN = 4.0
NOISE = 0.2
NUM_MERGES = 180
CLIP_FRAMES = 32  # of the largest pictures, in one of Qwen3's clips

QWEN_SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
INTERN_SPECIALS = (
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "<video>",
)
"""What InternVL adds to Qwen's."""
SMOL_SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<global-img>",
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
)
QWEN_WORDS = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<think>", "</think>")
"""Tokens that are added and not special: they are written out where an answer has them."""
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SENTENCES = """\
You are a helpful assistant. You are provided the following series of frames from a video.
The live video shows a person who walks into the kitchen and puts a red cup on the table.
What is happening in the video? What changed? Who is there, and what are they doing now?
Describe the image. Is the door open? The door is open and a dog is standing next to it.
A white car turns left at the corner, then another car stops and the light changes to green.
How many people are in the picture? There are three people: two of them are sitting down.
When did it start? It started about ten seconds ago, and nothing else has moved since then.
Yes, there is a blue circle on the right. No, the square is not moving; it left the scene.
Watch the stream and tell me when something falls. I can't see anything that looks wrong.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """transformers' names for one family, and its sizes: each of them may be overridden.

    `text` and `vision` are fields of the two inner configurations, `outer` of the one around them.
    `pixels` bounds the area of a resized picture. Of 64 pairs of a head,
    `mrope` turn with height, as many with width and the rest with time.
    """

    classes: str
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    outer: Mapping[str, Any]
    pixels: Mapping[str, int]
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    template: str = templates.QWEN2_VL
    end: str = "<|im_end|>"
    mrope: int = 0

    @property
    def is_qwen(self) -> bool:
        """Whether words are split as Qwen's are."""
        return self.classes != "SmolVLM"

    @property
    def specials(self) -> tuple[str, ...]:
        if not self.is_qwen:
            return SMOL_SPECIALS
        return QWEN_SPECIALS + (INTERN_SPECIALS if self.classes == "InternVL" else ())


_TEXT = {
    "vocab_size": None,  # the tokenizer's
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    # With a published base most pairs of so short a head turn too slowly for a step to matter.
    "rope_theta": 100.0,
}
_QWEN_VISION = {
    "depth": 3,
    "num_heads": 2,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

FAMILY = {
    "qwen2_vl": Family(
        classes="Qwen2VL",
        text=_TEXT,
        vision={**_QWEN_VISION, "embed_dim": 32, "mlp_ratio": 2},
        outer={"tie_word_embeddings": True},
        pixels={"min_pixels": 4 * 28 * 28, "max_pixels": 64 * 28 * 28},
        mean=_CLIP_MEAN,
        std=_CLIP_STD,
        mrope=24,
    ),
    "qwen2_5_vl": Family(
        classes="Qwen2_5_VL",
        text=_TEXT,
        vision={
            **_QWEN_VISION,
            "hidden_size": 32,
            "intermediate_size": 48,
            "window_size": 56,  # 2 × 2 tokens: 112 × 84 pixels are four windows, two of them cut
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        outer={"tie_word_embeddings": False},
        pixels={"min_pixels": 4 * 28 * 28, "max_pixels": 64 * 28 * 28},
        mean=_CLIP_MEAN,
        std=_CLIP_STD,
        mrope=24,
    ),
    "qwen3_vl": Family(
        classes="Qwen3VL",
        text={**_TEXT, "head_dim": 32},
        vision={
            **_QWEN_VISION,
            "depth": 4,
            "patch_size": 16,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 2],
        },
        outer={"tie_word_embeddings": False},
        pixels={"min_pixels": 4 * 32 * 32, "max_pixels": 64 * 32 * 32},
        template=templates.QWEN3_VL,
        mrope=20,
    ),
    "qwen3_vl_moe": Family(
        classes="Qwen3VLMoe",
        text={
            **_TEXT,
            "head_dim": 32,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [1],
        },
        vision={
            **_QWEN_VISION,
            "depth": 4,
            "patch_size": 16,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 2],
        },
        outer={"tie_word_embeddings": False},
        pixels={"min_pixels": 4 * 32 * 32, "max_pixels": 64 * 32 * 32},
        template=templates.QWEN3_VL,
        mrope=20,
    ),
    "internvl": Family(
        classes="InternVL",
        text={**_TEXT, "model_type": "qwen2", "head_dim": None, "rope_scaling": None},
        vision={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "attention_bias": True,
            "image_size": 64,
            "patch_size": 16,
            "use_qk_norm": False,
            "norm_type": "layer_norm",
        },
        outer={"tie_word_embeddings": False, "downsample_ratio": 0.5},
        pixels={},
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        template=templates.INTERNVL,
    ),
    "smolvlm": Family(
        classes="SmolVLM",
        text={**_TEXT, "rms_norm_eps": 1e-5},
        vision={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
        outer={"tie_word_embeddings": False, "scale_factor": 2},
        pixels={},
        template=templates.SMOLVLM2,
        end="<end_of_utterance>",
    ),
}


def load(folder: Path) -> StreamingModel:
    """The model of a folder, in float32."""
    return load_model(str(folder), torch.float32, torch.device("cpu"), 12_544)


def changed(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what a JSON file of a folder says."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def write_checkpoint(
    family: str,
    folder: Path,
    *,
    seed: int = 0,
    shards: int = 1,
    weights: bool = True,
    **overrides: Any,
) -> Path:
    """Write the folder that `from_pretrained` reads, in float32, and return it. Without `weights`
    it holds everything else.

    The same seed and sizes give the same tensors. Overrides are the names in the family's `text`,
    `outer` and `pixels`, and those in `vision` with `vision_` before them: `hidden_size=1024,
    vision_depth=12`. What follows from them (the width of the vision tower's output, the sections
    of the rotary embedding, the fields of the processors) does follow. Raises TypeError for a name
    the family lacks and ValueError for a vocabulary smaller than the tokenizer's.
    """
    if overrides:
        _make(family, folder, seed, shards, weights, overrides)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _made(family, seed, shards, weights).items():
        (folder / name).write_bytes(content)
    return folder


@functools.cache
def _made(family: str, seed: int, shards: int, weights: bool) -> dict[str, bytes]:
    """Files of a checkpoint of the usual sizes, which many tests ask for: a copy costs less."""
    with tempfile.TemporaryDirectory() as folder:
        _make(family, Path(folder), seed, shards, weights, {})
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def _make(
    family: str,
    folder: Path,
    seed: int,
    shards: int,
    weights: bool,
    overrides: Mapping[str, Any],
) -> None:
    import transformers

    kind = FAMILY[family]
    vision = {f"vision_{name}": value for name, value in kind.vision.items()}
    sizes = {**kind.text, **vision, **kind.outer, **kind.pixels}
    if unknown := overrides.keys() - sizes.keys():
        raise TypeError(f"{family} has no {', '.join(sorted(unknown))}")
    tokenizer = small_tokenizer(qwen=kind.is_qwen, specials=kind.specials)
    sizes |= {"vocab_size": tokenizer.get_vocab_size(), **overrides}
    if sizes["vocab_size"] < tokenizer.get_vocab_size():
        raise ValueError(f"vocab_size is less than the tokenizer's {tokenizer.get_vocab_size()}")
    text = {name: sizes[name] for name in kind.text}
    vision = {name: sizes[f"vision_{name}"] for name in kind.vision}
    outer = {name: sizes[name] for name in kind.outer}

    configure, describe = _WRITERS.get(kind.classes, (_qwen_config, _qwen_files))
    config = getattr(transformers, f"{kind.classes}Config")(
        **configure(kind, text, vision, tokenizer), **outer
    )
    ends = [tokenizer.token_to_id(kind.end)]
    if kind.is_qwen:
        ends.append(tokenizer.token_to_id("<|endoftext|>"))
    generation = transformers.GenerationConfig(
        bos_token_id=config.text_config.bos_token_id,
        eos_token_id=ends if kind.is_qwen else ends[0],
        pad_token_id=config.text_config.pad_token_id,
    )
    name = f"{kind.classes}ForConditionalGeneration"
    if weights:
        model = getattr(transformers, name)(config)
        _draw(model, seed)
        model.generation_config = generation
        model.save_pretrained(folder, max_shard_size="1TB")
        if shards > 1:
            split_shards(folder, shards)
    else:
        config.architectures = [name]
        config.save_pretrained(folder)
        generation.save_pretrained(folder)

    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(kind.template)
    for name, content in describe(kind, sizes).items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def small_tokenizer(*, qwen: bool, specials: tuple[str, ...] = ()) -> Tokenizer:
    """A byte-level BPE that knows a few English words, split as the family's is."""
    tokenizer = Tokenizer(models.BPE())
    split: pre_tokenizers.PreTokenizer
    if qwen:
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated")
        bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    else:
        split = pre_tokenizers.Digits(individual_digits=True)
        bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
    tokenizer.decoder = decoders.ByteLevel()
    first = [] if qwen else list(SMOL_SPECIALS[:3])  # SmolLM2's come before its words
    trainer = trainers.BpeTrainer(
        vocab_size=len(first) + 256 + NUM_MERGES,
        special_tokens=first,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES.splitlines(), trainer)
    tokenizer.add_special_tokens(list(specials or (QWEN_SPECIALS if qwen else SMOL_SPECIALS)))
    tokenizer.add_tokens(list(QWEN_WORDS) if qwen else [])
    return tokenizer


def _qwen_config(
    kind: Family, text: dict[str, Any], vision: dict[str, Any], tokenizer: Tokenizer
) -> dict[str, Any]:
    """The arguments of a Qwen configuration, its rotary embedding named as it was published."""
    head = text.get("head_dim", text["hidden_size"] // text["num_attention_heads"])
    side = head // 2 * kind.mrope // 64
    rope: dict[str, Any] = {"mrope_section": [head // 2 - 2 * side, side, side]}
    if kind.classes.startswith("Qwen3VL"):
        rope |= {"rope_type": "default", "mrope_interleaved": True}
    else:
        rope |= {"type": "mrope"}
    width = "hidden_size" if kind.classes == "Qwen2VL" else "out_hidden_size"
    return {
        "text_config": {
            **text,
            "rope_scaling": rope,
            "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
            "eos_token_id": tokenizer.token_to_id(kind.end),
            "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        },
        "vision_config": {**vision, width: text["hidden_size"]},
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
    }


def _intern_config(
    kind: Family, text: dict[str, Any], vision: dict[str, Any], tokenizer: Tokenizer
) -> dict[str, Any]:
    """The arguments of an InternVL configuration: a Qwen2 or Qwen3 behind an InternViT."""
    side = vision["image_size"] // vision["patch_size"] // 2
    return {
        "text_config": {
            **{name: value for name, value in text.items() if value is not None},
            "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
            "eos_token_id": tokenizer.token_to_id(kind.end),
            "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        },
        "vision_config": vision,
        "image_token_id": tokenizer.token_to_id("<IMG_CONTEXT>"),
        "image_seq_length": side**2,
    }


def _smol_config(
    kind: Family, text: dict[str, Any], vision: dict[str, Any], tokenizer: Tokenizer
) -> dict[str, Any]:
    """The arguments of a SmolVLM2 configuration: a Llama behind a SigLIP."""
    return {
        "text_config": {
            **text,
            "model_type": "llama",
            "bos_token_id": tokenizer.token_to_id("<|im_start|>"),
            "eos_token_id": tokenizer.token_to_id(kind.end),
            "pad_token_id": tokenizer.token_to_id("<|im_end|>"),
        },
        "vision_config": vision,
        "image_token_id": tokenizer.token_to_id("<image>"),
        "pad_token_id": tokenizer.token_to_id("<|im_end|>"),
    }


def _qwen_files(kind: Family, sizes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What stands beside a Qwen's weights, by the name of the file."""
    shared = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": kind.mean,
        "image_std": kind.std,
        "patch_size": sizes["vision_patch_size"],
        "temporal_patch_size": sizes["vision_temporal_patch_size"],
        "merge_size": sizes["vision_spatial_merge_size"],
        "processor_class": f"{kind.classes}Processor",
    }
    least, most = sizes["min_pixels"], sizes["max_pixels"]
    image: dict[str, Any] = {"size": {"shortest_edge": least, "longest_edge": most}}
    if kind.classes.startswith(
        "Qwen3VL"
    ):  # its videos are bounded by the area of all frames together
        video: dict[str, Any] = {
            "size": {"shortest_edge": least, "longest_edge": most * CLIP_FRAMES},
            "fps": 2,
            "min_frames": 4,
            "max_frames": 768,
            "do_sample_frames": True,
            "video_processor_type": "Qwen3VLVideoProcessor",
        }
    else:
        image |= {"min_pixels": least, "max_pixels": most}
        video = {**image, "video_processor_type": "Qwen2VLVideoProcessor"}
    return {
        "preprocessor_config.json": {
            **shared,
            **image,
            "image_processor_type": "Qwen2VLImageProcessor",
        },
        "video_preprocessor_config.json": {**shared, **video},
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_prefix_space": False,
            "additional_special_tokens": QWEN_SPECIALS[1:],
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": kind.end,
            "errors": "replace",
            "model_max_length": sizes["max_position_embeddings"],
            "pad_token": "<|endoftext|>",
            "unk_token": None,
        },
    }


def _intern_files(kind: Family, sizes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What stands beside InternVL's weights, by the name of the file."""
    side = sizes["vision_image_size"]
    shared = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": kind.mean,
        "image_std": kind.std,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
    }
    picture = {"crop_to_patches": False, "max_patches": 12, "min_patches": 1}
    tokens = (side // sizes["vision_patch_size"] // 2) ** 2
    return {
        "preprocessor_config.json": {
            **shared,
            **picture,
            "image_processor_type": "GotOcr2ImageProcessorFast",
        },
        "video_preprocessor_config.json": {
            **shared,
            "video_processor_type": "InternVLVideoProcessor",
        },
        "processor_config.json": {
            "image_seq_length": tokens,
            "processor_class": "InternVLProcessor",
        },
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_prefix_space": False,
            "additional_special_tokens": kind.specials[1:],
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "context_image_token": "<IMG_CONTEXT>",
            "end_image_token": "</img>",
            "eos_token": kind.end,
            "errors": "replace",
            "model_max_length": 8192,
            "pad_token": "<|endoftext|>",
            "start_image_token": "<img>",
            "unk_token": None,
            "video_token": "<video>",
        },
    }


def _smol_files(kind: Family, sizes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What stands beside SmolVLM2's weights, by the name of the file."""
    side = sizes["vision_image_size"]
    shared = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": kind.mean,
        "image_std": kind.std,
        "max_image_size": {"longest_edge": side},
        "processor_class": "SmolVLMProcessor",
        "resample": 1,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": 4 * side},
        "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": side}},
    }
    tokens = (side // sizes["vision_patch_size"] // sizes["scale_factor"]) ** 2
    return {
        "preprocessor_config.json": {
            **shared,
            "do_image_splitting": True,
            "image_processor_type": "SmolVLMImageProcessor",
        },
        "video_preprocessor_config.json": {
            **shared,
            "size": {"longest_edge": side},
            "video_processor_type": "SmolVLMVideoProcessor",
        },
        "processor_config.json": {"image_seq_len": tokens, "processor_class": "SmolVLMProcessor"},
        "tokenizer_config.json": {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            "additional_special_tokens": SMOL_SPECIALS[3:],
            "bos_token": "<|im_start|>",
            "clean_up_tokenization_spaces": False,
            "end_of_utterance_token": "<end_of_utterance>",
            "eos_token": kind.end,
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "image_token": "<image>",
            "model_max_length": sizes["max_position_embeddings"],
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
        },
    }


_WRITERS = {
    "InternVL": (_intern_config, _intern_files),
    "SmolVLM": (_smol_config, _smol_files),
}


def _draw(model: torch.nn.Module, seed: int) -> None:
    """Draw every parameter anew."""
    generator = torch.Generator().manual_seed(seed)
    tables = ("embed_tokens", "lm_head", "pos_embed", "position_embedding")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            module, _, field = name.rpartition(".")
            if parameter.ndim > 1:
                gain = TABLE_GAIN if module.endswith(tables) else GAIN
                mean, deviation = 0.0, gain / sqrt(parameter[0].numel())
            elif field == "bias":
                mean, deviation = 0.0, NOISE
            else:
                mean, deviation = GAIN if module.endswith(("q_norm", "k_norm")) else 1.0, NOISE
            parameter.normal_(mean, deviation, generator=generator)


def split_shards(folder: Path, shards: int) -> None:
    """Deal the one file of weights out to shards: neighbours, as q and k, come apart."""
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    places: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size_bytes}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    whole.unlink()
