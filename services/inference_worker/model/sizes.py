"""Sizes: of models, by what their files say, and for people."""

import json
import math
from pathlib import Path
from typing import Any

_ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_HEADER_BYTES = 100 << 20  # no safetensors header is longer


def gigabytes(size: float) -> str:
    """ "16.1 GB"; below a tenth of one in megabytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def parameters_by(described: dict[str, Any], weight_bytes: int) -> int:
    """Numbers in so many bytes of weights, by the dtype that a config.json names; where it names
    none, as few as there may be."""
    text = described.get("text_config")
    for place in (described, text if isinstance(text, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            if item_bytes := _ITEM_BYTES.get(str(place.get(key))):
                return weight_bytes // item_bytes
    return weight_bytes // max(_ITEM_BYTES.values())


def parameters_in(folder: Path) -> int:
    """Numbers in a folder's safetensors, by their headers. Files that have none count for nothing:
    whoever loads them says what is wrong."""
    total = 0
    for path in folder.glob("*.safetensors"):
        try:
            with path.open("rb") as file:
                length = min(int.from_bytes(file.read(8), "little"), _HEADER_BYTES)
                header = json.loads(file.read(length))
            tensors = [each for name, each in header.items() if name != "__metadata__"]
            total += sum(math.prod(each["shape"]) for each in tensors)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return total
