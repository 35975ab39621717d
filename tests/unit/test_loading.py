"""Checkpoints that cannot be served are refused, each with what is wrong with it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.image_transforms import normalize, rescale

from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.family import StreamingModel
from services.inference_worker.model.published.folder import preprocessor
from services.inference_worker.model.published.model import normalised
from services.inference_worker.model.registry import load_model
from tests.checkpoints import FAMILIES, FAMILY, changed, load, write_checkpoint
from tests.load_peak import TENS_OF_MEGABYTES, load_peak
from tests.releases import ANSWERING, write_release


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint("qwen2_5_vl", tmp_path / "model", shards=2)


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


def test_experts_are_read_as_published_and_as_saved_today(tmp_path: Path) -> None:
    """Published, an expert's matrices lie there transposed."""
    saved = write_checkpoint("qwen3_vl_moe", tmp_path / "saved")
    published = write_checkpoint("qwen3_vl_moe", tmp_path / "published")
    tensors = load_file(published / "model.safetensors")
    experts = [name for name in tensors if ".experts." in name]
    assert experts
    for name in experts:
        tensors[name] = tensors[name].transpose(1, 2).contiguous()
    save_file(tensors, published / "model.safetensors", {"format": "pt"})
    one, other = load(saved), load(published)
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(published)
    layers = theirs.model.language_model.layers
    for n in (0, 2):
        for found in (one, other):
            ours = found.decoder.layers[n].experts
            assert torch.equal(ours.gate_up, layers[n].mlp.experts.gate_up_proj)
            assert torch.equal(ours.down, layers[n].mlp.experts.down_proj)
    tensors[experts[0]] = tensors[experts[0]][:, :-1]
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        published / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ModelError, match=r"experts.* has shape"):
        load(published)


@pytest.mark.parametrize(
    "said",
    [{"num_experts_per_tok": 7}, {"num_local_experts": 0}, {"moe_intermediate_size": None}],
    ids=str,
)
def test_experts_that_no_model_has_are_refused(said: dict[str, Any], tmp_path: Path) -> None:
    folder = write_checkpoint("qwen3_vl_moe", tmp_path)
    changed(folder / "config.json", lambda config: config["text_config"].update(said))
    with pytest.raises(ModelError):
        load(folder)


