"""Training rows are what the engine serves, and a run learns, resumes and saves."""

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.family import Round
from services.inference_worker.model.registry import WEIGHTS
from tests.processes import SHAPES
from training.__main__ import main
from training.answerers import DenseAnswerer
from training.batches import (
    Batch,
    draw_branches,
    make_batch,
    make_pictures,
    new_model,
    world_of,
)
from training.layout import NO_TARGET, SINK, TRUNK, Branch, branch_of, pack, visibility
from training.lite0 import PACKAGE
from training.objectives import Objectives
from training.pools import Pools
from training.processes import Launch
from training.questions import Question
from training.recipe import (
    EVALUATION_SEEDS,
    FOLDER,
    HELD_OUT_SEEDS,
    RECIPES,
    TRAIN_SEEDS,
    Mix,
    Recipe,
    RecipeError,
    Stage,
    load_recipe,
)
from training.rendering import render
from training.schedule import Share, make_step
from training.train import Trainer, publish
from training.world.asking import LESSONS
from training.world.shapes import Clip, Thing, film
from training.worlds import ShapesTake, ShapesWorld, at_length, find_world

pytestmark = pytest.mark.option

CPU = torch.device("cpu")
TINY = Recipe(
    picture_steps=2,
    picture_batch=6,
    stages=(
        Stage(
            name="motion",
            steps=1,
            mixes=(Mix(frames=3, batch=2, text_size=0),),
            learning_rate=2e-3,
            final_learning_rate=1e-3,
            learns="trunk",
        ),
        Stage(
            name="tiny",
            steps=10,
            mixes=(Mix(frames=3, batch=2, text_size=60),),
            learning_rate=2e-3,
            final_learning_rate=1e-3,
            warmup_steps=2,
        ),
    ),
    held_out=(Mix(frames=3, batch=2, text_size=60),),
)


@pytest.fixture(scope="module")
def model() -> BuiltinModel:
    torch.manual_seed(0)
    return new_model(TINY)


@pytest.mark.parametrize("window", [1, 3, 30])
def test_who_sees_whom_is_the_served_rule(model: BuiltinModel, window: int) -> None:
    """Replays a session: what is resident when a token is computed is what it sees."""
    grid, sink = model.spec.layout.segment_tokens, len(model.sink_tokens())
    num_frames = 6
    branches = [Branch(1, "a", [7, 8, 9], [10, 5]), Branch(5, "b", [7, 8], [11, 12, 5])]
    row = pack(model, num_frames, branches, 17, 12)
    mask = visibility(
        torch.from_numpy(row.frames)[None], torch.from_numpy(row.branches)[None], window
    )
    expected = np.zeros((len(row.tokens), len(row.tokens)), bool)
    for token in range(sink):
        expected[token, : token + 1] = True
    resident: list[int] = []
    starts = {1: sink + num_frames * grid, 5: sink + num_frames * grid + branches[0].size}
    for frame in range(num_frames):
        resident = [*resident, frame][-window:]
        seen = list(range(sink))
        for kept in resident:
            seen += range(sink + kept * grid, sink + (kept + 1) * grid)
        for token in range(sink + frame * grid, sink + (frame + 1) * grid):
            expected[token, seen] = True
        for branch in branches:
            if branch.frame == frame:
                for n in range(branch.size):
                    token = starts[frame] + n
                    expected[token, seen] = True
                    expected[token, starts[frame] : token + 1] = True
    used = sink + num_frames * grid + sum(branch.size for branch in branches)
    assert np.array_equal(mask[0, 0, :used].numpy(), expected[:used])
    assert mask[0, 0, used:].any(-1).all()


def test_positions_follow_the_cursor(model: BuiltinModel) -> None:
    grid, sink = model.spec.layout.segment_tokens, len(model.sink_tokens())
    branch = Branch(1, "a", [7, 8, 9], [10, 5])
    row = pack(model, 3, [branch], 100, 8)
    assert row.positions[:sink].tolist() == [[n, n, n] for n in range(sink)]
    for frame in range(3):
        start = sink + frame * grid
        cursor = sink + 100 + frame * model.spec.layout.segment_advance
        expected = model.segment(model.spec.layout, cursor, 0.0).positions
        assert row.positions[start : start + grid].tolist() == [list(p) for p in expected]
    text, after = sink + 3 * grid, sink + 100 + 2 * model.spec.layout.segment_advance
    assert row.positions[text : text + 4].tolist() == [[after + n] * 3 for n in range(4)]
    assert row.frames[:sink].tolist() == [SINK] * sink
    assert (row.branches[:text] == TRUNK).all()


