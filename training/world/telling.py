"""Telling of what happened, in words: the events that a viewer would tell, each as one clause."""

from training.world.catalogue import with_article
from training.world.clip import Clip, Event

_CORNERS = {
    "down right": "from the top left to the bottom right",
    "down left": "from the top right to the bottom left",
    "up right": "from the bottom left to the top right",
    "up left": "from the bottom right to the top left",
}
_TIMES = {"1": "once", "2": "twice", "3": "three times"}
SIDES = {"left": "to the left", "right": "to the right", "top": "at the top"}
SIDES |= {"bottom": "at the bottom"}


def called(clip: Clip, ident: int) -> str:
    """ "a red car", "a sign that says sale", "the price 29 dollars"."""
    thing = clip.things[ident]
    if thing.kind == "sign":
        return f"a sign that says {said(clip, ident)}"
    if thing.kind == "tag":
        return f"the price {said(clip, ident)}"
    return with_article(clip.full_name(ident))


def said(clip: Clip, ident: int) -> str:
    """The text of a sign or tag as one reads it aloud."""
    return aloud(clip.things[ident].text)


def aloud(text: str) -> str:
    return f"{text[1:]} dollars" if text.startswith("$") else text


def told(clip: Clip) -> list[Event]:
    """The events without those that others include: a hand that holds something up has brought it,
    and a price that falls is neither a coming nor a going."""
    falls = {event.frame for event in clip.events if event.kind == "repriced"}
    held = {(event.things, event.frame) for event in clip.events if event.kind == "held"}
    return [
        event
        for event in clip.events
        if not (
            event.kind in ("came", "went")
            and clip.things[event.things[0]].kind == "tag"
            and event.frame in falls
        )
        and not (event.kind == "came" and event.how == "hand" and _is_held_after(event, held))
    ]


def _is_held_after(event: Event, held: set[tuple[tuple[int, ...], int]]) -> bool:
    return any(things == event.things and 0 <= at - event.frame < 8 for things, at in held)


def clause(clip: Clip, event: Event) -> str:
    """ "a dog came in from the left", …"""
    name, how = called(clip, event.things[0]), event.how
    if event.kind == "came":
        if how == "behind":
            return f"{name} came out from behind the {clip.full_name(event.things[1])}"
        ways = {"hand": f"a hand brought {name}", "drawn": f"{name} was drawn"}
        side = f"from the {how}" if how in SIDES else ""
        return ways.get(how, f"{name} came in {side}" if side else f"{name} appeared")
    if event.kind == "went":
        if how == "behind":
            return f"{name} went behind the {clip.full_name(event.things[1])}"
        if how == "hand":
            return f"a hand took away {name}"
        return f"{name} went out {SIDES[how]}" if how in SIDES else f"{name} disappeared"
    if event.kind == "swapped":
        return f"{name} changed places with {called(clip, event.things[1])}"
    ways = {
        "moved": f"{name} moved {how}",
        "crossed": f"{name} crossed {_CORNERS.get(how, '')}",
        "grew": f"{name} grew",
        "shrank": f"{name} shrank",
        "blinked": f"{name} blinked {_TIMES.get(how, '')}",
        "held": f"a hand held up {name}",
        "freed": f"a hand put down {name}",
        "repriced": f"the price fell to {how.split()[-1] if how else ''} dollars",
    }
    return ways[event.kind]


def crossing(event: Event) -> str:
    return _CORNERS[event.how]


def whereabouts(clip: Clip, event: Event) -> str:
    """Words for where something went, or came from, or how."""
    how = event.how
    if how == "behind":
        where = f"behind the {clip.full_name(event.things[1])}"
        return where if event.kind == "went" else f"from {where}"
    if event.kind == "went":
        if how == "hand":
            return "a hand took it away"
        return f"it went out {SIDES[how]}" if how in SIDES else "it disappeared"
    if how == "hand":
        return "a hand brought it"
    if how == "drawn":
        return "it was drawn"
    return f"from the {how}" if how in SIDES else "it just appeared"


# The words of answers that no table of questions holds.
WORDS = (
    "yes no nothing in at the on a an is it and middle top bottom left right up down not moving",
    "appeared disappeared came out from behind went to was drawn hand brought took away changed",
    "places with moved crossed grew shrank blinked once twice three times held put price fell",
    "dollars sign that says holds happened fast slowly just",
    "object animal vehicle plant shape piece of",
)
