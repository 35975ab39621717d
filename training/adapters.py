"""LoRA on published models (Hu et al., 2021; peft), and folders with the result merged in."""

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.published.checkpoint import Checkpoint
from services.inference_worker.model.published.hub import WANTED
from services.inference_worker.model.published.model import PublishedModel

_NAME = "default"  # peft's for the only adapter of a model


class Adapters:
    """Low-rank additions to every matrix of a model's decoder layers, and of its vision tower if
    asked; nothing else of it trains.

    `folder`: where the model was loaded from. The additions are float32, whatever the model is:
    bfloat16 would lose most steps. Drawn by torch's generator; they begin as zero. Raises
    ModelError where peft is not installed.
    """

    def __init__(self, model: PublishedModel, folder: Path, rank: int, tower: bool) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ModelError(
                "tuning a published model needs peft: "
                f"pip install -r training/requirements.txt ({error})"
            ) from error
        if model.decoder.config.experts is not None:
            raise ModelError(
                "mixtures of experts are not tuned: take a dense model of their family"
            )
        self.model = model
        self._checkpoint = Checkpoint(folder)
        self._places = model.places(self._checkpoint)  # peft changes the names of parameters
        self._folder = folder
        inside = ("decoder.layers.", "tower.") if tower else ("decoder.layers.",)
        matrices = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.startswith(inside)
        ]
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=matrices)
        inject_adapter_in_model(config, model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    @torch.no_grad()
    def write(self, output: Path) -> None:
        """A folder like the one the model came from, with the additions in its matrices: the same
        files, tensors and types. One file of weights is in memory at a time."""
        output.mkdir(parents=True)
        for pattern in WANTED:
            for path in self._folder.glob(pattern):
                if not path.name.endswith(".safetensors"):
                    shutil.copyfile(path, output / path.name)
        for file, names in self._checkpoint.shards.items():
            with safe_open(file, "pt") as shard:
                tensors = {name: self._merged(name, shard.get_tensor(name)) for name in names}
            save_file(tensors, output / file.name, metadata={"format": "pt"})

    def _merged(self, name: str, tensor: Tensor) -> Tensor:
        place = self._places.get(name)
        if place is None:  # a copy of tied embeddings
            return tensor
        module, _, leaf = place.parameter.rpartition(".")
        added = getattr(self.model.get_submodule(module), "get_delta_weight", None)
        if added is None or leaf != "weight":
            return tensor
        rows = added(_NAME)[place.row : place.row + len(tensor)]
        merged: Tensor = tensor.float() + rows.float().cpu()
        return merged.to(tensor.dtype).contiguous()
