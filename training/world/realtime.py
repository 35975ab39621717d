"""Questions about the present moment. Each returns None where nothing can be asked for sure."""

import numpy as np
from numpy.random import Generator

from training.world.catalogue import (
    DIRECTIONS,
    GROUP_PLURALS,
    TINTS,
    items,
    plural,
    with_article,
)
from training.world.clip import Clip, Event, Kind, Thing
from training.world.goods import REAL_NOUNS, REAL_WORLDS
from training.world.question import Question, pick, yes
from training.world.telling import clause, said, told
from training.world.wording import ASKED, NUMBERS, at

_NEAR = 34.0
_READABLE = 0.93
_SLOW, _FAST = 25.0, 38.0
_JUST_S, _LONG_AGO_S = 1.0, 1.6
_CLEARLY_BIGGER = 1.4
_REAL, _POINTED_AT = 0.7, 0.4


def say(rng: Generator, kind: str, *words: str, place: str = "") -> str:
    return pick(rng, ASKED[kind]).format(*words, at=at(place) if place else "")


def nameable(clip: Clip, frame: int, *kinds: Kind) -> list[Thing]:
    """Things that are there and can be called by names of their own."""
    return [t for t in clip.present(frame, kinds or ("object", "drawing")) if clip.names(t.ident)]


def centre(clip: Clip, frame: int, ident: int) -> tuple[float, float]:
    left, top, right, bottom = clip.boxes[frame, ident]
    return float(left + right) / 2, float(top + bottom) / 2


