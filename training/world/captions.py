"""Descriptions as facts: clauses joined by "and", so that what is said can be scored by facts."""

from numpy.random import Generator

from training.world.backward import summary
from training.world.catalogue import DIRECTIONS, with_article
from training.world.clip import Clip
from training.world.question import Question, pick
from training.world.realtime import held, priced, readable
from training.world.telling import said
from training.world.wording import ASKED, at

_MOST = 4
_JOIN = " and "


def scene(clip: Clip, frame: int) -> list[str] | None:
    """All that a viewer would tell of this moment, from the left to the right; None if unclear."""
    if not clip.settled(frame, ("object", "drawing", "sign", "tag")):
        return None
    facts: list[str] = []
    holding = held(clip, frame)
    for thing in clip.present(frame):
        name = with_article(clip.full_name(thing.ident))
        if thing is holding:
            facts.append(f"a hand holds {name}")
            continue
        act = clip.act(frame, thing.ident)
        if act in DIRECTIONS:
            facts.append(f"{name} is moving {act}")
            continue
        place = clip.place(frame, thing.ident)
        if place is None or (act is None and frame > 0 and clip.acts[frame, thing.ident]):
            return None
        facts.append(f"{name} is {at(place)}")
    signs = clip.present(frame, ("sign",))
    if len(readable(clip, frame, "sign")) < len(signs):
        return None
    facts += [f"a sign says {said(clip, sign.ident)}" for sign in signs]
    price = priced(clip, frame)
    if price is None and clip.present(frame, ("tag",)):
        return None
    return facts + ([f"the price is {price[1]}"] if price else [])


def ask_scene(clip: Clip, frame: int, rng: Generator) -> Question | None:
    facts = scene(clip, frame)
    if facts is None or len(facts) > _MOST or (not facts and rng.random() < 0.7):
        return None
    return Question("scene", pick(rng, ASKED["scene"]), _JOIN.join(facts) or "nothing")


def ask_story(clip: Clip, frame: int, rng: Generator) -> Question | None:
    facts = summary(clip, frame)
    if facts is None or len(facts) > _MOST or (not facts and rng.random() < 0.8):
        return None
    return Question("story", pick(rng, ASKED["story"]), _JOIN.join(facts) or "nothing happened")


def score(said: str, right: str) -> tuple[float, float]:
    """(precision, recall) of the facts in a description. Order does not count, repetition does."""
    told, true = said.split(_JOIN), right.split(_JOIN)
    found = sum(min(told.count(fact), true.count(fact)) for fact in set(true))
    return found / len(told), found / len(true)