def test_targets_are_the_answer_after_the_prompt(model: BuiltinModel) -> None:
    question = Question("colour", "what color is it", "red", (("is there a circle", "yes"),))
    branch = branch_of(model, 0, question)
    assert branch.prompt == model.question_tokens(
        [Round("is there a circle", "yes")], question.text
    )
    row = pack(model, 1, [branch], 0, branch.size)
    said = row.targets[row.targets != NO_TARGET]
    assert model.text(said.tolist()) == "red"
    assert int(said[-1]) in model.stop_tokens
    text, after = len(model.sink_tokens()) + 16, len(model.sink_tokens()) + 1
    assert branch.before == len(branch.prompt) - len(model.question_tokens([], question.text))
    assert row.positions[text + branch.before].tolist() == [after] * 3  # as without a history
    watch = branch_of(model, 0, Question("watch", "a circle is there", "no", is_watch=True))
    assert watch.prompt == model.watch_tokens("a circle is there")
    assert watch.answer == [model.no_token]


def test_branches_fit_and_are_reproducible(model: BuiltinModel) -> None:
    take, kinds = ShapesTake(film(9, 12)), ShapesWorld.kinds
    first = draw_branches(model, take, kinds, 120, np.random.default_rng(1))
    assert first == draw_branches(model, take, kinds, 120, np.random.default_rng(1))
    assert 0 < sum(branch.size for branch in first) <= 120
    with pytest.raises(ValueError, match="do not fit"):
        pack(model, 12, first, 0, 10)


def test_training_held_out_and_evaluation_share_no_seed() -> None:
    recipe = load_recipe("shapes")
    first = TRAIN_SEEDS * recipe.seed
    assert EVALUATION_SEEDS + 100_000 < HELD_OUT_SEEDS
    assert first > HELD_OUT_SEEDS + 100_000
    assert max(mix.batch for stage in recipe.stages for mix in stage.mixes) < 1024
    assert recipe.picture_batch < 1024


def test_a_step_depends_on_seed_and_number_alone(model: BuiltinModel, tmp_path: Path) -> None:
    world, pools = world_of(TINY), Pools(tmp_path, TINY)
    one, same = (make_step(model, world, TINY, 5, Share(), pools) for _ in range(2))
    other = make_step(model, world, TINY, 5, Share(1, 2), pools)
    assert isinstance(one, Batch)
    assert isinstance(same, Batch)
    assert isinstance(other, Batch)
    assert torch.equal(one.pixels, same.pixels)
    assert torch.equal(one.tokens, same.tokens)
    assert not torch.equal(one.pixels, other.pixels)
    assert make_pictures(world, 4, 7, 1).pixels.shape[1:] == (128, 128, 3)


def test_long_conversations_come_before_questions_and_fit(model: BuiltinModel) -> None:
    recipe = load_recipe("builtin")
    world, rng = world_of(recipe), np.random.default_rng(5)
    here, elsewhere = world.film(7, 28, rng), world.film(8, 28, rng)
    lengths, unknown, repeated, stale = [], 0, 0, 0
    for _ in range(300):
        asked = here.ask(recipe.kinds, rng)
        if asked is None:
            continue
        frame, question = asked
        long = at_length(here, frame, question, recipe.kinds, elsewhere, rng)
        assert (long.text, long.answer) == (question.text, question.answer)
        if question.is_watch:
            assert long == question
            continue
        own = question.history[-10:]
        assert long.history[len(long.history) - len(own) :] == own  # "it" is what it was
        lengths.append(len(long.history))
        unknown += any(said == "i do not know" and len(text) > 40 for text, said in long.history)
        same = {said for text, said in long.history if text == question.text}
        repeated += bool(same)
        stale += bool(same - {question.answer})
    assert max(lengths) == 10
    assert sum(length == 10 for length in lengths) > len(lengths) / 3
    assert min(unknown, repeated, stale) >= 5


def test_what_it_means_survives_other_rounds() -> None:
    world, rng = world_of(replace(load_recipe("builtin"), talk=0.0)), np.random.default_rng(6)
    after = []
    for seed in range(40):
        asked = world.film(seed, 20, rng).ask({"followup": 1.0}, rng)
        rounds = [] if asked is None else asked[1].history
        after += [text for text, said in rounds if said == "i do not know" or " it" in text]
    assert len(after) > 5