def ask_what(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """Ask what is in one of the nine places."""
    present = clip.present(frame)
    if not present or not clip.settled(frame):
        return None
    thing = pick(rng, present)
    place, x_y = clip.place(frame, thing.ident), centre(clip, frame, thing.ident)
    others = [centre(clip, frame, t.ident) for t in present if t is not thing]
    if place is None or any(np.hypot(x - x_y[0], y - x_y[1]) < _NEAR for x, y in others):
        return None
    if any(clip.place(frame, t.ident) == place for t in present if t is not thing):
        return None
    of_sketch = clip.world == "sketch"  # whose colour is the pen's
    answer = with_article(thing.noun if of_sketch else clip.full_name(thing.ident))
    if clip.world in ("photographs", "sketch") and rng.random() < _POINTED_AT:
        return Question("what", say(rng, "what_this"), answer)
    return Question("what", say(rng, "what", place=place), answer)


def ask_colour(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """Only of what comes in several colours; where two share a noun there is nothing to ask."""
    fit = [
        t
        for t in nameable(clip, frame, "object", "drawing", "sign")
        if t.colour and t.noun in clip.names(t.ident)
    ]
    if not fit:
        return None
    thing = pick(rng, fit)
    return Question("colour", say(rng, "colour", thing.noun), thing.colour)


def ask_where(clip: Clip, frame: int, rng: Generator) -> Question | None:
    fit = nameable(clip, frame, "object", "drawing", "sign")
    if not fit:
        return None
    thing = pick(rng, fit)
    place = clip.place(frame, thing.ident)
    if place is None:
        return None
    return Question("where", say(rng, "where", pick(rng, clip.names(thing.ident))), at(place))


def ask_count(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """A count of everything, of a group, or of one noun."""
    present = clip.present(frame)
    if not clip.settled(frame) or len(present) >= len(NUMBERS):
        return None
    herds = [t for t in present if not clip.names(t.ident)]
    roll = rng.random()
    if herds and roll < 0.5:
        noun = herds[0].noun
        name, number = plural(noun), sum(t.noun == noun for t in present)
    elif roll < 0.75:
        name, number = "objects", len(present)
    else:
        group = pick(rng, tuple(GROUP_PLURALS))
        name, number = GROUP_PLURALS[group], sum(t.group == group for t in present)
        if number == 0 and rng.random() < 0.7:
            return None
    return Question("count", say(rng, "count", name), NUMBERS[number])


def claim(clip: Clip, frame: int, rng: Generator) -> tuple[str, bool]:
    """(a name with its article, whether such a thing is there), balanced, with near misses."""
    present = clip.present(frame)
    if present and rng.random() < 0.5:
        thing = pick(rng, present)
        full = thing.colour and rng.random() < 0.6
        name = clip.full_name(thing.ident) if full else thing.noun
        return with_article(name), True
    gone = [t for t in clip.things if t.kind == "object" and clip.there(frame, t.ident) is False]
    roll = rng.random()
    if gone and roll < 0.4:  # what was or will be there
        name = clip.full_name(pick(rng, gone).ident)
    elif present and roll < 0.6:  # the right thing in another colour
        name = f"{pick(rng, TINTS)} {pick(rng, present).noun}"
    else:
        name = any_noun(clip, rng)
    words = name.split()
    truth = any(t.noun == words[-1] and (len(words) == 1 or t.colour == words[0]) for t in present)
    return with_article(name), truth


def any_noun(clip: Clip, rng: Generator) -> str:
    """A noun that may or may not be in a clip; of real goods mostly another real one."""
    if clip.world in REAL_WORLDS and rng.random() < _REAL:
        return pick(rng, REAL_NOUNS)
    return pick(rng, [i for i in items() if i.group not in ("hand", "host")]).noun


def ask_presence(clip: Clip, frame: int, rng: Generator) -> Question | None:
    if not clip.settled(frame):
        return None
    name, truth = claim(clip, frame, rng)
    return Question("presence", say(rng, "presence", name), yes(truth))


def readable(clip: Clip, frame: int, kind: Kind) -> list[Thing]:
    """Signs or tags that show whole; none if another is half there."""
    if not clip.settled(frame, (kind,)):
        return []
    found = clip.present(frame, (kind,))
    return found if all(clip.visible[frame, t.ident] > _READABLE for t in found) else []


def ask_sign(clip: Clip, frame: int, rng: Generator) -> Question | None:
    signs = readable(clip, frame, "sign")
    if not signs:
        return None
    sign = pick(rng, signs)
    name = "sign"
    if len(signs) > 1 or rng.random() < 0.2:
        name = f"{sign.colour} sign"
        if sum(other.colour == sign.colour for other in signs) > 1:
            return None
    return Question("sign", say(rng, "sign", name), said(clip, sign.ident))


def moving(clip: Clip, frame: int, rng: Generator) -> tuple[Thing, str] | None:
    """A thing and its direction or "still"; movers come first."""
    sure = [(t, act) for t in nameable(clip, frame) if (act := clip.act(frame, t.ident))]
    going = [(t, act) for t, act in sure if act in DIRECTIONS]
    still = [(t, act) for t, act in sure if act == "still"]
    if going and (not still or rng.random() < 0.85):
        return pick(rng, going)
    return pick(rng, still) if still else None


def ask_direction(clip: Clip, frame: int, rng: Generator) -> Question | None:
    found = moving(clip, frame, rng)
    if found is None or (found[1] == "still" and rng.random() < 0.88):
        return None
    name = pick(rng, clip.names(found[0].ident))
    answer = "it is not moving" if found[1] == "still" else found[1]
    return Question("direction", say(rng, "direction", name), answer)


def ask_speed(clip: Clip, frame: int, rng: Generator) -> Question | None:
    found = moving(clip, frame, rng)
    if found is None or found[1] == "still":
        return None
    speed = clip.speed(frame, found[0].ident)
    if _SLOW < speed < _FAST or (speed < _FAST and clip.visible[frame, found[0].ident] < 0.98):
        return None
    if speed < _FAST and rng.random() < 0.4:  # what is slow moves for longer
        return None
    name = pick(rng, clip.names(found[0].ident))
    return Question("speed", say(rng, "speed", name), "fast" if speed >= _FAST else "slowly")


def latest(clip: Clip, frame: int) -> Event | str | None:
    """Event completed within the last second; "nothing" if nothing went on; None if unclear."""
    now = clip.times[frame]
    begun = [event for event in clip.events if event.start <= frame]
    if any(event.frame > frame for event in begun):
        return None
    ages = [(now - clip.times[event.frame], event) for event in begun]
    recent = [event for age, event in ages if age <= _LONG_AGO_S]
    if not recent:
        return "nothing"
    known = told(clip)
    telling = [event for event in known if event in recent]
    if not telling or any(not event.sure for event in recent):
        return None
    last = telling[-1]
    alone = sum(abs(event.frame - last.frame) <= 1 for event in telling) == 1
    return last if alone and 0 < now - clip.times[last.frame] <= _JUST_S else None


def ask_change(clip: Clip, frame: int, rng: Generator) -> Question | None:
    if not clip.settled(frame, ("object", "drawing", "sign", "tag")):
        return None
    event = latest(clip, frame)
    if event is None or (isinstance(event, str) and rng.random() < 0.75):
        return None
    answer = "nothing changed" if isinstance(event, str) else clause(clip, event)
    return Question("change", say(rng, "change"), answer)


def ask_bigger(clip: Clip, frame: int, rng: Generator) -> Question | None:
    fit = [t for t in nameable(clip, frame, "object") if clip.visible[frame, t.ident] > 0.9]
    if len(fit) < 2:
        return None
    one, other = (fit[int(i)] for i in rng.permutation(len(fit))[:2])
    ratio = clip.sizes[frame, one.ident] / clip.sizes[frame, other.ident]
    if 1 / _CLEARLY_BIGGER < ratio < _CLEARLY_BIGGER:
        return None
    names = [pick(rng, clip.names(t.ident)) for t in (one, other)]
    return Question("bigger", say(rng, "bigger", *names), f"the {names[0 if ratio > 1 else 1]}")


def held(clip: Clip, frame: int) -> Thing | str | None:
    """Thing that a hand holds up, "nothing" where no hand shows, None in between."""
    if clip.holding[frame] >= 0:
        return clip.things[int(clip.holding[frame])]
    hands = [t.ident for t in clip.things if t.kind == "hand"]
    return "nothing" if hands and not clip.visible[frame, hands].any() else None


def ask_held(clip: Clip, frame: int, rng: Generator) -> Question | None:
    thing = held(clip, frame)
    if thing is None or (isinstance(thing, str) and rng.random() < 0.6):
        return None
    answer = thing if isinstance(thing, str) else with_article(clip.full_name(thing.ident))
    return Question("held", say(rng, "held"), answer)


def priced(clip: Clip, frame: int) -> tuple[Thing, str] | None:
    """Things with a readable price beside them, and that price."""
    tags = readable(clip, frame, "tag")
    if len(tags) != 1 or clip.there(frame, tags[0].of) is not True:
        return None
    return clip.things[tags[0].of], said(clip, tags[0].ident)


def ask_price(clip: Clip, frame: int, rng: Generator) -> Question | None:
    found = priced(clip, frame)
    if found is None or not clip.names(found[0].ident):
        return None
    name = pick(rng, clip.names(found[0].ident))
    return Question("price", say(rng, "price", name), found[1])


def ask_prohibited(clip: Clip, frame: int, rng: Generator) -> Question | None:
    if not clip.settled(frame):
        return None
    shown = [t for t in clip.present(frame) if t.group == "prohibited"]
    if len(shown) == 1 and rng.random() < 0.4:
        answer = with_article(clip.full_name(shown[0].ident))
        return Question("prohibited", say(rng, "which_prohibited"), answer)
    if not shown and rng.random() < 0.88:
        return None
    return Question("prohibited", say(rng, "prohibited"), yes(bool(shown)))
