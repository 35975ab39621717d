"""Questions that refer back: "it" is what an earlier round named, perhaps at an earlier moment."""

from numpy.random import Generator

from training.world.catalogue import DIRECTIONS, with_article
from training.world.clip import Clip, Thing
from training.world.question import WINDOW, Question, pick, yes
from training.world.realtime import held, nameable, priced, say
from training.world.telling import whereabouts
from training.world.wording import at

_BACK = 20  # frames between the earlier round and now, at most


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


def ask_followup(clip: Clip, frame: int, rng: Generator) -> Question | None:
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
    if here and earlier < frame - 3 and then and then != clip.place(frame, ident):
        answers["place_then"] = at(then)
    if not answers:
        return None
    asked = pick(rng, sorted(answers))
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
    return Question("followup", say(rng, f"it_{asked}"), answers[asked], tuple(rounds))
