"""Familiarity: what the shipped model says of its own pictures and of others, and how that is
kept."""

import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from services.common.jpeg import encode_jpeg
from services.inference_worker.kv.look import FAMILIAR
from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.familiarity import FILE, Familiarity
from services.inference_worker.model.registry import WEIGHTS
from tests.unit.tiny import tiny_model
from training.familiarity import as_video, measure
from training.recipe import EVALUATION_SEEDS, load_recipe
from training.rendering import Pixels
from training.strangers import patterns, photographs
from training.world.wide import film

pytestmark = pytest.mark.option

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shipped() -> BuiltinModel:
    return BuiltinModel.load(WEIGHTS / "builtin", torch.float32, CPU)


def strangeness(model: BuiltinModel, pixels: Pixels) -> np.ndarray:
    with torch.inference_mode():
        encoded = model.encode(torch.from_numpy(np.array(pixels))[:, None])
    assert encoded.strangeness is not None
    return encoded.strangeness.numpy()


def test_the_shipped_model_knows_its_own_shop(shipped: BuiltinModel) -> None:
    recipe = load_recipe("builtin")
    found = [
        strangeness(shipped, film(seed, 12, "shop", "held_out", trade=recipe.trade).pixels)
        for seed in range(EVALUATION_SEEDS, EVALUATION_SEEDS + 6)
    ]
    found += [strangeness(shipped, as_video(recipe, seed, 1.5)) for seed in range(2)]
    assert np.concatenate(found).mean() < 0.7
    assert (np.concatenate(found) > FAMILIAR).mean() <= 0.02


def test_patterns_and_noise_are_strange_to_it(shipped: BuiltinModel) -> None:
    for pixels in patterns(frames=4):
        assert (strangeness(shipped, pixels) > FAMILIAR).all()


def test_photographs_are_strange_to_it(shipped: BuiltinModel) -> None:
    """Those that come with what is installed anyway."""
    import matplotlib
    from PIL import Image

    found = sorted(Path(matplotlib.get_data_path()).rglob("*.jpg"))
    assert found, "matplotlib has no photograph"
    for path in found:
        with Image.open(path) as picture:
            whole = picture.convert("RGB")
            half = whole.crop((0, 0, whole.width // 2, whole.height // 2))
            pixels = np.stack([np.asarray(each.resize((128, 128))) for each in (whole, half)])
        assert (strangeness(shipped, pixels) > FAMILIAR).all()


def test_in_half_precision_it_says_the_same(shipped: BuiltinModel) -> None:
    half = BuiltinModel.load(WEIGHTS / "builtin", torch.bfloat16, CPU)
    pixels = film(EVALUATION_SEEDS, 6, "shop", trade=load_recipe("builtin").trade).pixels
    np.testing.assert_allclose(strangeness(half, pixels), strangeness(shipped, pixels), rtol=0.2)


def test_it_is_kept_with_the_weights_that_it_was_measured_by(tmp_path: Path) -> None:
    model: BuiltinModel = tiny_model()
    model.save(tmp_path)
    rng = torch.Generator().manual_seed(1)
    judge = Familiarity(torch.randn(20, generator=rng) / 10, -0.5)
    judge.save(tmp_path)
    read = Familiarity.load(tmp_path, CPU)
    assert read is not None
    maps = [torch.randn(3, channels, 5, 5, generator=rng) for channels in (4, 6)]
    torch.testing.assert_close(read(maps), judge(maps))
    assert read(maps).shape == (3,)
    assert Familiarity.load(tmp_path / "elsewhere", CPU) is None
    other: BuiltinModel = tiny_model(seed=1)
    other.save(tmp_path)
    assert Familiarity.load(tmp_path, CPU) is None, "of weights that were replaced"
    (tmp_path / FILE).write_bytes(b"nothing")
    assert Familiarity.load(tmp_path, CPU) is None
    assert BuiltinModel.load(tmp_path, torch.float32, CPU).familiarity is None


@pytest.fixture
def small(tmp_path: Path) -> BuiltinModel:
    shutil.copytree(WEIGHTS / "builtin", tmp_path / "model")
    (tmp_path / "model" / FILE).unlink(missing_ok=True)
    return BuiltinModel.load(tmp_path / "model", torch.float32, CPU)


def test_it_is_measured_on_the_recipes_own_clips_and_photographs(
    small: BuiltinModel, tmp_path: Path
) -> None:
    recipe = replace(load_recipe("builtin"), familiar_clips=8)
    with pytest.raises(ValueError, match="no photographs"):
        measure(small, recipe, tmp_path)
    rng = np.random.default_rng(1)
    (tmp_path / "hands").mkdir()
    for number in range(30):  # as grainy as photographs
        coarse = rng.integers(0, 256, (12, 12, 3)).repeat(12, 0).repeat(12, 1)
        grain = coarse + rng.normal(0, 25, coarse.shape)
        frame = av.VideoFrame.from_ndarray(np.clip(grain, 0, 255).astype(np.uint8), "rgb24")
        picture = encode_jpeg(frame.reformat(format="yuvj420p"))
        (tmp_path / "hands" / f"{number}.jpg").write_bytes(picture)
    learnt, kept = photographs(tmp_path)
    assert learnt
    assert kept
    assert not set(learnt) & set(kept)
    told: list[None] = []
    small.familiarity = measure(small, recipe, tmp_path, lambda: told.append(None))
    assert len(told) == 9
    own = film(EVALUATION_SEEDS, 6, "shop", trade=recipe.trade).pixels
    noise = rng.integers(0, 256, own.shape, dtype=np.uint8)
    assert strangeness(small, own).max() < strangeness(small, noise).min()
