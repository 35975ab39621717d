"""Checkpoints that cannot be served are refused, each with what is wrong with it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.inference_worker.errors import ModelError
from services.inference_worker.model.family import StreamingModel, load_model
from tests.checkpoints import FAMILIES, write_checkpoint
from tests.load_peak import TENS_OF_MEGABYTES, load_peak


def load(folder: Path) -> StreamingModel:
    return load_model(str(folder), torch.float32, torch.device("cpu"), 12_544)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint("qwen2_5_vl", tmp_path / "model", shards=2)


def changed(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_make_no_difference(family: str, tmp_path: Path) -> None:
    one, three = (
        load(write_checkpoint(family, tmp_path / str(shards), shards=shards)) for shards in (1, 3)
    )
    assert isinstance(one, torch.nn.Module)
    assert isinstance(three, torch.nn.Module)
    assert not any(value.is_meta for value in [*one.parameters(), *one.buffers()])
    states = one.state_dict(), three.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_takes_the_weights_and_one_shard(tmp_path: Path) -> None:
    """Host memory at its peak, pages of mapped files among it, while float32 becomes bfloat16.
    Where the weights go to a device, the shard remains (tests/gpu). Measured: 0.7 of the largest;
    it is mapped and read piece by piece."""
    small = write_checkpoint("qwen2_5_vl", tmp_path / "small")
    folder = write_checkpoint("qwen2_5_vl", tmp_path / "model", shards=4, **TENS_OF_MEGABYTES)
    shards = [shard.stat().st_size for shard in folder.glob("*.safetensors")]
    assert sum(shards) > 2 * max(shards) > 50e6
    peak, weights = load_peak(small, folder, "cpu")
    assert 0.4 * sum(shards) < weights < peak < weights + 1.2 * max(shards)


def test_another_architecture_is_named_with_what_is_supported(folder: Path) -> None:
    changed(folder / "config.json", lambda config: config.update(architectures=["Qwen3_5"]))
    with pytest.raises(ModelError, match=r"Qwen3_5; this worker streams .*Qwen2_5_VL.*SmolVLM"):
        load(folder)


def test_a_missing_folder_and_a_file_are_no_model(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing"), "./nothing", str(tmp_path)):
        with pytest.raises(ModelError, match="no model at"):
            load_model(name, torch.float32, torch.device("cpu"), 12_544)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    changed(
        folder / "model.safetensors.index.json",
        lambda index: index["weight_map"].pop(name) and None,
    )
    with pytest.raises(ModelError, match=f"missing in the checkpoint: {name}"):
        load(folder)


def test_a_tensor_without_use_is_named(folder: Path) -> None:
    shard = next(folder.glob("*.safetensors"))
    save_file(load_file(shard) | {"adapter.weight": torch.zeros(2)}, shard, {"format": "pt"})
    changed(
        folder / "model.safetensors.index.json",
        lambda index: index["weight_map"].update({"adapter.weight": shard.name}),
    )
    with pytest.raises(ModelError, match=r"no use for: adapter\.weight"):
        load(folder)


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    changed(
        folder / "config.json", lambda config: config["text_config"].update(intermediate_size=128)
    )
    with pytest.raises(ModelError, match="does not fit the configuration"):
        load(folder)


@pytest.mark.parametrize("size", [0, 7, 900])
def test_a_cut_shard_is_named(folder: Path, size: int) -> None:
    shard = max(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:size])
    with pytest.raises(ModelError, match=shard.name):
        load(folder)


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.jinja", "config.json"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelError, match=r"tokenizer|chat template|config\.json"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_act": "gelu"}, "SiLU"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, "yarn"),
    ],
)
def test_what_the_decoder_has_not_is_refused(
    folder: Path, change: dict[str, Any], reason: str
) -> None:
    changed(folder / "config.json", lambda config: config["text_config"].update(change))
    with pytest.raises(ModelError, match=reason):
        load(folder)
