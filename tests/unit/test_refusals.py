"""Folders that no worker can serve are named for what they are, with what to take instead."""

import json
import re
from pathlib import Path

import pytest

from services.inference_worker.model.errors import ModelError
from tests.checkpoints import changed, load, write_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint("qwen2_5_vl", tmp_path / "model", shards=2)


def test_another_architecture_is_named_with_what_is_supported(folder: Path) -> None:
    changed(folder / "config.json", lambda config: config.update(architectures=["Qwen3_5"]))
    with pytest.raises(ModelError, match=r"Qwen3_5, .*this worker streams .*Qwen2_5_VL.*SmolVLM"):
        load(folder)


@pytest.mark.parametrize(
    ("architecture", "what"),
    [
        ("Qwen3_5ForConditionalGeneration", "recurrent in part"),
        ("Qwen3_5MoeForConditionalGeneration", "recurrent in part"),
        ("Qwen3OmniMoeForConditionalGeneration", "a mixture of experts"),
        ("Qwen3_6ForConditionalGeneration", "recurrent in part"),
        ("NemotronH_Nano_VL_V2", "recurrent in part"),
        ("Lfm3VlForConditionalGeneration", "recurrent in part"),
        ("MiniCPMV4_7ForConditionalGeneration", "recurrent in part"),
        ("Lfm2VlForConditionalGeneration", "recurrent in part"),
        ("MiniCPMV4_6ForConditionalGeneration", "recurrent in part"),
        ("Qwen3ForCausalLM", "sees no pictures"),
        ("GPT2LMHeadModel", "sees no pictures"),
        ("Idefics3ForConditionalGeneration", "SmolVLM2 is its successor"),
        ("InternVLChatModel", "is InternVLChatModel.*take the release.*-hf"),
        ("LlavaOnevisionForConditionalGeneration", "is Llava"),
    ],
)
def test_an_architecture_is_refused_for_what_it_is(
    tmp_path: Path, architecture: str, what: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    with pytest.raises(ModelError, match=f"{what}.*; this worker streams .*Qwen3VLFor"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "relayed"),
    [
        ("Qwen3_5ForConditionalGeneration", True),
        ("Lfm2VlForConditionalGeneration", True),
        ("Qwen3OmniMoeForConditionalGeneration", True),
        ("LlavaOnevisionForConditionalGeneration", True),
        ("Qwen3ForCausalLM", False),
    ],
)
def test_a_server_that_runs_it_is_named_for_what_sees(
    tmp_path: Path, architecture: str, relayed: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    with pytest.raises(ModelError) as caught:
        load(tmp_path)
    assert ("can be relayed: WORKER_MODEL=openai:URL#MODEL" in caught.value.message) == relayed


def test_an_architecture_is_found_by_its_type(folder: Path) -> None:
    """As in transformers, which needs no more."""
    changed(folder / "config.json", lambda config: config.pop("architectures") and None)
    load(folder)
    changed(folder / "config.json", lambda config: config.pop("model_type") and None)
    with pytest.raises(ModelError, match="names no architecture"):
        load(folder)


QUANTISED = {
    "Qwen2.5-VL-7B-Instruct-AWQ": {"quant_method": "awq", "bits": 4},
    "Qwen3-VL-4B-Instruct-FP8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "Qwen2-VL-7B-Instruct-GPTQ-Int4": {"quant_method": "gptq", "bits": 4},
    "Qwen2.5-VL-7B-Instruct-unsloth-bnb-4bit": {"quant_method": "bitsandbytes"},
    "SmolVLM2-2.2B-Instruct.w4a16": {"quant_method": "compressed-tensors"},
}


@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_model_is_named_with_what_to_take(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = QUANTISED[name]["quant_method"]
    monkeypatch.chdir(folder.parent)
    changed(folder / "config.json", lambda c: c.update(quantization_config=QUANTISED[name]))
    folder.rename(name)
    plain = re.split(r"-(?:AWQ|FP8|GPTQ|unsloth)|\.w4", name)[0]
    with pytest.raises(ModelError, match=rf"\({method}\).*: take {plain}; WORKER_QUANTIZATION"):
        load(Path(name))


def test_mlx_gguf_and_adapters_are_named(folder: Path, tmp_path: Path) -> None:
    changed(folder / "config.json", lambda config: config.update(quantization={"bits": 4}))
    with pytest.raises(ModelError, match=r"quantised \(MLX\)"):
        load(folder)
    adapter = {"base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ModelError, match=r"adapter for Qwen/Qwen2\.5-VL-3B.*merge_and_unload"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="adapter for"):
        load(folder)
    gguf = tmp_path / "gguf"
    gguf.mkdir()
    (gguf / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    for name in (gguf, gguf / "model-Q4_K_M.gguf"):
        with pytest.raises(ModelError, match="GGUF"):
            load(name)


def test_a_fault_is_one_line_of_bounded_length(folder: Path) -> None:
    """Libraries quote what they do not understand, over many lines."""
    changed(folder / "config.json", lambda config: config.update(text_config="y\n" * 100_000))
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 700


def test_a_template_that_fails_is_named(folder: Path) -> None:
    for template in ("{{ 1 / 0 }}", "{% if %}", "{{ raise_exception('roles must alternate') }}"):
        (folder / "chat_template.jinja").write_text(template)
        with pytest.raises(ModelError, match="the chat template cannot be used"):
            load(folder)