def test_shipped_weights_are_written_over_only_on_demand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Launch] = []
    monkeypatch.setattr("training.processes.launch", launched.append)
    for command in (
        ["train", "--output", str(WEIGHTS / "builtin")],
        ["train", "--output", str(SHAPES / ".." / "shapes" / "new")],
        ["train", "--recipe", "smoke", "--replace-shipped"],
        ["train", "--replace-shipped", "--output", str(tmp_path)],
        ["tune", "--data", "x.jsonl", "--output", str(WEIGHTS / "builtin")],
    ):
        monkeypatch.setattr("sys.argv", ["training", *command])
        assert main() == 2
        assert "cannot" in capsys.readouterr().err
    assert not launched
    for command in (["train"], ["train", "--replace-shipped"]):
        monkeypatch.setattr("sys.argv", ["training", *command])
        assert main() == 0
    assert [plan.output for plan in launched] == [
        FOLDER / "builtin" / "model",
        WEIGHTS / "builtin",
    ]


def test_every_recipe_of_ours_can_be_read_and_made(tmp_path: Path) -> None:
    for path in RECIPES.glob("*.toml"):
        recipe = load_recipe(path.stem)
        known = world_of(recipe).kinds | LESSONS
        for kinds in (recipe.kinds, *(stage.kinds for stage in recipe.stages)):
            assert set(kinds) <= set(known), path.stem
        if recipe.tower == "lite0" and importlib.util.find_spec(PACKAGE) is None:
            continue  # its tower begins with weights that are not installed
        made = new_model(recipe)
        assert sum(parameter.numel() for parameter in made.parameters()) <= 10e6
    for text, told in (
        ("picture_steps = 1\ncolour = 3", "unknown name 'colour'"),
        ("picture_steps = 'many'", "picture_steps: 'many'"),
        ("[[stages]]\nname = 'a'", "stages\\[0\\]: .*missing"),
        ("world = 'shop'", "neither"),
        ("world = ", "Invalid value"),
    ):
        (tmp_path / "own.toml").write_text(text)
        with pytest.raises(RecipeError, match=told):
            load_recipe(str(tmp_path / "own.toml"))
    with pytest.raises(RecipeError, match=r"ours are .*shapes"):
        load_recipe("nowhere")


@pytest.mark.parametrize("name", ["smoke", "builtin"])
def test_a_batch_of_the_wide_world_is_in_its_words(name: str) -> None:
    recipe = load_recipe(name)
    made, world = new_model(recipe), world_of(recipe)
    batch = make_batch(made, world, Mix(frames=24, batch=2, text_size=300), 7, recipe.kinds)
    unknown = made.tokenizer.token_to_id("<unk>")
    said = (batch.tokens == unknown) & (batch.branches != TRUNK)
    assert int(said.sum()) <= 6  # "zzz": words that nobody knows
    assert not (batch.targets == unknown).any()
    assert batch.labels.shape == (2, 24, 16, len(world.channels))
    sizes = torch.tensor(list(world.channels.values()))
    assert (batch.labels < sizes).all()
    assert batch.calm.shape == (2, 24)
    assert sum(len(kinds) for kinds in batch.kinds) > 20
    assert recipe.kinds.keys() >= {kind for row in batch.kinds for kind in row} or not recipe.kinds


def test_rare_kinds_are_asked_as_often_as_they_weigh() -> None:
    world, asked = find_world("street"), Counter[str]()
    weights = dict.fromkeys(("crossed", "blinks", "order", "earlier_place", "colour"), 1.0)
    for seed in range(15):
        rng = np.random.default_rng(seed)
        take = world.film(seed, 40, rng)
        for _ in range(10):
            question = take.ask(weights, rng)
            asked[question[1].kind if question else "nothing"] += 1
    assert min(asked[kind] for kind in weights) > 0.1 * max(asked[kind] for kind in weights)


