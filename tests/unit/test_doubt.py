"""Doubt: what is not said of a thing that may be another, and how the bounds of that are found."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.doubt import FILE, VAGUE, Doubt, spoken
from services.inference_worker.model.familiarity import Familiarity
from tests.unit.tiny import Bench, random_picture, tiny_model
from training import doubt
from training.doubt import FEW, LEAST, MOST, Claim, _with_vague, bounds
from training.world.goods import REAL_NOUNS

CPU = torch.device("cpu")


def test_a_name_below_its_bound_is_not_said() -> None:
    doubt = Doubt(torch.tensor([-math.inf, math.log(0.5), -math.inf]), 2)
    choice = torch.tensor([0, 1, 1])
    said = doubt(choice, torch.tensor([0.01, 0.49, 0.51]).log())
    assert said.tolist() == [0, 2, 1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny_model()
    model.save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "content", ["", "[]", '{"least": {"dog": "much"}}', '{"least": {"dog": 0.5}}']
)
def test_what_cannot_be_read_or_said_is_no_doubt(folder: Path, content: str) -> None:
    (folder / FILE).write_text(content)
    assert BuiltinModel.load(folder, torch.float32, CPU).doubt is None


def test_the_engine_says_that_it_is_not_sure(folder: Path) -> None:
    """Of every word: the tiny model is sure of none."""
    model = _with_vague(BuiltinModel.load(folder, torch.float32, CPU))
    model.save(folder)
    words = [word for word in model.tokenizer.get_vocab() if word not in (VAGUE, "dog")]
    (folder / FILE).write_text(json.dumps({"least": dict.fromkeys(words, 0.999)}))
    read = BuiltinModel.load(folder, torch.float32, CPU)
    assert read.doubt is not None
    assert read.tokenizer.encode(VAGUE).ids != [read.doubt.vague]  # nobody can ask it
    bench = Bench(read)
    bench.open("s")
    bench.push("s", random_picture(np.random.default_rng(1)), 0)
    bench.run()
    said = bench.ask("s", read.question_tokens([], "what is this"))
    bench.run()
    assert said.tokens
    assert VAGUE in read.text(said.tokens)


def test_an_article_that_was_said_keeps_its_noun() -> None:
    assert spoken(f"a hand holds an {VAGUE}") == "a hand holds an object i am not sure of"
    assert spoken(f"a {VAGUE} is there") == f"a {VAGUE} is there"


def test_bounds_are_as_low_as_most_names_are_right() -> None:
    noun, other = REAL_NOUNS[:2]
    right = [Claim(noun, share, True) for share in np.linspace(0.6, 0.9, 9)]
    wrong = [Claim(noun, share, False) for share in np.linspace(0.3, 0.55, 9)]
    few = [Claim(other, 0.4, False)] * (FEW - 1)
    found = bounds(right + wrong + few)
    assert 0.5 < found[noun] < 0.53  # two of the wrong ones with nine right ones, and no third
    assert found[other] == found[REAL_NOUNS[-1]]  # as of all together
    assert set(found) == set(REAL_NOUNS)
    assert all(LEAST <= bound <= MOST for bound in found.values())
    assert bounds([Claim(noun, 0.99, False)] * FEW)[noun] == MOST


def test_what_looked_familiar_to_a_model_still_does_once_its_doubt_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights hold a word more, and are another file."""
    Familiarity(torch.zeros(4), -1.0).save(folder)
    monkeypatch.setattr(doubt, "_claims", lambda *_: iter([Claim("apple", 0.9, right=True)]))
    monkeypatch.setattr(doubt, "_claims_of_scenes", lambda *_: iter([]))
    doubt.write(folder, folder)
    assert Familiarity.load(folder, CPU) is not None
