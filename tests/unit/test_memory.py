"""What a model needs against what there is: refused before it is read, with what would fit."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch

from services.common.config import ConfigError
from services.inference_worker.config import WorkerConfig
from services.inference_worker.memory import Room, free_bytes, need_of
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.registry import load_model
from services.inference_worker.model.sizes import gigabytes, parameters_by, parameters_in
from sightline.presets import PRESETS

CPU = torch.device("cpu")
GB = 10**9
QWEN_7B = {  # of the published config.json
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "torch_dtype": "bfloat16",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
    "vision_config": {"patch_size": 14, "spatial_merge_size": 2},
}
PARAMETERS_7B = 8_292_166_656


def room(
    free: float, config: WorkerConfig | None = None, dtype: torch.dtype = torch.bfloat16
) -> Room:
    return Room(config or WorkerConfig(), dtype, CPU, int(free))


def test_a_model_that_fits_is_admitted() -> None:
    room(20 * GB).admit("Qwen/Qwen2.5-VL-7B-Instruct", QWEN_7B, PARAMETERS_7B)


def test_one_that_does_not_is_refused_with_what_would_fit() -> None:
    with pytest.raises(ModelError) as refused:
        room(11.2 * GB).admit("Qwen/Qwen2.5-VL-7B-Instruct", QWEN_7B, PARAMETERS_7B)
    assert refused.value.message == (
        "Qwen/Qwen2.5-VL-7B-Instruct needs 17.8 GB of memory, 11.2 GB are free: "
        "MODEL=medium fits (Qwen/Qwen3-VL-4B-Instruct)"
    )


def test_eight_bits_are_named_only_where_they_are_enough() -> None:
    """Weights are read before they are quantised, so that int8 saves what comes after."""
    config = WorkerConfig(kv_memory_bytes=4 * GB)
    need = need_of(QWEN_7B, PARAMETERS_7B, config, torch.bfloat16, cpu=True)
    assert need.weights == 2 * PARAMETERS_7B
    with pytest.raises(ConfigError, match="WORKER_KV_MEMORY_BYTES=4000000000"):
        room(19 * GB, config).admit("7b", QWEN_7B, PARAMETERS_7B)
    with pytest.raises(ModelError, match="WORKER_QUANTIZATION=int8"):
        room(17.5 * GB).admit("7b", QWEN_7B, PARAMETERS_7B)
    room(17.5 * GB, WorkerConfig(quantization="int8")).admit("7b", QWEN_7B, PARAMETERS_7B)


def test_float32_takes_twice_as_much() -> None:
    with pytest.raises(ModelError, match="MODEL=medium fits"):
        room(25 * GB, dtype=torch.float32).admit("7b", QWEN_7B, PARAMETERS_7B)


def test_presets_need_what_the_worker_says_they_need() -> None:
    large = next(preset for preset in PRESETS if preset.name == "large")
    need = need_of(QWEN_7B, PARAMETERS_7B, WorkerConfig(), torch.bfloat16, cpu=False)
    assert large.parameters == PARAMETERS_7B
    assert large.memory_bytes() == pytest.approx(need.total, rel=0.01)
    sizes = [preset.memory_bytes() for preset in PRESETS]
    assert sizes == sorted(sizes)


def test_a_configuration_that_is_none_is_left_to_whoever_loads_it() -> None:
    room(1).admit("odd", {"hidden_size": "wide"}, 10)


def test_a_folder_of_two_hundred_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A sparse file: its header promises what no machine of ours has."""
    from services.inference_worker.model import loading

    parameters = 100 * GB
    header = {"w": {"dtype": "BF16", "shape": [parameters], "data_offsets": [0, 2 * parameters]}}
    encoded = json.dumps(header).encode()
    (tmp_path / "config.json").write_text(json.dumps(QWEN_7B))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + 2 * parameters)
    assert parameters_in(tmp_path) == parameters
    progress = loading.Loading(admit=room(free_bytes(CPU)).admit)
    with pytest.raises(ModelError, match=r"needs 20\d\.\d GB of memory"):
        load_model(str(tmp_path), torch.bfloat16, CPU, 12_544, progress)


def test_free_memory_is_within_the_machines() -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_bytes(CPU) <= pages


def test_sizes() -> None:
    assert gigabytes(16_123_456_789) == "16.1 GB"
    assert gigabytes(41_000_000) == "41 MB"
    assert parameters_by({"torch_dtype": "bfloat16"}, 100) == 50
    assert parameters_by({"text_config": {"dtype": "float32"}}, 100) == 25
    assert parameters_by({}, 100) == 12