def test_loading_takes_the_weights_and_one_shard(tmp_path: Path) -> None:
    """Host memory at its peak, parts of mapped files among it, while float32 becomes bfloat16.
    Where the weights go to a device, the shard remains (tests/gpu). It is mapped and read piece by
    piece."""
    folder = write_checkpoint("qwen2_5_vl", tmp_path / "model", shards=4, **TENS_OF_MEGABYTES)
    shards = [shard.stat().st_size for shard in folder.glob("*.safetensors")]
    assert sum(shards) > 2 * max(shards) > 50e6
    peak, weights = load_peak(folder, "cpu")
    assert 0.4 * sum(shards) < weights < peak < weights + 1.2 * max(shards)


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """The weights again, in one file."""
    tensors = {
        name: tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    for file in folder.glob("model*"):
        file.unlink()
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_weights_of_another_kind_are_named(folder: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    rewritten(folder, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    with pytest.raises(ModelError, match=f"{name} is quantised: int8"):
        load(folder)
    rewritten(
        folder,
        lambda tensors: tensors.update(
            {f"{name.removesuffix('weight')}qweight": tensors.pop(name)}
        ),
    )
    with pytest.raises(ModelError, match="its tensors are quantised"):
        load(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no weights at .*; pytorch_model\.bin is of a kind"):
        load(folder)


def same(one: StreamingModel, other: StreamingModel) -> bool:
    assert isinstance(one, torch.nn.Module)
    assert isinstance(other, torch.nn.Module)
    state, others = one.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(torch.equal(state[n], others[n]) for n in state)


def test_strays_of_old_versions_are_left_out(folder: Path) -> None:
    """Tables that transformers once saved, and computes."""
    before = load(folder)
    strays = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "visual.rotary_pos_emb.inv_freq": torch.ones(8),
        "visual.embeddings.position_ids": torch.ones(1, 8),
    }
    rewritten(folder, lambda tensors: tensors.update(strays))
    assert same(load(folder), before)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_tensors_are_found_by_their_old_and_new_names(family: str, tmp_path: Path) -> None:
    """As released, as a trainer writes them that skips save_pretrained, and as in the code that
    Qwen2-VL came with."""
    folder = write_checkpoint(family, tmp_path)
    before = load(folder)
    layouts = (
        ("model.language_model.", "model.visual.", "lm_head."),
        ("model.", "visual.", "lm_head."),
        ("language_model.model.", "visual.", "language_model.lm_head."),
    )
    known = ("model.language_model.", "model.visual.", "visual.", "lm_head.", "model.")

    def renamed(words: str, tower: str, head: str) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            for name in list(tensors):
                old = next(prefix for prefix in known if name.startswith(prefix))
                new = head if old == "lm_head." else tower if "visual" in old else words
                tensors[new + name.removeprefix(old)] = tensors.pop(name)

        rewritten(folder, change)

    for names in layouts:
        renamed(*names)
        assert same(load(folder), before)
        known = (*names, *known)


def test_what_a_configuration_ties_is_untied_where_the_weights_differ(folder: Path) -> None:
    """As in transformers: the last matrix that is there counts, and what is the same is one."""
    untied = load(folder)
    changed(folder / "config.json", lambda config: config.update(tie_word_embeddings=True))
    assert same(load(folder), untied)
    rewritten(
        folder,
        lambda tensors: tensors.update(
            {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
        ),
    )
    tied = load(folder)
    assert tied.decoder.head is None
    rewritten(folder, lambda tensors: tensors.__delitem__("model.embed_tokens.weight"))
    assert same(load(folder), tied)
    changed(folder / "config.json", lambda config: config.update(tie_word_embeddings=False))
    with pytest.raises(ModelError, match=r"missing .*embed_tokens"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_float_are_read(folder: Path, dtype: torch.dtype) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})

    before = load(folder)
    rewritten(folder, change)
    assert isinstance(before, torch.nn.Module)
    ours = load(folder)
    assert isinstance(ours, torch.nn.Module)
    for (name, value), (_, expected) in zip(
        ours.named_parameters(), before.named_parameters(), strict=True
    ):
        rounded = expected if name == "decoder.omega" else expected.to(dtype).float()
        assert torch.equal(value, rounded)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "said",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_normalize": False, "do_rescale": False},
        {"image_mean": None, "image_std": None},
        {"rescale_factor": None},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0]},
        {"image_mean": 0.25, "image_std": 0.5},
    ],
    ids=str,
)
def test_pictures_are_prepared_as_in_transformers(
    family: str, said: dict[str, Any], tmp_path: Path
) -> None:
    """None: the key is absent, and the family's own colours or 1/255 count."""
    folder = write_checkpoint(family, tmp_path, weights=False)

    def change(content: dict[str, Any]) -> None:
        content.update(said)
        for key in [key for key in said if said[key] is None]:
            del content[key]

    for file in folder.glob("*preprocessor_config.json"):
        changed(file, change)
    kind = FAMILY[family]
    mean, std = said.get("image_mean") or kind.mean, said.get("image_std") or kind.std
    frames = torch.randint(0, 256, (2, 6, 4, 3), dtype=torch.uint8)
    expected = frames.numpy().astype(np.float32)
    if said.get("do_rescale", True):
        expected = rescale(expected, said.get("rescale_factor") or 1 / 255)
    if said.get("do_normalize", True):
        many = [mean] * 3 if isinstance(mean, float) else list(mean)
        wide = [std] * 3 if isinstance(std, float) else list(std)
        parts = [
            normalize(each, many, wide, input_data_format="channels_last") for each in expected
        ]
        expected = np.stack(parts)
    known = preprocessor(folder, (kind.mean, kind.std))
    found = normalised(frames, known, torch.float32)
    assert torch.allclose(found.movedim(-3, -1), torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std"),
        ({"image_mean": [0.5, 0.5]}, "image_mean has 2 numbers"),
        ({"image_mean": "grey"}, "image_mean is 'grey'"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": [1]}, "rescale_factor"),
    ],
)
def test_pictures_that_cannot_be_prepared_are_refused(
    folder: Path, said: dict[str, Any], reason: str
) -> None:
    changed(folder / "video_preprocessor_config.json", lambda content: content.update(said))
    with pytest.raises(ModelError, match=re.escape(reason)):
        load(folder)


@pytest.mark.parametrize("number", [0, 4, 13], ids=lambda number: str(ANSWERING[number]))
def test_a_tokenizer_of_vocabulary_and_merges_is_enough(number: int, tmp_path: Path) -> None:
    """The slow tokenizer's files, which some tuned folders hold alone."""
    words = "The cup of 2026 isn't red <|im_end|>"
    folder = write_release(ANSWERING[number], tmp_path)
    before = load(folder)
    (folder / "tokenizer.json").unlink()
    after = load(folder)
    assert after.sink_tokens() == before.sink_tokens()
    assert after.question_tokens([], words) == before.question_tokens([], words)
    for file in ("vocab.json", "merges.txt"):
        (folder / file).unlink()
        with pytest.raises(ModelError, match="tokenizer at"):
            load(folder)


def test_smolvlm2_needs_its_tokenizer_file(tmp_path: Path) -> None:
    """Its vocabulary and merges do not say that digits stand alone."""
    folder = write_release(ANSWERING[-1], tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        load(folder)


def test_a_tokenizer_larger_than_its_model_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    last = max(token["id"] for token in tokenizer["added_tokens"])
    extra = {**tokenizer["added_tokens"][-1], "id": last + 1, "content": "<extra>"}
    changed(folder / "tokenizer.json", lambda content: content["added_tokens"].append(extra))
    with pytest.raises(ModelError, match=f"the tokenizer has token {last + 1}, the model"):
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
