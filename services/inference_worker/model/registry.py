"""Registry of the families: how a model is found by name, and loaded."""

import importlib
from pathlib import Path
from typing import Any

import torch

from services.inference_worker.model import loading
from services.inference_worker.model.card import card_of
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.model.loading import Loading
from services.inference_worker.model.sizes import parameters_in

# Modules are imported when a model of theirs is loaded: transformers takes seconds and memory that
# the built-in model has no use for.
_MODELS = "services.inference_worker.model"
FAMILIES = {
    "SightlineBuiltin": (f"{_MODELS}.builtin", "BuiltinModel"),
    "Qwen2VLForConditionalGeneration": (f"{_MODELS}.published.qwen_vl", "Qwen2VL"),
    "Qwen2_5_VLForConditionalGeneration": (f"{_MODELS}.published.qwen_vl", "Qwen25VL"),
    "Qwen3VLForConditionalGeneration": (f"{_MODELS}.published.qwen_vl", "Qwen3VL"),
    "Qwen3VLMoeForConditionalGeneration": (f"{_MODELS}.published.qwen_vl", "Qwen3VLMoe"),
    "InternVLForConditionalGeneration": (f"{_MODELS}.published.internvl", "InternVL"),
    "SmolVLMForConditionalGeneration": (f"{_MODELS}.published.smolvlm", "SmolVLM"),
}
_OF_TYPE = {  # for folders that name no architecture
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
}
SHIPPED = ("builtin", "goods")
"""Models that come with the worker: of a drawn live shop, and of real clothes and groceries."""
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"


def model_folder(name: str, progress: Loading | None = None) -> Path:
    """Folder of a model: a shipped one, a local one, or one of the hub, downloaded once. Raises
    ModelError for one that is nowhere. progress: is told how far the download is."""
    from services.inference_worker.model.published.checkpoint import find_folder

    return WEIGHTS / name if name in SHIPPED else find_folder(name, progress or Loading())


def load_model(
    name: str,
    dtype: torch.dtype,
    device: torch.device,
    frame_pixels: int,
    progress: Loading | None = None,
) -> StreamingModel:
    """Load a model that is shipped, a local folder in Hugging Face layout, or one of the hub.

    frame_pixels: of a frame whose session has no wish of its own, where the model takes several
    sizes. progress: is told how far it is. Raises ModelError when the model is missing, incomplete,
    or of a family we do not stream.
    """
    progress = progress or Loading()
    folder = model_folder(name, progress)
    module, kind, described = _family(name, folder)
    if name not in SHIPPED:
        parameters = parameters_in(folder)
        progress.admit(name, described, parameters)
        progress.begin(
            loading.LOADING, sum(each.stat().st_size for each in folder.glob("*.safetensors"))
        )
    card = card_of(folder, name, parameters_in(folder), published=kind != "BuiltinModel")
    if kind == "BuiltinModel":
        from services.inference_worker.model.builtin import BuiltinModel

        shipped = BuiltinModel.load(folder, dtype, device)
        shipped.card = card
        return shipped
    published = getattr(importlib.import_module(module), kind)
    try:
        loaded: StreamingModel = published.load(
            folder,
            name=name,
            dtype=dtype,
            device=device,
            frame_pixels=frame_pixels,
            progress=progress,
        )
    except ModelError:
        raise
    except Exception as error:  # a folder may hold anything, and transformers believes it
        raise ModelError(f"cannot load {name}: {type(error).__name__}: {error}") from error
    loaded.card = card
    return loaded


def _family(name: str, folder: Path) -> tuple[str, str, dict[str, Any]]:
    """Module and class that serve a folder, and its config.json."""
    from services.inference_worker.model.published.folder import read_json
    from services.inference_worker.model.published.refusals import (
        architecture_error,
        refuse_other_layouts,
        refuse_quantised,
    )

    refuse_other_layouts(name, folder)
    config = read_json(folder / "config.json")
    architectures = config.get("architectures")
    if architectures is None:
        architectures = [_OF_TYPE.get(str(config.get("model_type")), "")]
    found = architectures[0] if isinstance(architectures, list) and architectures else ""
    found = found if isinstance(found, str) else ""
    family = FAMILIES.get(found)
    if family is None:
        raise architecture_error(name, found, ", ".join(FAMILIES))
    refuse_quantised(name, config)
    return *family, config
