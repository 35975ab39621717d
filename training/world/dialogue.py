"""Questions that refer back: "it" is what an earlier round named, perhaps at an earlier moment and
with other rounds since."""

from numpy.random import Generator

from training.world.catalogue import DIRECTIONS, with_article
from training.world.clip import Clip, Thing
from training.world.conversation import Rounds, unknown_round
from training.world.outside import ask_unknown
from training.world.question import WINDOW, Question, pick, yes
from training.world.realtime import (
    ask_count,
    ask_prohibited,
    held,
    nameable,
    priced,
    say,
)
from training.world.telling import whereabouts
from training.world.wording import NUMBERS, at

_BACK = 20  # frames between the earlier round and now, at most
_APART = 0.4  # share of questions with other rounds between them and what they refer to
_PLACES = ("where", "place_then")


def naming_round(
    clip: Clip, frame: int, thing: Thing, rng: Generator, avoid: str = ""
) -> tuple[str, str] | None:
    """A round put at `frame` about this thing, which does not tell `avoid`."""
    name = pick(rng, clip.names(thing.ident))
    if avoid == "colour":
        name = name.split()[-1]
        if name not in clip.names(thing.ident):
            return None
    options = [(say(rng, "presence", with_article(name)), "yes")]
    place = clip.place(frame, thing.ident)
    if place and avoid != "where":
        options.append((say(rng, "where", name), at(place)))
        if avoid != "colour" or not thing.colour:
            full = with_article(clip.full_name(thing.ident))
            alone = sum(clip.place(frame, t.ident) in (place, None) for t in clip.present(frame))
            if alone == 1 and clip.settled(frame):
                options.append((say(rng, "what", place=place), full))
    if thing.colour and avoid != "colour" and name == thing.noun:
        options.append((say(rng, "colour", name), thing.colour))
    if held(clip, frame) is thing and (avoid != "colour" or not thing.colour):
        full = with_article(clip.full_name(thing.ident))
        options.append((say(rng, "held"), full))
    return pick(rng, options)


def ask_reference(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """A follow-up that always has other rounds between it and what it refers to."""
    asked = ask_followup(clip, frame, rng, apart=1.0)
    if asked is None or not asked.history:
        return None
    words = " ".join(asked.history[-1]).split()
    return None if asked.refers.split()[-1] in words else asked


def ask_then(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """Ask where it was: a rare follow-up, since few things have moved to one other place."""
    return ask_followup(clip, frame, rng, only="place_then")


def ask_followup(
    clip: Clip, frame: int, rng: Generator, apart: float = _APART, only: str = ""
) -> Question | None:
    earlier = max(frame - int(rng.integers(0, _BACK)), 0) if rng.random() < 0.7 else frame
    options = nameable(clip, earlier)
    if not options:
        return None
    thing = pick(rng, options)
    ident = thing.ident
    here = clip.there(frame, ident)
    if here is None:
        return None
    answers: dict[str, str] = {}
    if here:
        act, place = clip.act(frame, ident), clip.place(frame, ident)
        if thing.colour and thing.noun in clip.names(ident):
            answers["colour"] = thing.colour
        if place:
            answers["where"] = at(place)
        if act in DIRECTIONS or (act == "still" and rng.random() < 0.2):
            answers["direction"] = "it is not moving" if act == "still" else str(act)
        price = priced(clip, frame)
        if price and price[0] is thing:
            answers["price"] = price[1]
    else:
        left = [e for e in clip.events if e.kind == "went" and e.things[0] == ident]
        left = [e for e in left if e.frame <= frame]
        if left and left[-1].sure and earlier < left[-1].frame and frame - earlier < WINDOW - 5:
            answers["went"] = whereabouts(clip, left[-1])
    if earlier < frame - 3 and (not here or rng.random() < 0.25):
        answers["there"] = yes(here)
    then = clip.place(earlier, ident)
    if here and earlier < frame - 3 and then and _other_places(clip, frame, ident) == {then}:
        answers["place_then"] = at(then)
    if not answers or (only and only not in answers):
        return None
    asked = only or pick(rng, sorted(answers))
    avoid = {"place_then": "where", "where": "where"}.get(asked, asked)
    rounds: list[tuple[str, str]] = []
    others = [t for t in nameable(clip, earlier) if t is not thing]
    if others and rng.random() < 0.35:  # an earlier round about another thing
        first = naming_round(clip, earlier, pick(rng, others), rng)
        rounds += [first] if first else []
    named = naming_round(clip, earlier, thing, rng, avoid)
    if named is None:
        return None
    rounds.append(named)
    if rng.random() < apart:
        number = int(rng.integers(1, 4) if rng.random() < 0.8 else rng.integers(4, 9))
        besides = {
            key: answer
            for key, answer in answers.items()
            if key != asked and not (key in _PLACES and asked in _PLACES)
        }
        for _ in range(number):
            rounds += _naming_nothing(clip, frame, besides, rng)
    refers = _name_in(clip, ident, named)
    text = say(rng, f"it_{asked}")
    return Question("followup", text, answers[asked], tuple(rounds), refers=refers)


def _other_places(clip: Clip, frame: int, ident: int) -> set[str]:
    """Places where a thing surely was of late and is not now. When an earlier round was is told to
    nobody: with two such places either of them is meant."""
    now = clip.place(frame, ident)
    past = range(max(frame - _BACK, 0), frame)
    places = (clip.place(moment, ident) for moment in past if clip.there(moment, ident))
    return {place for place in places if place and place != now} if now else set()


def _name_in(clip: Clip, ident: int, named: tuple[str, str]) -> str:
    """The name that a round gave this thing."""
    full = clip.full_name(ident)
    return full if full in " ".join(named) else clip.things[ident].noun


def _naming_nothing(clip: Clip, frame: int, besides: dict[str, str], rng: Generator) -> Rounds:
    """A round after which "it" still is what it was; none where there is nothing to ask. besides:
    what else can be said of "it"."""
    roll = rng.random()
    if roll < 0.35 and besides:
        key = pick(rng, sorted(besides))
        return ((say(rng, f"it_{key}"), besides[key]),)
    if roll < 0.55:
        return (unknown_round(rng),)
    ask = ask_unknown if roll < 0.7 else ask_prohibited if roll < 0.85 else ask_count
    asked = ask(clip, frame, rng)
    if asked is None or (asked.kind == "prohibited" and asked.answer != "no"):
        return ()  # "it" would be what is prohibited
    if asked.kind == "count" and ("objects" not in asked.text or asked.answer == NUMBERS[1]):
        return ()  # "it" would be the one object
    return ((asked.text, asked.answer),)
