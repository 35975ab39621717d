"""Watches: conditions that are false, true or debatable at every frame, and when they come true."""

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator

from training.world.catalogue import DIRECTIONS, GROUP_PLURALS, with_article
from training.world.clip import Clip, Kind, Thing
from training.world.question import Question, pick, yes
from training.world.realtime import claim, held, priced, readable, say
from training.world.telling import aloud
from training.world.wording import NUMBERS

_PLACES = (
    *("top left", "top", "top right", "left", "middle", "right"),
    *("bottom left", "bottom", "bottom right"),
)
_HOLDS = 0.45  # of those asked for; it is harder to find than one that does not
_HOLDS_SELDOM = {"gone": 0.9}  # harder still: something must have left
_TRIES = 8
_NEVER_READ = 0.3  # share of texts that mostly nothing in the clip says
# Lessons oftener compare words with what is written, which is learnt last, and mostly where
# something is.
_TAUGHT = {"price": 3.0, "sign": 2.0, "gone": 2.0}
_WRITTEN: dict[str, Kind] = {"price": "tag", "sign": "sign"}
_WRITTEN_NOW = 0.8
Truth = bool | None


@dataclass(frozen=True, slots=True)
class Condition:
    """Condition that is watched for, in words, and whether it holds at a frame of a clip of any
    world; None where debatable."""

    text: str
    holds: Callable[[Any, int], Truth]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Watch:
    """A standing question put after frame `asked`, when its condition did not hold.

    when: the first frame at which it surely holds, None if it never does in this clip. Saying so
    before `earliest` is wrong; between the two nobody can tell.
    """

    text: str
    asked: int
    earliest: int | None
    when: int | None
    kind: str = ""


Make = Callable[[Any, int, Generator], Condition | None]


def _objects(clip: Clip) -> list[Thing]:
    return [t for t in clip.things if t.kind in ("object", "drawing") and clip.names(t.ident)]


def _there(clip: Clip, frame: int, rng: Generator) -> Condition | None:
    """Something that is in the clip, or nearly so."""
    name, _ = claim(clip, frame, rng)
    things = _objects(clip)
    if things and rng.random() < 0.6:
        name = with_article(clip.full_name(pick(rng, things).ident))
    words = name.split()
    colour, noun = (words[-2] if len(words) > 2 else ""), words[-1]
    like = [
        t.ident
        for t in clip.things
        if t.kind in ("object", "drawing") and t.noun == noun and colour in ("", t.colour)
    ]

    def holds(clip: Clip, frame: int) -> Truth:
        states = clip.presence[frame, like]
        return True if (states == 1).any() else None if (states < 0).any() else False

    return Condition(say(rng, "watch_there", name), holds)


def _gone(clip: Clip, frame: int, rng: Generator) -> Condition | None:
    here = [t for t in _objects(clip) if clip.there(frame, t.ident)]
    if not here:
        return None
    ident = pick(rng, here).ident

    def holds(clip: Clip, frame: int) -> Truth:
        there = clip.there(frame, ident)
        return None if there is None else not there

    return Condition(say(rng, "watch_gone", pick(rng, clip.names(ident))), holds)


def _count(clip: Clip, frame: int, rng: Generator) -> Condition | None:
    group = pick(rng, ("", *GROUP_PLURALS)) if rng.random() < 0.5 else ""

    def number(frame: int) -> int:
        return sum(not group or t.group == group for t in clip.present(frame))

    wanted = number(int(rng.integers(len(clip))))
    if rng.random() < 0.25:
        wanted = int(rng.integers(0, 6))

    def holds(clip: Clip, frame: int) -> Truth:
        return number(frame) == wanted if clip.settled(frame) else None

    name = GROUP_PLURALS[group] if group else "objects"
    if wanted == 1:
        name = name.replace("pieces", "piece").removesuffix("s")
    return Condition(say(rng, "watch_count", NUMBERS[wanted], name), holds)


def _held(clip: Clip, frame: int, rng: Generator) -> Condition | None:
    shown = sorted({int(i) for i in clip.holding if i >= 0})
    things = _objects(clip)
    if not any(t.kind == "hand" for t in clip.things) or not things:
        return None
    ident = pick(rng, shown) if shown and rng.random() < 0.75 else pick(rng, things).ident

    def holds(clip: Clip, frame: int) -> Truth:
        found = held(clip, frame)
        return None if found is None else isinstance(found, Thing) and found.ident == ident

    return Condition(say(rng, "watch_held", with_article(clip.full_name(ident))), holds)


def _moving(clip: Clip, frame: int, rng: Generator) -> Condition | None:
    things = _objects(clip)
    if not things:
        return None
    ident = pick(rng, things).ident
    ways = {clip.act(k, ident) for k in range(len(clip))} & set(DIRECTIONS)
    way = pick(rng, sorted(w for w in ways if w)) if ways and rng.random() < 0.75 else None
    way = way or pick(rng, DIRECTIONS)

    def holds(clip: Clip, frame: int) -> Truth:
        if clip.there(frame, ident) is False:
            return False
        act = clip.act(frame, ident)
        return None if act is None else act == way

    return Condition(say(rng, "watch_moving", pick(rng, clip.names(ident)), way), holds)


