"""What training never shows, it says nothing against."""

from typing import get_args

import numpy as np
import pytest
import torch

from training.batches import make_batch, new_model, world_of
from training.layout import NO_TARGET
from training.objectives import Objectives
from training.recipe import Mix, load_recipe
from training.vocabulary import build_tokenizer
from training.withheld import Withheld
from training.world import wide
from training.world.catalogue import Split, is_held_out
from training.world.realtime import priced
from training.worlds import ShapesWorld, WideTake

TOKENIZER = build_tokenizer(["scarf", "book", "12", "20", "dollars"])
PAIRS = (("12", "scarf"), ("20", "book"))


def _word(text: str) -> int:
    return int(TOKENIZER.token_to_id(text))


def test_a_price_is_not_denied_beside_its_noun_alone() -> None:
    """Two branches and a padding: "scarf → 20", "book → 12"."""
    scarf, book, twelve, twenty = map(_word, ("scarf", "book", "12", "20"))
    tokens = torch.tensor([[scarf, book, 0]])
    targets = torch.tensor([[twenty, twelve, NO_TARGET]])
    branches = torch.tensor([[0, 1, -1]])
    logits = torch.zeros(2, TOKENIZER.get_vocab_size(), requires_grad=True)
    left = Withheld(PAIRS, TOKENIZER).of_answers(logits, tokens, targets, branches)
    gone = (left == -torch.inf).nonzero().tolist()
    assert gone == sorted([[0, twelve], [0, book], [1, twenty], [1, scarf]])
    torch.nn.functional.cross_entropy(left, targets[0, :2]).backward()
    assert logits.grad is not None
    assert logits.grad[0, twelve] == 0
    assert logits.grad[1, twenty] == 0
    assert logits.grad[0, _word("dollars")] > 0


def test_a_world_without_pairs_loses_nothing() -> None:
    withheld = Withheld(ShapesWorld.withheld, TOKENIZER)
    logits = torch.zeros(1, TOKENIZER.get_vocab_size())
    tokens, owners = torch.tensor([[_word("scarf")]]), torch.tensor([[0]])
    assert withheld.of_answers(logits, tokens, torch.tensor([[_word("12")]]), owners) is logits
    assert withheld.state_dict() == {}


@pytest.mark.slow
def test_the_narrow_shop_shows_what_it_withholds_in_held_out_clips_only() -> None:
    recipe = load_recipe("builtin")
    assert world_of(recipe).withheld
    found: dict[Split, set[str]] = {"train": set(), "held_out": set()}
    for split, shown in found.items():
        for seed in range(20):
            clip = wide.film(seed, 60, "shop", split, fps=4.0, trade=recipe.trade)
            for thing in clip.things:
                owner = clip.things[thing.of].noun if thing.of >= 0 else ""
                if owner and is_held_out(owner, thing.text):
                    shown.add(thing.text)
            lifted = (e for e in clip.events if e.kind == "held" and e.frame > 0)
            for event in lifted:
                noun = clip.things[event.things[0]].noun
                came = any(
                    e.kind == "came" and e.things[0] == event.things[0] and e.how == "hand"
                    for e in clip.events
                )
                if is_held_out(noun, "lift") and not came:
                    shown.add(noun)
    assert not found["train"]
    assert {"$9", "$12"} <= found["held_out"]
    assert found["held_out"] & {"shirt", "scarf", "phone"}


def test_losses_stay_finite_on_both_splits() -> None:
    recipe = load_recipe("builtin")
    world, model = world_of(recipe), new_model(recipe)
    objectives = Objectives(model, world, recipe.trunk_layer)
    for split in get_args(Split):
        batch = make_batch(model, world, Mix(frames=6, batch=2, text_size=160), 5, split=split)
        with torch.no_grad():
            losses = objectives.answers(batch, 0.5, 0.0)
        assert losses.total.isfinite()
        assert np.isfinite(list(losses.parts.values())).all()


def test_no_watch_of_training_denies_a_withheld_price_of_what_is_shown() -> None:
    recipe = load_recipe("builtin")
    world = world_of(recipe)
    denied: dict[Split, int] = {"train": 0, "held_out": 0}
    for split in denied:
        for seed in range(5):
            rng = np.random.default_rng(seed)
            take = world.film(seed, 40, rng, split)
            assert isinstance(take, WideTake)
            for _ in range(100):
                frame, question = take.ask({"watch": 1.0}, rng) or (0, None)
                shown = priced(take.clip, frame)
                if question is None or question.answer == "yes" or shown is None:
                    continue
                words = question.text.split()
                denied[split] += any((w, shown[0].noun) in world.withheld for w in words)
    assert denied["train"] == 0
    assert denied["held_out"] > 0
