"""Real goods: cut out of photographs, kept apart by split, and put into the shop."""

import csv
import dataclasses
import io
import itertools
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from rich.console import Console

from services.common.jpeg import encode_jpeg
from services.inference_worker.model.builtin import BuiltinModel
from tests.unit.test_lite0 import published
from training import trunk
from training.batches import new_model
from training.lite0 import read_trunk
from training.pools import MAPS
from training.recipe import TRAIN_SEEDS, Mix, Stage, load_recipe
from training.stories import MIDDLE, goods_world
from training.train import Trainer
from training.world import asking, goods, real_hands, wide
from training.world.catalogue import Split
from training.world.cutting import cut_out
from training.world.goods import REAL_NOUNS, SIDE, WHOLE, photographs, write_goods
from training.world.shop import Trade
from training.worlds import find_world

pytestmark = pytest.mark.option

SENDERS = range(2, 7)  # one of them is examined
PHOTOGRAPHS = "cd"  # of each thing and sender: of those examined one measures doubt


def photograph(seed: int, height: int = 150, width: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """A shaded thing before a floor with a grain, and where it is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    there = (np.abs(x / 0.55) ** 3 + np.abs(y / 0.7) ** 3) < 1
    floor = np.array([188, 182, 170]) + 18 * np.sin(7 * x)[..., None]
    floor = floor + rng.normal(0, 4, (height, width, 3))
    thing = np.array([40, 80, 150]) * (1 + 0.3 * y[..., None]) + rng.normal(0, 5, floor.shape)
    picture = np.where(there[..., None], thing, floor)
    return np.clip(picture, 0, 255).astype(np.uint8), there


def test_a_thing_is_cut_out_of_its_floor() -> None:
    picture, there = photograph(1)
    alpha = cut_out(picture)
    assert alpha is not None
    assert alpha.shape == there.shape
    found = alpha > 0.5
    assert (found & there).sum() / (found | there).sum() > 0.9


@pytest.mark.parametrize("kind", ["plain", "noise", "split"])
def test_what_shows_no_thing_is_given_up(kind: str) -> None:
    rng = np.random.default_rng(2)
    picture = np.full((120, 160, 3), 128, np.uint8)
    if kind == "noise":
        picture = rng.integers(0, 256, picture.shape, dtype=np.uint8)
    if kind == "split":  # half of it is one thing, and half another
        picture[:, 80:] = 20
    assert cut_out(picture) is None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs as they are published: clothes with their senders, groceries in a list."""
    clothes = tmp_path / "photos" / "clothing"
    (clothes / "images").mkdir(parents=True)
    with (clothes / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "kids", "sender"])
        for sender in SENDERS:
            for label, number in itertools.product(("Dress", "T-Shirt", "Not sure"), PHOTOGRAPHS):
                name = f"{sender}-{label}-{number}.jpg"
                save(clothes / "images" / name, photograph(sender)[0])
                rows.writerow([name, label, "False", str(sender)])
    grocery = tmp_path / "photos" / "grocery"
    grocery.mkdir()
    header = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),,\n"
    kinds = "Royal-Gala,0,Apple,0,a,b\nOld-Tram,1,Tram,1,a,b\n"
    (grocery / "classes.csv").write_text(header + kinds)
    for name in ("train", "val", "test"):
        save(grocery / f"{name}.jpg", np.random.default_rng(3).integers(0, 256, (90, 90, 3)))
        (grocery / f"{name}.txt").write_text(f"{name}.jpg, 0, 0\n{name}.jpg, 1, 1\n")
    monkeypatch.setenv("SIGHTLINE_GOODS", str(tmp_path / "goods"))
    goods.goods.cache_clear()
    yield tmp_path
    goods.goods.cache_clear()


def save(path: Path, picture: np.ndarray) -> None:
    frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
    path.write_bytes(encode_jpeg(frame.reformat(format="yuvj420p")))


