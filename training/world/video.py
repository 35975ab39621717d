"""Long stories of the wide world as video files, with what is true of every moment beside them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.clips import encode, spans, write_truth
from training.rendering import Pixels
from training.world.backward import shown_before
from training.world.camera import Camera
from training.world.captions import scene
from training.world.catalogue import DIRECTIONS, Split, with_article
from training.world.clip import Clip, Thing
from training.world.film import shoot
from training.world.realtime import held, nameable, priced, readable
from training.world.shop import Trade
from training.world.telling import said
from training.world.wide import FRAMES_PER_SECOND, World, direct, film
from training.world.wording import NUMBERS, at

_PIECE = 48  # frames painted at a time


def pictures(
    seed: int,
    seconds: float,
    world: World,
    scale: int,
    fps: float,
    trade: Trade | None = None,
    split: Split = "train",
) -> Iterator[Pixels]:
    """[128 × scale, 128 × scale, 3] pictures of a story, through a perfect camera."""
    script, backdrop = direct(seed, seconds, world, split, trade)
    times = np.arange(int(seconds * fps)) / fps
    for start in range(0, len(times), _PIECE):
        rng = np.random.default_rng((seed, 12))
        piece = times[start : start + _PIECE]
        yield from shoot(
            script, backdrop, Camera(), piece, rng, seed=seed, world=world, fps=fps, scale=scale
        ).pixels


def true_at(clip: Clip, frame: int) -> Iterator[tuple[str, str, str]]:
    """(question, answer, kind) of what a newcomer would ask at this moment."""
    facts = scene(clip, frame)
    if facts is not None:
        yield "What do you see?", " and ".join(facts) or "nothing", "scene"
    present = clip.present(frame)
    if clip.settled(frame) and len(present) < len(NUMBERS):
        yield "How many objects are there?", NUMBERS[len(present)], "count"
        bad = any(thing.group == "prohibited" for thing in present)
        yield "Is anything prohibited shown?", "yes" if bad else "no", "prohibited"
    thing = held(clip, frame)
    if thing is not None:
        name = clip.full_name(thing.ident) if isinstance(thing, Thing) else thing
        answer = with_article(name) if isinstance(thing, Thing) else name
        yield "What is the hand holding?", answer, "held"
    before = shown_before(clip, frame)
    if before is not None:
        now, then = (clip.full_name(thing.ident) for thing in before)
        yield f"What was held up before the {now}?", with_article(then), "before"
    price = priced(clip, frame)
    if price is not None:
        yield f"How much is the {clip.full_name(price[0].ident)}?", price[1], "price"
    signs = readable(clip, frame, "sign")
    if len(signs) == 1:
        yield "What does the sign say?", said(clip, signs[0].ident), "sign"
    for seen in nameable(clip, frame):
        name, act = clip.names(seen.ident)[0], clip.act(frame, seen.ident)
        place = clip.place(frame, seen.ident)
        if place is not None and act == "still":
            yield f"Where is the {name}?", at(place), "where"
        if act in DIRECTIONS:
            yield f"Which way is the {name} moving?", act, "direction"
        if seen.colour and name == seen.noun:
            yield f"What colour is the {name}?", seen.colour, "colour"


def write_video(
    path: Path,
    seed: int,
    seconds: float,
    scale: int = 4,
    fps: int = 24,
    *,
    world: World = "shop",
    trade: Trade | None = None,
    split: Split = "train",
) -> None:
    """Write a story to `path` and its truth to the same name with .json. trade: what a narrower
    shop deals in. split: whose photographs it shows, where it is of real goods."""
    encode(path, pictures(seed, seconds, world, scale, fps, trade, split), fps)
    clip = film(seed, int(seconds * FRAMES_PER_SECOND), world, split, clean=True, trade=trade)
    told = spans(len(clip), lambda frame: true_at(clip, frame))
    write_truth(path, len(clip) / FRAMES_PER_SECOND, fps, told)
