"""The clips and questions that the shipped weights were trained on and are examined with.

Truth and questions are compared exactly; pixels nearly, as sines may round by the processor.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from training.batches import Batch, draw_branches, new_model, world_of
from training.clips import facts, story
from training.examination.worlds import questions_of
from training.pools import Pools
from training.recipe import EVALUATION_SEEDS, TRAIN_SEEDS, load_recipe
from training.rendering import render
from training.schedule import Share, make_step
from training.world.shapes import film
from training.worlds import ShapesTake, ShapesWorld, draw_pace


def digest(*things: object) -> str:
    return hashlib.sha256(repr(things).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("seed", "truth", "questions", "mean", "green"),
    [
        (EVALUATION_SEEDS, "46a5a4629ed84bb9", "cbb9313f3b2ecc83", 68.692, [65, 70, 66, 64, 57]),
        (EVALUATION_SEEDS + 5, "6471b23ca1872a93", "8242cfc4f60edc4f", 103.146, [105, 98, 92]),
        (TRAIN_SEEDS + 1024, "e2475e84f185b415", "0de90c1be0c3536e", 108.839, [46, 99, 103, 126]),
    ],
)
def test_a_seed_means_the_same_clip_for_ever(
    seed: int, truth: str, questions: str, mean: float, green: list[int]
) -> None:
    rng = np.random.default_rng((seed, 4))
    clip = film(seed, 40, draw_pace(rng))
    asked = [
        (frame, [(q.kind, q.text, q.answer, q.history, q.is_watch) for q in found])
        for frame, found in questions_of(clip, rng)
    ]
    assert digest(clip.frames, clip.changes) == truth
    assert digest(asked) == questions
    pixels = render(clip)
    assert abs(float(pixels.mean()) - mean) < 0.05
    sampled = pixels[::13, 40::37, 30::41, 1].ravel()[: len(green)].astype(int)
    assert np.abs(sampled - green).max() <= 2


def test_the_sample_stream_and_the_branches_of_a_batch_stay_too() -> None:
    clip = story(1, 24.0)
    assert digest(clip.frames, clip.changes) == "f724d197a07a0f25"
    assert digest(facts(clip)) == "84943abee05282a1"
    model, take = new_model(load_recipe("shapes")), ShapesTake(film(9, 12))
    drawn = draw_branches(model, take, ShapesWorld.kinds, 200, np.random.default_rng(1))
    assert digest(drawn) == "bd5f59232fd1e92d"


@pytest.mark.parametrize(
    ("step", "expected"),
    [(310, "a1ac192006bf3bb0"), (700, "d55345becde784f4"), (1700, "e8ba491c86e12ba3")],
)
def test_a_step_of_the_shipped_recipe_stays_too(step: int, expected: str, tmp_path: Path) -> None:
    recipe = load_recipe("shapes")
    model = new_model(recipe)
    batch = make_step(model, world_of(recipe), recipe, step, Share(1, 8), Pools(tmp_path, recipe))
    assert isinstance(batch, Batch)
    told = (batch.tokens, batch.targets, batch.positions, batch.labels)
    assert digest(*(tensor.tolist() for tensor in told), batch.kinds) == expected
