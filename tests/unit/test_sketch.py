"""Drawings that grow on a sheet, and are called what they are by then."""

import numpy as np

from training.world import asking, wide
from training.world.drawings import BEGINNINGS, SKETCHES, drawing, share_of


def test_what_begins_as_something_else_begins_with_its_strokes() -> None:
    for name, (strokes, _) in BEGINNINGS.items():
        begun, whole = drawing(f"{name}:{strokes}", 1.0), drawing(name, 1.0)
        assert (begun <= whole).all()
        assert 0 < begun.sum() < whole.sum()
        assert 0 < share_of(name, strokes) < 1
        near = drawing(name, share_of(name, strokes))
        assert np.abs(near - begun).mean() < 0.02


def test_a_drawing_only_grows_and_is_named_once_it_can_be_known() -> None:
    grown, named = 0, set[str]()
    for seed in range(24):
        clip = wide.film(seed, 60, "sketch", clean=True)
        for thing in clip.things:
            shown = clip.visible[:, thing.ident]
            there = np.flatnonzero(shown > 0)
            if len(there) < 2:
                continue
            shown = shown[there[0] : there[-1] + 1]
            assert (np.diff(shown) > -0.02).all(), (seed, thing.noun)
            grown += bool(shown[0] < 0.5 < shown[-1])
        for frame in range(0, 60, 4):
            asked = asking.ask(clip, frame, "what", np.random.default_rng(frame))
            if asked is None:
                continue
            present = {thing.noun for thing in clip.present(frame)}
            assert asked.answer.split()[-1] in present
            named |= present
    assert grown > 20
    assert len(named & set(SKETCHES)) >= 10
    assert {"circle", "face", "square"} & named


def test_a_sheet_that_is_drawn_on_further_is_called_something_else() -> None:
    renamed = set[tuple[str, str]]()
    for seed in range(60):
        clip = wide.film(seed, 80, "sketch", clean=True)
        for first in clip.things:
            for second in clip.things:
                if BEGINNINGS.get(second.noun, (0, ""))[1] != first.noun:
                    continue
                one, two = (np.flatnonzero(clip.presence[:, t.ident] == 1) for t in (first, second))
                if len(one) and len(two) and one[-1] < two[0] < one[-1] + 40:
                    renamed.add((first.noun, second.noun))
    assert len(renamed) >= 3, renamed