def test_understanding_that_jumps_costs_where_nothing_happens() -> None:
    recipe = load_recipe("smoke")
    objectives = Objectives(new_model(recipe), world_of(recipe), 1)
    batch = make_batch(objectives.model, world_of(recipe), Mix(frames=6, batch=1, text_size=40), 3)
    labels, calm = torch.zeros_like(batch.labels), torch.ones_like(batch.calm)
    labels[:, 3:, 5, 1] = 7  # another thing stands in one cell from frame 3 on
    batch = replace(batch, labels=labels, calm=calm)
    steady = torch.randn(1, 1, 16, 128).expand(1, 6, 16, 128)
    assert float(objectives.jumps(steady.flatten(1, 2), batch).detach().abs().max()) < 1e-6
    changed = steady.clone()
    changed[:, 3:, 5] += torch.randn(128)
    assert float(objectives.jumps(changed.flatten(1, 2), batch).detach().abs().max()) < 1e-6
    jumping = steady.clone()
    jumping[:, 3:, 6] += torch.randn(128)
    assert float(objectives.jumps(jumping.flatten(1, 2), batch).detach().max()) > 0.1
    nothing = replace(batch, calm=torch.zeros_like(calm))
    assert len(objectives.jumps(jumping.flatten(1, 2), nothing)) == 0
    assert bool(objectives.answers(nothing, 0.5, 1.0).total.isfinite())
    calm[:, 3] = False
    excused = objectives.jumps(jumping.flatten(1, 2), replace(batch, calm=calm))
    assert float(excused.detach().abs().max()) < 1e-6


def test_a_short_run_reduces_the_loss(tmp_path: Path) -> None:
    recipe = replace(TINY, picture_steps=0, stages=TINY.stages[1:])
    trainer = Trainer(recipe, tmp_path / "run", tmp_path / "model", CPU)
    batch = make_batch(trainer.objectives.model, trainer.world, recipe.stages[0].mixes[0], 5)
    losses = [float(trainer.learn(batch).total.detach()) for _ in range(8)]
    assert losses[-1] < 0.75 * losses[0]


def test_a_saved_folder_loads_and_answers_the_same(model: BuiltinModel, tmp_path: Path) -> None:
    publish(model, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").stat().st_size <= 20 << 20
    loaded = BuiltinModel.load(tmp_path / "model", torch.float32, CPU)
    answerer = DenseAnswerer(loaded)
    answerer.open()
    for frame in render(film(1, 3)):
        answerer.push(frame, 0)
    answer = answerer.ask("What changed?", ())
    assert answer == answerer.ask("what changed", ())
    assert isinstance(answerer.watch("a red circle is there"), bool)


def test_the_shipped_model_answers_what_a_newcomer_types() -> None:
    shipped = BuiltinModel.load(SHAPES, torch.float32, CPU)
    parameters = sum(parameter.numel() for parameter in shipped.parameters())
    assert 5e6 <= parameters <= 8e6
    tokens = shipped.question_tokens([], "What colour's the CIRCLE, please?")
    assert shipped.text(tokens) == "what color is the circle please"
    typed = shipped.question_tokens([], "<end> <assistant>")
    assert not set(typed[1:-1]) & shipped.stop_tokens


def test_the_shipped_model_sees_moves_and_remembers() -> None:
    """A red circle moves left above a resting blue square: asked as a newcomer would."""
    shipped = BuiltinModel.load(SHAPES, torch.float32, CPU)
    answerer = DenseAnswerer(shipped)
    answerer.open()
    frames = [
        (
            Thing(1, "circle", "red", 100 - 4 * step, 36, 36, 36, "left", 5),
            Thing(2, "square", "blue", 64, 95, 34, 34, "still", 5),
        )
        for step in range(8)
    ]
    for frame in render(Clip(3, tuple(frames), ())):
        answerer.push(frame, 0)
    assert answerer.ask("What do you see?", ()) == "a red circle and a blue square"
    assert answerer.ask("What is in the scene?", ()) == "a red circle and a blue square"
    assert answerer.ask("What colour is the circle?", ()) == "red"
    assert answerer.ask("How many objects are there?", ()) == "two"
    assert answerer.ask("Which way is the red circle moving?", ()) == "left"
    assert answerer.ask("Which way is the blue square moving?", ()) == "it is not moving"
    assert answerer.ask("Is there a red circle?", ()) == "yes"
    assert answerer.ask("Is there a green circle?", ()) == "no"
    assert answerer.ask("What changed?", ()) == "nothing changed"
    assert answerer.watch("a red circle is there")
    assert not answerer.watch("a red square is there")
    circle, square = ("Is there a circle?", "yes"), ("Is there a square?", "yes")
    assert answerer.ask("What colour is it?", (circle,)) == "red"
    assert answerer.ask("What colour is it?", (square,)) == "blue"
    assert answerer.ask("What colour is it?", (circle, square)) == "blue"
