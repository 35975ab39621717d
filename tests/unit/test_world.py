"""The generated world: what it says is true is what it shows."""

import numpy as np
import pytest

from training.clips import facts, story, write_sample
from training.questions import DONT_KNOW, KINDS, Question, ask, last_change, unique_names
from training.rendering import RGB, Scene, render
from training.truth import CHANNELS, cell_truth
from training.vocabulary import COLOURS, build_tokenizer
from training.world.shapes import SIZE, Clip, Pace, film

SEEDS = range(40)


def lively(seed: int, length: int = 48) -> Clip:
    return film(seed, length, Pace(change_rate=0.2, move_share=0.9))


def test_same_seed_gives_the_same_clip_and_pixels() -> None:
    assert film(3, 30) == film(3, 30)
    assert np.array_equal(render(film(3, 6)), render(film(3, 6)))
    assert film(3, 30) != film(4, 30)


@pytest.mark.parametrize("seed", SEEDS)
def test_things_keep_apart_and_no_two_look_the_same(seed: int) -> None:
    for things in lively(seed).frames:
        looks = [(thing.colour, thing.shape) for thing in things]
        assert len(set(looks)) == len(looks)
        for index, one in enumerate(things):
            for other in things[index + 1 :]:
                apart_x = abs(one.x - other.x) - (one.width + other.width) / 2
                apart_y = abs(one.y - other.y) - (one.height + other.height) / 2
                assert max(apart_x, apart_y) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_changes_tell_exactly_how_the_present_things_came_to_differ(seed: int) -> None:
    clip = lively(seed)
    known = {(t.colour, t.shape) for t in clip.present(0)}
    for frame in range(1, len(clip)):
        for change in clip.changes:
            if change.frame != frame:
                continue
            if change.kind == "appeared":
                known.add((change.colour, change.shape))
            elif change.kind == "disappeared":
                known.remove((change.colour, change.shape))
            else:
                known.remove((change.before, change.shape))
                known.add((change.colour, change.shape))
        assert known == {(t.colour, t.shape) for t in clip.present(frame)}


@pytest.mark.parametrize("seed", SEEDS)
def test_motion_says_how_a_thing_got_where_it_is(seed: int) -> None:
    clip = lively(seed)
    for frame in range(1, len(clip)):
        before = {thing.ident: thing for thing in clip.frames[frame - 1]}
        for thing in clip.frames[frame]:
            if thing.ident in before:
                dx, dy = thing.x - before[thing.ident].x, thing.y - before[thing.ident].y
                ways = {"right": dx > 0, "left": dx < 0, "down": dy > 0, "up": dy < 0}
                assert [way for way, is_so in ways.items() if is_so] == (
                    [] if thing.motion == "still" else [thing.motion]
                )


@pytest.mark.parametrize("seed", range(12))
def test_pixels_show_every_thing_in_its_colour(seed: int) -> None:
    clip = film(seed, 12)
    scene = Scene(clip.seed, clean=True)
    out = np.empty((scene.side, scene.side, 3), np.uint8)
    for frame in range(len(clip)):
        scene.draw(clip.frames[frame], out)
        for thing in clip.present(frame):
            pixel = out[min(int(thing.y), 127), min(int(thing.x), 127)].astype(int)
            nearest = min(RGB, key=lambda name: abs(scene.colours[name] - pixel).sum())
            assert nearest == thing.colour


def test_a_larger_picture_is_the_same_picture() -> None:
    clip = film(5, 1)
    small, large = Scene(5, 1, clean=True), Scene(5, 4, clean=True)
    a = np.empty((128, 128, 3), np.uint8)
    b = np.empty((512, 512, 3), np.uint8)
    small.draw(clip.frames[0], a)
    large.draw(clip.frames[0], b)
    shrunk = b.reshape(128, 4, 128, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - a).mean() < 3


@pytest.mark.parametrize("kind", KINDS)
def test_questions_are_answerable_and_in_the_vocabulary(kind: str) -> None:
    tokenizer = build_tokenizer()
    asked: list[Question] = []
    for seed in range(60):
        clip, rng = lively(seed), np.random.default_rng(seed)
        for frame in range(0, len(clip), 5):
            question = ask(clip, frame, kind, rng)
            if question is None:
                continue
            asked.append(question)
            assert question.kind == kind
            if kind != "watch":
                assert clip.settled(frame) or kind == "unknown"
            assert tokenizer.decode(tokenizer.encode(question.answer).ids) == question.answer
            told = " ".join([question.text, *(word for past in question.history for word in past)])
            if "zzz" not in told:
                assert "<unk>" not in tokenizer.encode(told).tokens
    assert len(asked) > 60
    if kind == "unknown":
        assert {question.answer for question in asked} == {DONT_KNOW}
    elif kind in ("presence", "watch", "moving"):
        share = sum(question.answer == "yes" for question in asked) / len(asked)
        assert 0.3 < share < 0.7


def test_names_are_unique_among_what_is_present() -> None:
    for seed in SEEDS:
        clip = lively(seed)
        for frame in range(len(clip)):
            present = clip.present(frame)
            names = [name for thing in present for name in unique_names(thing, present)]
            assert len(set(names)) == len(names)


def test_a_change_outside_the_window_is_not_told() -> None:
    quiet = film(11, 90, Pace(start_things=(0.0, 1.0), change_rate=0.0))
    assert last_change(quiet, 50) == "nothing"
    for seed in SEEDS:
        clip = lively(seed, 80)
        for frame in range(30, len(clip)):
            change = last_change(clip, frame)
            if change is not None and not isinstance(change, str):
                assert 0 < frame - change.frame < 30
                assert not any(change.frame < other.frame <= frame for other in clip.changes)


def test_cells_hold_the_thing_whose_centre_they_contain() -> None:
    names = list(CHANNELS)
    for seed in range(10):
        clip = lively(seed)
        labels, measures = cell_truth(clip, 4)
        for frame in range(len(clip)):
            cells = {
                int(t.y // (SIZE / 4)) * 4 + int(t.x // (SIZE / 4)): t for t in clip.present(frame)
            }
            assert set(np.flatnonzero(labels[frame, :, names.index("present")])) == set(cells)
            for cell, thing in cells.items():
                assert labels[frame, cell, names.index("colour")] == COLOURS.index(thing.colour)
                assert (np.abs(measures[frame, cell, :2]) <= 0.5).all()


def test_a_story_loops_and_its_facts_are_true() -> None:
    clip = story(1, 16.0)
    assert not clip.frames[0]
    assert not clip.frames[-1]
    told = facts(clip)
    assert {fact.kind for fact in told} >= {"scene", "count", "change", "direction", "colour"}
    for fact in told:
        assert 0 <= fact.time_s < fact.until_s <= len(clip) / 8
        if fact.kind == "count":
            number = len(clip.present(int(fact.time_s * 8)))
            assert fact.answer == ("zero", "one", "two", "three")[number]


def test_a_sample_is_a_video_with_its_truth_beside_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import av

    write_sample(tmp_path / "s.mp4", seed=2, seconds=8.0, scale=2, fps=12)
    with av.open(str(tmp_path / "s.mp4")) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert (stream.width, stream.height) == (256, 256)
    stamps = [packet.pts for packet in packets]
    assert stamps == sorted(stamps)
    assert [n for n, packet in enumerate(packets) if packet.is_keyframe][:2] == [0, 12]
    assert (tmp_path / "s.json").exists()
