"""What "it" stands for: where training marks it, that it is learnt, that it is never in doubt."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from services.inference_worker.model.builtin import BuiltinModel
from training.batches import make_batch, new_model, world_of
from training.layout import NO_TARGET, Branch, branch_of, pack, visibility
from training.objectives import REFERENCE_LAYER, Objectives, Pointing
from training.recipe import Mix, Recipe, load_recipe
from training.world.question import DONT_KNOW, Question
from training.worlds import WideTake, WideWorld, after

pytestmark = pytest.mark.option

RECIPE = replace(load_recipe("smoke"), world="shop", trade=load_recipe("builtin").trade, talk=0.0)
SHIRT = Question(
    "followup",
    "and its color",
    "red",
    (
        ("where is the red shirt", "at the bottom left"),
        ("is a red shirt there", "yes"),
        ("what time is it", DONT_KNOW),
        ("where is it", "in the middle"),
    ),
    refers="red shirt",
)


@pytest.fixture(scope="module")
def model() -> BuiltinModel:
    torch.manual_seed(0)
    return new_model(RECIPE)


def words_of(model: BuiltinModel, branch: Branch, place: int) -> list[str]:
    """The word at a place of a prompt, and the one before it."""
    return [str(model.tokenizer.id_to_token(t)) for t in branch.prompt[place - 1 : place + 1]]


def test_it_is_marked_from_the_last_round_that_names_the_thing(model: BuiltinModel) -> None:
    branch = branch_of(model, 0, SHIRT)
    assert [words_of(model, branch, place) for place, *_ in branch.refers] == [
        ["is", "it"],
        ["and", "its"],
        ["color", "<assistant>"],
    ]
    red, shirt = (model.tokenizer.token_to_id(word) for word in ("red", "shirt"))
    assert {each[2:] for each in branch.refers} == {(shirt, red)}
    (name,) = {each[1] for each in branch.refers}
    assert words_of(model, branch, name) == ["red", "shirt"]
    assert words_of(model, branch, name + 1) == ["shirt", "there"]  # of the second round


def test_a_name_without_a_colour_marks_none_and_questions_by_name_nothing(
    model: BuiltinModel,
) -> None:
    phone = replace(SHIRT, history=(("is a phone there", "yes"),), refers="phone")
    assert {each[3] for each in branch_of(model, 0, phone).refers} == {NO_TARGET}
    named = Question("where", "where is the phone", "in the middle")
    assert not branch_of(model, 0, named).refers
    forgotten = replace(SHIRT, history=SHIRT.history[2:])
    assert not branch_of(model, 0, forgotten).refers
    longer = after((("how many objects", "two"),) * 3, SHIRT)
    assert len(branch_of(model, 0, longer).refers) == 3


def test_a_row_points_at_the_branchs_own_name(model: BuiltinModel) -> None:
    branches = [
        branch_of(model, 0, Question("where", "where is the shirt", "in the middle")),
        branch_of(model, 1, SHIRT),
    ]
    row = pack(model, 2, branches, 0, 120)
    marked = (row.refers[:, 0] != NO_TARGET).nonzero()[0]
    assert len(marked) == 3
    shirt = model.tokenizer.token_to_id("shirt")
    for place in marked:
        name = row.refers[place, 0]
        assert row.tokens[name] == row.refers[place, 1] == shirt
        assert row.branches[name] == row.branches[place] == 1
        assert name < place


def test_pointing_is_the_share_of_the_attention_that_a_name_gets(model: BuiltinModel) -> None:
    row = pack(model, 1, [branch_of(model, 0, SHIRT)], 0, 70)
    frames, branches, refers = (
        torch.from_numpy(part)[None] for part in (row.frames, row.branches, row.refers)
    )
    mask = visibility(frames, branches, model.spec.window_segments)
    queries, keys, values = torch.randn(3, 1, len(row.tokens), 2, 8)
    pointing = Pointing(mask, refers)
    pointing(0, queries, keys, values)
    assert not len(pointing.log_share)
    pointing(REFERENCE_LAYER, queries, keys, values)
    scores = torch.einsum("blhd,bmhd->bhlm", queries, keys) * 8**-0.5
    shares = scores.masked_fill(~mask, -torch.inf).softmax(-1)[0].mean(0)
    places = (refers[0, :, 0] != NO_TARGET).nonzero()[:, 0]
    expected = torch.stack([shares[place, refers[0, place, 0]] for place in places])
    assert torch.allclose(pointing.log_share.exp(), expected, atol=1e-6)


def test_what_it_stands_for_is_learnt() -> None:
    torch.manual_seed(1)
    recipe: Recipe = replace(RECIPE, seed=3)
    world = world_of(recipe)
    objectives = Objectives(new_model(recipe), world, recipe.trunk_layer)
    batch = make_batch(
        objectives.model,
        world,
        Mix(frames=4, batch=2, text_size=200),
        5,
        {"followup": 1e6, "count": 1},
    )
    assert int((batch.refers[..., 0] != NO_TARGET).sum()) > 10
    optimiser = torch.optim.AdamW(objectives.parameters(), lr=1e-3)
    seen: list[dict[str, float]] = []
    for _ in range(25):
        losses = objectives.answers(batch, 0.0, 0.0, reference_weight=1.0)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        seen.append(losses.parts)
    assert seen[-1]["it/found"] > 2 * seen[0]["it/found"]
    assert seen[-1]["it/noun"] > 0.9
    assert "it/found" not in objectives.answers(batch, 0.0, 0.0).parts


def test_no_round_between_names_what_it_could_be_instead() -> None:
    world, rounds = world_of(RECIPE), 0
    for seed in range(15):
        rng = np.random.default_rng(seed)
        take = world.film(seed, 24, rng)
        for _ in range(10):
            _, asked = take.ask({"reference": 1e9, "count": 1.0}, rng) or (0, None)
            if asked is None or asked.kind != "followup":
                continue
            texts = [" ".join(past).split() for past in asked.history]
            noun = asked.refers.split()[-1]
            last = max(number for number, words in enumerate(texts) if noun in words)
            assert last < len(texts) - 1  # there is a round between
            for text, said in asked.history[last + 1 :]:
                rounds += 1
                assert "prohibited" not in text or said == "no"
                assert "objects" not in text or said != "one"
    assert rounds > 50


def test_where_it_was_then_is_asked_of_one_other_place_alone() -> None:
    world, asked = world_of(RECIPE), 0
    assert isinstance(world, WideWorld)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        take = world.film(seed, 40, rng)
        assert isinstance(take, WideTake)
        for _ in range(10):
            frame, question = take.ask({"then": 1e9, "count": 1.0}, rng) or (0, None)
            if question is None or question.kind != "followup":
                continue
            assert question.text.startswith("where was it")
            clip, noun = take.clip, question.refers.split()[-1]
            things = [
                t
                for t in clip.things
                if t.noun == noun and question.refers in (t.noun, clip.full_name(t.ident))
            ]
            places = {
                clip.place(moment, thing.ident)
                for thing in things
                for moment in range(max(frame - 20, 0), frame)
                if clip.there(moment, thing.ident)
            }
            now = {clip.place(frame, thing.ident) for thing in things}
            asked += 1
            assert len(places - now - {None}) == 1
    assert asked > 20