def test_goods_are_split_by_sender_and_by_photograph(folder: Path) -> None:
    found = list(photographs(folder / "photos"))
    assert {each.noun for each in found} == {"dress", "tee", "apple"}
    learnt: dict[str, set[bool]] = {}
    for each in found:
        if each.noun != "apple":
            learnt.setdefault(each.path.name.split("-")[0], set()).add(each.split == "train")
    assert all(len(each) == 1 for each in learnt.values())
    clothes = [each for each in found if each.noun != "apple"]
    assert {each.split for each in clothes} == {"train", "held_out", "measured"}
    apples = {each.path.stem: each.split for each in found if each.noun == "apple"}
    assert apples.pop("train") == "train"
    assert set(apples.values()) <= {"held_out", "measured"}


def test_a_shop_of_real_goods_shows_what_its_split_may_see(folder: Path) -> None:
    number = write_goods(folder / "photos", folder / "goods")
    cut = goods.goods()
    assert number == len(cut.pictures) == len(cut.wholes) == 2 * len(SENDERS) * len(PHOTOGRAPHS) + 3
    assert cut.pictures.shape[1:] == (SIDE, SIDE, 4)
    assert cut.wholes.shape[1:] == (WHOLE, WHOLE, 3)
    assert len(cut.grounds) == 1  # of training alone
    trade = Trade(nouns=("shirt", "book", "gun"), prices=(5, 9))
    for split in ("train", "held_out"):
        seen = set()
        for seed in range(4):
            clip = wide.film(seed, 16, "goods", split, trade=trade)
            seen |= {thing.look.photo for thing in clip.things if thing.look.photo >= 0}
            assert all(t.noun in REAL_NOUNS for t in clip.things if t.look.photo >= 0)
        assert seen, "nothing real was shown"
        assert seen <= {n for (_, whose), found in cut.cut.items() if whose == split for n in found}
    world = find_world("goods", trade, side=192)
    take, again = (world.film(5, 6, np.random.default_rng(1)) for _ in range(2))
    assert take.pixels.shape == (6, 192, 192, 3)
    assert (take.pixels == again.pixels).all()
    pixels, truth = world.pictures(7, np.random.default_rng(1), 4)
    assert pixels.shape[1:] == (192, 192, 3)
    assert truth.labels.shape[:2] == (len(pixels), 16)
    assert {"tee", "yoghurt"} <= set(world.words)


def hand_before_a_wall() -> tuple[np.ndarray, np.ndarray, str]:
    """Three fingers, a palm and a wrist that leaves the picture below, where the hand is, and its
    label as it is published."""
    picture = np.full((224, 224, 3), (60, 95, 110), np.float32)
    there = np.zeros((224, 224), bool)
    for x in (80, 104, 128):
        there[50:120, x : x + 16] = True
    there[110:180, 76:148] = True
    box = "2 0.5 0.51 0.33 0.58"
    arm = there.copy()
    arm[170:, 92:132] = True
    light = np.linspace(1.05, 0.85, 224)[None, :, None]
    picture = np.where(arm[..., None], np.array((205, 150, 125)) * light, picture)
    grain = np.random.default_rng(1).normal(0, 3, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8), there, box


def test_a_hand_is_cut_out_and_holds_things_up(folder: Path) -> None:
    for kind in ("images", "labels"):
        (folder / "photos" / "hands" / kind).mkdir(parents=True)
    picture, there, box = hand_before_a_wall()
    for number in range(8):
        save(folder / "photos" / "hands" / "images" / f"{number}.jpg", picture)
        (folder / "photos" / "hands" / "labels" / f"{number}.txt").write_text(box + "\n")
    noise = np.random.default_rng(2).integers(0, 256, picture.shape)
    save(folder / "photos" / "hands" / "images" / "nothing.jpg", noise)
    (folder / "photos" / "hands" / "labels" / "nothing.txt").write_text(box + "\n")
    hand = next(real_hands.hands(folder / "photos"))
    found = real_hands.cut_hand(picture, hand)
    assert found is not None
    assert there.sum() * 0.8 < (found[..., 3] > 128).sum() < there.sum() * 1.5
    write_goods(folder / "photos", folder / "goods")
    kept = goods.goods()
    assert kept.hands.shape == (8, SIDE, SIDE, 4)
    assert set(kept.held_up) == {"train", "held_out"}
    for split in ("train", "held_out"):
        looks = {
            thing.look.hand
            for seed in range(6)
            for thing in wide.film(seed, 16, "goods", split).things
            if thing.noun == "hand"
        }
        assert looks - {-1}
        assert looks - {-1} <= set(kept.held_up[split])


