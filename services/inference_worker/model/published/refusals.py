"""Folders that no worker can serve, each named as what it is, with what to take instead."""

import re
from pathlib import Path
from typing import Any

from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.published.folder import read_json

_QUANTISED = re.compile(
    r"[-_.](fp8|fp4|nvfp4|mxfp4|awq|gptq|bnb|gguf|int[48]|w[48]a(8|16)|[48]bit|unsloth|dynamic|mlx)"
    r"([-_.].*)?$",
    re.IGNORECASE,
)
_RECURRENT = re.compile(
    r"qwen3_?(5|6|8|next)|lfm|[a-z]*amba|rwkv|recurrent|nemotron_?h|minicpmv4|falcon_?h1"
    r"|kimi_?linear|moe_?hybrid|olmo_?hybrid"
)
_RELAY = "; a server that runs it can be relayed: WORKER_MODEL=openai:URL#MODEL"
_WORDS_ALONE = ("ForCausalLM", "LMHeadModel")


def refuse_other_layouts(name: str, folder: Path) -> None:
    """Raise ModelError for a folder whose weights are not those of a whole model."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = read_json(adapter).get("base_model_name_or_path") or "its base model"
        raise ModelError(
            f"{name} is an adapter for {base}, not a model: merge the two first, with peft's "
            "merge_and_unload(), and give the folder that this saves"
        )
    if (folder / "config.json").is_file():
        return
    # Of the hub only what this worker reads is downloaded, so the name has to tell.
    if "gguf" in name.lower() or next(folder.glob("*.gguf"), None) is not None:
        raise ModelError(
            f"{name} holds GGUF files, which are llama.cpp's{_instead(name)}; this worker makes "
            "its own 8 bits with WORKER_QUANTIZATION=int8"
        )


def refuse_quantised(name: str, config: dict[str, Any]) -> None:
    """Raise ModelError for weights that were quantised by somebody else."""
    text = config.get("text_config")
    places = (config, text if isinstance(text, dict) else {})
    for key in ("quantization_config", "compression_config", "quantization"):
        found = next((place[key] for place in places if place.get(key)), None)
        if found is None:
            continue
        said = found if isinstance(found, dict) else {}
        method = said.get("quant_method") or said.get("quant_algo")
        kind = method or ("MLX" if key == "quantization" else "a kind of its own")
        raise ModelError(
            f"{name} is quantised ({kind}), which this worker does not read{_instead(name)}; "
            "WORKER_QUANTIZATION=int8 halves its memory here"
        )


def architecture_error(name: str, architecture: str, supported: str) -> ModelError:
    """The error for an architecture that is not served."""
    lower = architecture.lower()
    relay = _RELAY
    if not architecture:
        what, relay = "names no architecture", ""
    elif _RECURRENT.search(lower):
        what = f"is {architecture}, recurrent in part: frames cannot be taken out of its state"
    elif "moe" in lower:
        what = f"is {architecture}, a mixture of experts of a kind that this worker does not have"
    elif lower == "internvlchatmodel":
        what = (
            f"is {architecture}, the layout of its authors' own code: take the release of the same "
            "model that ends in -hf (InternVL3) or -HF (InternVL3.5)"
        )
    elif architecture.endswith(_WORDS_ALONE):
        what, relay = f"is {architecture}, which reads words and sees no pictures", ""
    elif lower.startswith("idefics3"):
        what = f"is {architecture}, which saw no videos in training: SmolVLM2 is its successor"
    else:
        what = f"is {architecture}"
    return ModelError(f"{name} {what}; this worker streams {supported}{relay}")


def thoughts_error(name: str) -> ModelError:
    """The error for a model that thinks aloud before it answers."""
    other = name.replace("Thinking", "Instruct")
    instead = f"take {other}" if other != name else "take one that was tuned to answer at once"
    return ModelError(
        f"{name} thinks before it answers: its chat template begins every answer with <think>. "
        f"Viewers would read its thoughts and watches would score them; {instead}"
    )


def weights_error(folder: Path) -> ModelError:
    """The error for a folder without safetensors."""
    files = sorted(path.name for path in folder.glob("*"))
    others = [file for file in files if file.endswith((".bin", ".pt", ".pth", ".gguf", ".onnx"))]
    instead = f"; {others[0]} is of a kind that this worker does not read" if others else ""
    return ModelError(
        f"no weights at {folder}: neither model.safetensors nor model.safetensors.index.json"
        f"{instead}"
    )


def _instead(name: str) -> str:
    plain = _QUANTISED.sub("", name)
    return f": take {plain}" if plain and plain != name else ": take the model it was made from"
