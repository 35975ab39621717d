"""The tower for photographs: the published trunk to the last bit, and a model that serves it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.lite0 import STAGES, STEM, WIDE, Lite0
from services.inference_worker.model.packed import pack
from tests.unit.tiny import Bench, random_picture, reference_logits, tiny_model
from training.batches import new_model
from training.lite0 import read_trunk, renamed
from training.recipe import load_recipe

Tensors = dict[str, Tensor]


def published(seed: int = 1) -> Tensors:
    """Random tensors by the names and shapes of the published file."""
    torch.manual_seed(seed)
    found: Tensors = {}

    def convolution(name: str, outputs: int, inputs: int, kernel: int) -> None:
        spread = (inputs * kernel * kernel) ** -0.5
        found[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) * 1.5 * spread

    def norm(name: str, channels: int) -> None:
        found[f"{name}.weight"] = torch.rand(channels) + 0.5
        found[f"{name}.bias"] = torch.randn(channels) * 0.2
        found[f"{name}.running_mean"] = torch.randn(channels) * 0.1
        found[f"{name}.running_var"] = torch.rand(channels) + 0.5
        found[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("_conv_stem", STEM, 3, 3)
    norm("_bn0", STEM)
    number, inputs = 0, STEM
    for widening, kernel, _, outputs, count in STAGES:
        for _ in range(count):
            block, wide = f"_blocks.{number}", inputs * widening
            if widening > 1:
                convolution(f"{block}._expand_conv", wide, inputs, 1)
                norm(f"{block}._bn0", wide)
            convolution(f"{block}._depthwise_conv", wide, 1, kernel)
            norm(f"{block}._bn1", wide)
            convolution(f"{block}._project_conv", outputs, wide, 1)
            norm(f"{block}._bn2", outputs)
            number, inputs = number + 1, outputs
    convolution("_conv_head", WIDE, inputs, 1)
    norm("_bn1", WIDE)
    found["_fc.weight"], found["_fc.bias"] = torch.randn(1000, 1280), torch.randn(1000)
    return found


def reference(theirs: Tensors, x: Tensor) -> tuple[Tensor, ...]:
    """The network as it is described, with TensorFlow's padding worked out for every size."""

    def convolve(name: str, x: Tensor, stride: int, groups: int = 1) -> Tensor:
        weight = theirs[f"{name}.weight"]
        kernel, side = weight.shape[-1], x.shape[-1]
        missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        less, more = missing // 2, missing - missing // 2
        padded = functional.pad(x, (less, more, less, more))
        return functional.conv2d(padded, weight, None, stride, groups=groups)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            theirs[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    x = functional.relu6(norm("_bn0", convolve("_conv_stem", x, 2)))
    kept, number = list[Tensor](), 0
    for stage, (widening, _, stride, _, count) in enumerate(STAGES):
        for index in range(count):
            block, before = f"_blocks.{number}", x
            if widening > 1:
                x = functional.relu6(norm(f"{block}._bn0", convolve(f"{block}._expand_conv", x, 1)))
            step = 1 if index else stride
            x = convolve(f"{block}._depthwise_conv", x, step, x.shape[1])
            x = functional.relu6(norm(f"{block}._bn1", x))
            x = norm(f"{block}._bn2", convolve(f"{block}._project_conv", x, 1))
            x = x + before if x.shape == before.shape else x
            number += 1
        kept += [x] if stage in (2, 4, 6) else []
    return tuple(kept)


@pytest.mark.parametrize("side", [64, 96])
def test_the_trunk_is_the_published_one(side: int, tmp_path: Path) -> None:
    theirs = published()
    torch.save(theirs, tmp_path / "lite0.pth")
    trunk = read_trunk(tmp_path / "lite0.pth").eval()
    pixels = torch.rand(2, 3, side, side) * 2 - 1
    with torch.inference_mode():
        for ours, right in zip(trunk(pixels), reference(theirs, pixels), strict=True):
            assert ours.shape[-1] in (side // 8, side // 16, side // 32)
            torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-4)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"_conv_stem.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(RuntimeError, match="Missing key"):
        read_trunk(tmp_path / "other.pth")


def photographic(side: int = 64) -> BuiltinModel:
    """A tiny model behind the tower."""
    small: BuiltinModel = tiny_model()
    config = replace(small.config, tower="lite0", frame_size=side)
    torch.manual_seed(3)
    model = BuiltinModel(config, small.tokenizer, "tiny")
    model.decoder.load_state_dict(small.decoder.state_dict())
    assert isinstance(model.encoder.trunk, Lite0)
    model.encoder.trunk.load_state_dict(renamed(published()))
    return model.prepare(torch.float32, torch.device("cpu"))


def test_the_engine_answers_as_one_dense_forward() -> None:
    model = photographic()
    bench, rng = Bench(model), np.random.default_rng(4)
    bench.open("s")
    pictures = [random_picture(rng) for _ in range(6)]
    for number, picture in enumerate(pictures):
        bench.push("s", picture, number)
        bench.run()
    tokens = [1, 2, 3]
    bench.ask("s", tokens)
    bench.run()
    window = model.spec.window_segments
    right = reference_logits(model, pictures, window, tokens)[-1]
    torch.testing.assert_close(bench.runner.logits[-1], right, rtol=1e-3, atol=1e-3)


def test_a_model_is_saved_loaded_and_packed_without_a_change(tmp_path: Path) -> None:
    model = photographic()
    model.save(tmp_path)
    loaded = BuiltinModel.load(tmp_path, torch.float32, torch.device("cpu"))
    assert loaded.config == model.config
    frames = torch.randint(0, 256, (2, 1, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        tokens = loaded.encode(frames).tokens
        pack(loaded)
        torch.testing.assert_close(loaded.encode(frames).tokens, tokens, rtol=1e-3, atol=1e-3)
    assert not [name for name, _ in loaded.encoder.named_buffers() if "running" in name]


@pytest.mark.parametrize(("tower", "side"), [("lite0", 100), ("heavy", 64)])
def test_no_tower_is_guessed(tower: str, side: int) -> None:
    small: BuiltinModel = tiny_model()
    with pytest.raises(ModelError, match="no tower"):
        BuiltinModel(replace(small.config, tower=tower, frame_size=side), small.tokenizer)


def test_the_recipe_begins_with_the_decoder_of_the_drawn_shop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(published(), tmp_path / "lite0.pth")
    monkeypatch.setenv("SIGHTLINE_TRUNK", str(tmp_path / "lite0.pth"))
    recipe = load_recipe("goods")
    model, drawn = new_model(recipe), new_model(load_recipe("builtin"))
    assert (model.config.tower, model.config.frame_size) == ("lite0", 192)
    assert model.tokenizer.token_to_id("yoghurt") is not None
    known = len(drawn.decoder.embedding.weight)
    assert model.config.decoder.vocab_size > known
    stem = dict(model.encoder.named_parameters())["trunk.stem.convolution.weight"]
    torch.testing.assert_close(stem, published()["_conv_stem.weight"])
    monkeypatch.delenv("SIGHTLINE_TRUNK")
    monkeypatch.setattr("training.lite0.PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match="pip install"):
        new_model(recipe)
