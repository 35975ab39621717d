"""Models by a short name: what `make run MODEL=small` means, and what each takes."""

from dataclasses import dataclass

__all__ = ["PRESETS", "Preset", "model_of"]

_LIBRARIES_BYTES = 512 << 20  # what a worker takes beside weights and keys


@dataclass(frozen=True, slots=True)
class Preset:
    """A model by its short name. `parameters` as published, `stored_bytes` of each in its files;
    `kv_elements`: keys and values of one session with 30 pictures of the default size, and its
    questions."""

    name: str
    model: str
    parameters: int
    stored_bytes: int
    kv_elements: int
    licence: str

    @property
    def download_bytes(self) -> int:
        """0 for what comes with Sightline."""
        return self.parameters * self.stored_bytes

    def memory_bytes(self, element_bytes: int = 2) -> int:
        """Memory that it takes with one session; `element_bytes`: 2 in bfloat16, 4 in float32."""
        return (self.parameters + self.kv_elements) * element_bytes + _LIBRARIES_BYTES


PRESETS = (
    Preset("builtin", "builtin", 5_300_000, 0, 14_000_000, "Apache-2.0"),
    Preset("goods", "goods", 9_470_000, 0, 14_000_000, "Apache-2.0"),
    Preset(
        "small",
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        507_482_304,
        4,
        123_000_000,
        "Apache-2.0",
    ),
    Preset("medium", "Qwen/Qwen3-VL-4B-Instruct", 4_437_815_808, 2, 736_000_000, "Apache-2.0"),
    Preset("large", "Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656, 2, 338_000_000, "Apache-2.0"),
    Preset("xlarge", "Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696, 2, 736_000_000, "Apache-2.0"),
)
"""The smallest first."""


def model_of(name: str) -> str:
    """The model that a preset stands for; any other name stands for itself."""
    return next((preset.model for preset in PRESETS if preset.name == name), name)
