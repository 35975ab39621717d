"""Every stage learns what it is for, and goes on after a break as if there had been none."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.errors import ModelError
from tests.sources import write_clip
from training.ablation import ablate, report
from training.batches import make_batch, new_model, world_of
from training.distillation import Lessons
from training.layout import NO_TARGET
from training.objectives import encode, final_states
from training.preference import Pairs, PeoplesPairs, branches_of, judge, log_probabilities, mine
from training.recipe import Mix, Recipe, Size, Stage, Teaching, load_recipe
from training.recordings import DataError
from training.train import Trainer

pytestmark = pytest.mark.option

CPU = torch.device("cpu")
SMALL = Size(hidden_size=128, num_layers=2, num_heads=2, mlp_size=128, stem_channels=8)
CLIPS = (Mix(frames=4, batch=2, text_size=80),)


def stage(learns: str, steps: int = 2, **more: object) -> Stage:
    fields = {"name": learns, "steps": steps, "mixes": CLIPS, "learns": learns, **more}
    return Stage(learning_rate=1e-3, final_learning_rate=1e-4, warmup_steps=1, **fields)  # type: ignore[arg-type]


RECIPE = Recipe(
    world="wide",
    size=SMALL,
    trunk_layer=1,
    consistency_weight=0.2,
    picture_steps=2,
    picture_batch=6,
    stages=(stage("trunk"), stage("answers"), stage("preference", 3)),
    held_out=CLIPS,
)


@pytest.fixture(scope="module")
def model() -> BuiltinModel:
    torch.manual_seed(1)
    return new_model(RECIPE).requires_grad_(True)


def write_pairs(folder: Path) -> Path:
    write_clip(folder / "clip.mp4", seconds=2.0)
    line = {"video": "clip.mp4", "at": 1.5, "question": "what do you see"}
    lines = [
        {**line, "chosen": "a red dog", "rejected": "nothing"},
        {**line, "at": 0.4, "chosen": "a dog", "rejected": "a red cat is there"},
    ]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(each) for each in lines))
    return folder / "pairs.jsonl"


@pytest.mark.parametrize(
    "break_at", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 3, 7, 8))]
)
def test_a_run_broken_off_in_any_stage_ends_where_an_unbroken_one_does(
    break_at: int, tmp_path: Path
) -> None:
    console = Console(quiet=True)
    pairs = stage("preference", 2, name="people", pairs=str(write_pairs(tmp_path)))
    recipe = replace(RECIPE, stages=(*RECIPE.stages, pairs))
    whole = Trainer(recipe, tmp_path / "whole", tmp_path / "model", CPU)
    whole.run(console, workers=0)
    first = Trainer(recipe, tmp_path / "broken", tmp_path / "model", CPU)
    first.run(console, workers=0, steps=break_at)
    second = Trainer(recipe, tmp_path / "broken", tmp_path / "model", CPU)
    assert second.resume()
    assert second.step == break_at
    second.run(console, workers=0)
    for name, tensor in whole.objectives.state_dict().items():
        assert torch.equal(tensor, second.objectives.state_dict()[name]), name
    other = Trainer(replace(recipe, seed=2), tmp_path / "broken", tmp_path / "model", CPU)
    assert not other.resume()
    assert (tmp_path / "broken" / "curve.csv").exists()
    assert (tmp_path / "broken" / "curve.png").exists()


def test_mined_pairs_are_truths_and_what_the_model_said_instead(model: BuiltinModel) -> None:
    world = world_of(RECIPE)
    batch = make_batch(model, world, Mix(frames=6, batch=2, text_size=120), 3)
    vision = encode(model, batch.pixels)
    pairs = mine(model, batch, vision, np.random.default_rng(0))
    same = mine(model, batch, vision, np.random.default_rng(0))
    assert pairs is not None
    assert same is not None
    assert torch.equal(pairs.tokens, same.tokens)
    asked = [branch for row in range(2) for branch in branches_of(model, batch, row)]
    truths = {(tuple(b.prompt), tuple(b.answer)) for b in asked}
    for row in range(2):
        for index in range(0, int(pairs.branches[row].max()), 2):
            told = []
            for branch in (index, index + 1):
                mine_ = pairs.branches[row] == branch
                answer = pairs.targets[row][mine_ & (pairs.targets[row] != NO_TARGET)]
                size = int(mine_.sum()) - len(answer) + 1
                told.append(
                    (tuple(pairs.tokens[row][mine_][:size].tolist()), tuple(answer.tolist()))
                )
            assert told[0] in truths
            assert told[1][0] == told[0][0]
            assert told[1][1] != told[0][1]


def test_an_answer_is_as_likely_as_its_tokens_together(model: BuiltinModel) -> None:
    batch = make_batch(model, world_of(RECIPE), CLIPS[0], 11)
    vision = encode(model, batch.pixels)
    pairs = mine(model, batch, vision, np.random.default_rng(0))
    assert pairs is not None
    with torch.no_grad():
        better, worse = log_probabilities(model, pairs, vision)
        scores = model.decoder.logits(final_states(model, pairs, vision)).log_softmax(-1)
    assert len(better) == len(worse) == pairs.count
    first = (pairs.branches[0] == 1) & (pairs.targets[0] != NO_TARGET)
    expected = scores[0, first].gather(1, pairs.targets[0, first][:, None]).sum()
    assert torch.allclose(worse[0], expected, atol=1e-4)


def test_preference_widens_the_margin_over_the_frozen_model() -> None:
    torch.manual_seed(2)
    policy, reference = new_model(RECIPE), new_model(RECIPE)
    reference.load_state_dict(policy.state_dict())
    batch = make_batch(policy, world_of(RECIPE), CLIPS[0], 5)
    vision = encode(policy, batch.pixels)
    pairs = mine(reference, batch, vision, np.random.default_rng(0))
    assert pairs is not None
    optimiser = torch.optim.AdamW(policy.decoder.parameters(), lr=1e-3)
    margins = []
    for _ in range(4):
        judged = judge(policy, reference, pairs, vision, 0.1, 0.05)
        margins.append(judged.margin)
        optimiser.zero_grad()
        judged.loss.backward()
        optimiser.step()
    assert margins[0] == pytest.approx(0, abs=1e-3)
    assert margins[-1] > 0.5


def test_peoples_pairs_are_laid_out_as_mined_ones(model: BuiltinModel, tmp_path: Path) -> None:
    path = write_pairs(tmp_path)
    people = PeoplesPairs(model, path, tmp_path / "frames")
    pairs = people.draw(1, 4, 3)
    assert isinstance(pairs, Pairs)
    assert torch.equal(pairs.tokens, people.draw(1, 4, 3).tokens)
    assert pairs.count == len(pairs.pixels) == 3
    better, worse = log_probabilities(model, pairs, encode(model, pairs.pixels))
    assert len(better) == len(worse) == 3
    path.write_text(path.read_text().replace("rejected", "worse"))
    with pytest.raises(DataError, match="no such field"):
        PeoplesPairs(model, path, tmp_path / "frames")


@pytest.mark.slow  # its runs are processes, which import PyTorch
def test_an_ablation_compares_runs_that_differ_in_one_number(tmp_path: Path) -> None:
    held_out = (Mix(frames=14, batch=3, text_size=80),)
    recipe = replace(RECIPE, world="shapes", stages=(stage("answers"),), held_out=held_out)
    console = Console(quiet=True)
    found = ablate(recipe, "consistency_weight", [0.0, 0.5], tmp_path, "cpu", console)
    assert [figures.value for figures in found] == [0.0, 0.5]
    for figures in found:
        assert 0 <= figures.right <= 1
        assert figures.jumps >= 0
        assert 0 <= figures.flips <= 1
        assert 0 <= figures.answer_flips <= 1
    report("consistency_weight", found, recipe, tmp_path / "told" / "r.json", console)
    assert len(json.loads((tmp_path / "told" / "r.json").read_text())["runs"]) == 2
    assert (tmp_path / "told" / "r.png").exists()


def test_a_student_comes_to_answer_as_its_teacher(tmp_path: Path) -> None:
    torch.manual_seed(3)
    larger = replace(SMALL, hidden_size=192, num_heads=3, num_layers=3)
    new_model(replace(RECIPE, size=larger)).save(tmp_path / "teacher")
    teaching = Teaching(folder=str(tmp_path / "teacher"), hidden=0.5)
    recipe = replace(
        RECIPE, teacher=teaching, picture_steps=0, trunk_weight=0.0, stages=(stage("answers", 12),)
    )
    trainer = Trainer(recipe, tmp_path / "run", tmp_path / "model", CPU)
    batch = make_batch(trainer.objectives.model, trainer.world, CLIPS[0], 5)
    parts = [trainer.learn(batch).parts for _ in range(10)]
    assert parts[-1]["teacher"] < parts[0]["teacher"]
    assert parts[-1]["teacher/unlike"] < parts[0]["teacher/unlike"]
    saved = trainer.objectives.state_dict()
    assert not any("_teacher" in name for name in saved)
    with pytest.raises(ModelError, match="other words"):
        Lessons(teaching, new_model(load_recipe("shapes")))