def test_goods_of_any_size_are_laid_down_and_held(folder: Path) -> None:
    write_goods(folder / "photos", folder / "goods")
    nouns = set()
    for seed in range(6):
        clip = wide.film(seed, 6, "laid", fps=1.0)
        assert (clip.presence == 1).any()
        nouns |= {thing.noun for thing in clip.things}
    assert nouns == {"dress", "tee", "apple", "hand"}


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_photograph_that_fills_the_picture_is_asked_about(folder: Path, split: Split) -> None:
    write_goods(folder / "photos", folder / "goods")
    may = {n for (_, whose), found in goods.goods().whole.items() if whose == split for n in found}
    said = set()
    for seed in range(12):
        clip = wide.film(seed, 16, "photographs", split)
        assert {t.look.whole for t in clip.things} <= may
        for frame in range(16):
            asked = asking.ask(clip, frame, "what", np.random.default_rng(frame))
            said |= {asked.answer} if asked else set()
    assert said == {"a dress", "a tee", "an apple"}


def test_what_a_frozen_trunk_saw_is_drawn_from_and_never_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_goods(folder / "photos", folder / "goods")
    torch.save(published(), folder / "lite0.pth")
    monkeypatch.setenv("SIGHTLINE_TRUNK", str(folder / "lite0.pth"))
    mixes = (Mix(frames=4, batch=2, text_size=120),)
    rates = {"learning_rate": 1e-4, "final_learning_rate": 1e-5}
    recipe = dataclasses.replace(
        load_recipe("goods"),
        frame_size=64,
        picture_steps=2,
        picture_batch=24,
        picture_pool=6,
        still_pool=2,
        clip_pool=3,
        stages=(Stage(name="names", steps=2, mixes=mixes, **rates),),
        held_out=(),
        check_every=100,
    )

    def trainer() -> Trainer:
        made = Trainer(recipe, folder / "run", folder / "model", torch.device("cpu"))
        made.check = dict  # type: ignore[method-assign, assignment]
        return made

    first = trainer()
    before = {
        name: each.clone() for name, each in first.objectives.model.encoder.named_parameters()
    }
    first.run(Console(quiet=True), workers=0)
    after = dict(first.objectives.model.encoder.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"near.weight", "whole.weight"} <= changed
    assert not [name for name in changed if name.startswith("trunk.")]
    clips = folder / "run" / "pools" / "clips-4"
    written = {path: path.stat().st_mtime_ns for path in clips.iterdir()}
    assert len(list(clips.glob("*.clip"))) == 3
    pool = first.pools.clips[4]
    number, take, truth = pool.clip(np.random.default_rng(1), goods_world(recipe))
    again = goods_world(recipe).film(
        TRAIN_SEEDS * recipe.seed + (4 << 24) + number, 4, np.random.default_rng(1)
    )
    assert truth.labels.shape[:2] == (4, 16)
    assert take.num_moments == again.num_moments == 4
    encoder = first.objectives.model.encoder
    maps = [torch.from_numpy(np.array(pool.kept[name][number])).float() for name in MAPS]
    seen = first.seen[4]
    torch.testing.assert_close(seen[4 * number : 4 * number + 4], encoder.tokens(maps))
    assert len(seen) == 3 * 4 + 2 * 6  # clips, and then photographs
    for seed in range(30):
        frames, take, truth = first.pools.draw(4, np.random.default_rng(seed))
        assert len(frames) == take.num_moments == len(truth.calm) == 4
        assert frames.max() < len(seen)
        if frames[0] < 3 * 4:
            continue
        kinds = first.pools.stills.kept["labels"].reshape(12, 16, -1)
        told = kinds[frames - 3 * 4, MIDDLE, 1]
        assert (truth.labels[:, MIDDLE, 1] == told).all()
        break
    else:
        pytest.fail("no photographs were shown")
    second = trainer()
    second.run(Console(quiet=True), workers=0)
    assert {path: path.stat().st_mtime_ns for path in clips.iterdir()} == written
    torch.testing.assert_close(
        second.objectives.model.decoder.embedding.weight,
        first.objectives.model.decoder.embedding.weight,
    )