def _place(clip: Clip, frame: int, rng: Generator) -> Condition | None:
    things = _objects(clip)
    if not things:
        return None
    ident = pick(rng, things).ident
    shown = np.flatnonzero(clip.presence[:, ident] == 1)
    place = clip.place(int(rng.choice(shown)), ident) if len(shown) else None
    place = place if place and rng.random() < 0.75 else pick(rng, _PLACES)

    def holds(clip: Clip, frame: int) -> Truth:
        there = clip.there(frame, ident)
        if not there:
            return there
        now = clip.place(frame, ident)
        return None if now is None else now == place

    return Condition(say(rng, "watch_place", pick(rng, clip.names(ident)), place=place), holds)


def _sign(clip: Clip, frame: int, rng: Generator) -> Condition | None:
    signs = [t for t in clip.things if t.kind == "sign"]
    text = _text(clip, signs, rng)
    if not text:
        return None

    def holds(clip: Clip, frame: int) -> Truth:
        mine = [t.ident for t in signs if t.text == text]
        if any(t.text == text for t in readable(clip, frame, "sign")):
            return True
        return False if not clip.visible[frame, mine].any() else None

    return Condition(say(rng, "watch_sign", text), holds)


def _price(clip: Clip, frame: int, rng: Generator) -> Condition | None:
    tags = [t for t in clip.things if t.kind == "tag"]
    wanted = aloud(_text(clip, tags, rng))
    if not wanted:
        return None

    def holds(clip: Clip, frame: int) -> Truth:
        found = priced(clip, frame)
        if found is not None:
            return found[1] == wanted
        return False if not clip.visible[frame, [t.ident for t in tags]].any() else None

    return Condition(say(rng, "watch_price", wanted.split()[0]), holds)


def _text(clip: Clip, written: list[Thing], rng: Generator) -> str:
    """Text that one of these says, or might have said; "" where none of them is there."""
    if not written:
        return ""
    others = clip.texts.get(written[0].kind, ())
    if others and rng.random() < _NEVER_READ:
        return pick(rng, others)
    return pick(rng, written).text


def _prohibited(clip: Clip, frame: int, rng: Generator) -> Condition | None:
    mine = [t.ident for t in clip.things if t.group == "prohibited"]
    if not mine and rng.random() < 0.6:
        return None

    def holds(clip: Clip, frame: int) -> Truth:
        states = clip.presence[frame, mine]
        return True if (states == 1).any() else None if (states < 0).any() else False

    return Condition(say(rng, "watch_prohibited"), holds)


CONDITIONS: dict[str, tuple[Make, float]] = {
    "there": (_there, 3.0),
    "gone": (_gone, 1.0),
    "count": (_count, 1.5),
    "held": (_held, 2.0),
    "moving": (_moving, 2.0),
    "place": (_place, 1.5),
    "sign": (_sign, 1.0),
    "price": (_price, 1.5),
    "prohibited": (_prohibited, 1.0),
}


def _draw_kind(rng: Generator, often: Mapping[str, float]) -> str:
    """A kind drawn by weight; `often`: times as likely."""
    weights = np.array([w * often.get(kind, 1.0) for kind, (_, w) in CONDITIONS.items()])
    return list(CONDITIONS)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def ask_watch(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """A condition and whether it holds now. Oftener not: one that is watched mostly does not. Every
    other one was thought of earlier, as a watch is: only then can a thing be gone since."""
    kind = _draw_kind(rng, _TAUGHT)
    wanted = rng.random() < _HOLDS_SELDOM.get(kind, _HOLDS)
    written = _WRITTEN.get(kind)
    if written and not clip.present(frame, (written,)) and rng.random() < _WRITTEN_NOW:
        return None
    for _ in range(_TRIES):
        asked = frame if rng.random() < 0.5 else int(rng.integers(frame + 1))
        condition = CONDITIONS[kind][0](clip, asked, rng)
        truth = condition.holds(clip, frame) if condition else None
        if condition is not None and truth is wanted:
            return Question("watch", condition.text, yes(wanted), is_watch=True)
    return None


def draw_watch(clip: Clip, asked: int, rng: Generator) -> Watch | None:
    """A watch set at a moment when its condition surely does not hold."""
    kind = _draw_kind(rng, {})
    condition = CONDITIONS[kind][0](clip, asked, rng)
    return expected(replace(condition, kind=kind), clip, asked) if condition else None


def expected(condition: Condition, clip: Sized, asked: int) -> Watch | None:
    """The condition watched for after frame `asked`; None where it may hold there already, or
    where nobody can tell whether it ever does."""
    if condition.holds(clip, asked) is not False:
        return None
    watch = Watch(condition.text, asked, None, None, condition.kind)
    earliest: int | None = None
    for frame in range(asked + 1, len(clip)):
        truth = condition.holds(clip, frame)
        if truth:
            return replace(watch, earliest=frame if earliest is None else earliest, when=frame)
        earliest = None if truth is False else frame if earliest is None else earliest
    return watch if earliest is None else None