def test_a_model_learns_from_them_and_goes_on_where_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_goods(folder / "photos", folder / "goods")
    torch.save(published(), folder / "lite0.pth")
    monkeypatch.setenv("SIGHTLINE_TRUNK", str(folder / "lite0.pth"))
    whole = load_recipe("goods")
    learning = Stage(
        name="captions",
        steps=1,
        mixes=(Mix(frames=4, batch=1, text_size=120),),
        learning_rate=1e-4,
        final_learning_rate=1e-5,
    )
    recipe = dataclasses.replace(
        whole,
        frame_size=64,
        picture_pool=0,
        clip_pool=0,
        picture_steps=1,
        picture_batch=6,
        stages=(learning,),
        held_out=(),
    )
    recipe = dataclasses.replace(recipe, check_every=100, save_every=1)

    def trainer() -> Trainer:
        made = Trainer(recipe, folder / "run", folder / "model", torch.device("cpu"))
        made.check = dict  # type: ignore[method-assign, assignment]
        return made

    first = trainer()
    stem = "model.encoder.trunk.stem.convolution.weight"
    before = first.objectives.state_dict()[stem].clone()
    first.run(Console(quiet=True), workers=0, steps=1)
    assert not torch.equal(first.objectives.state_dict()[stem], before)
    second = trainer()
    assert second.resume()
    assert second.step == 1
    second.run(Console(quiet=True), workers=0)
    assert second.step == recipe.total_steps
    made = BuiltinModel.load(folder / "model", torch.float32, torch.device("cpu"))
    assert (made.config.tower, made.config.frame_size) == ("lite0", 64)


def test_without_photographs_nothing_is_made_up(folder: Path) -> None:
    with pytest.raises(ValueError, match="no real goods: run"):
        goods.goods()
    with pytest.raises(ValueError, match="no photographs of goods"):
        write_goods(folder / "goods", folder / "elsewhere")


def test_a_trunk_learns_and_goes_on_where_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_goods(folder / "photos", folder / "goods")
    torch.save(published(), folder / "lite0.pth")
    monkeypatch.setenv("SIGHTLINE_TRUNK", str(folder / "lite0.pth"))
    recipe = dataclasses.replace(load_recipe("goods"), frame_size=64, trunk_steps=2)
    output = folder / "trunk.safetensors"
    before = read_trunk(folder / "lite0.pth").state_dict()
    trunk.tune(recipe, output, Console(quiet=True))
    after = read_trunk(output).state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert "stem.convolution.weight" in changed
    assert not [name for name in changed if "running" in name]  # the published means are kept
    told = io.StringIO()
    trunk.tune(recipe, output, Console(file=told))
    assert "step 2" not in told.getvalue()  # it had ended
    trunk.tune(dataclasses.replace(recipe, trunk_steps=3), output, Console(file=told))
    assert "step 3" in told.getvalue()


def test_an_encoder_that_its_decoder_knows_is_tuned_as_a_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_goods(folder / "photos", folder / "goods")
    recipe = dataclasses.replace(
        load_recipe("goods-on"), start="goods", frame_size=64, trunk_steps=1
    )
    before = new_model(recipe)
    assert before.config.frame_size == 64
    output = folder / "encoder.safetensors"
    trunk.tune(recipe, output, Console(quiet=True))
    monkeypatch.setenv("SIGHTLINE_TRUNK", str(output))
    after = new_model(recipe)
    assert not torch.equal(after.encoder.coarse.weight, before.encoder.coarse.weight)
    decoders = (before.decoder.state_dict(), after.decoder.state_dict())
    assert all(torch.equal(decoders[0][name], each) for name, each in decoders[1].items())
