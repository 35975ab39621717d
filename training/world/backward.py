"""Questions about what was, within the window of frames that the model can look back on.

Where exactly the window ends is nothing a viewer knows: an answer counts only if it is the same for
windows a little shorter and a little longer.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.random import Generator

from training.world.catalogue import with_article
from training.world.clip import Clip, Event, Thing
from training.world.question import WINDOW, Question, pick, yes
from training.world.realtime import claim, held, say
from training.world.telling import clause, crossing, said, told, whereabouts
from training.world.wording import NUMBERS, at

_BLUR = 5
T = TypeVar("T")


def stable(frame: int, answer: Callable[[int], T | None]) -> T | None:
    """`answer(first frame of the window)` if it does not depend on the window's exact length."""
    starts = {max(frame - WINDOW + 1 + shift, 0) for shift in (-_BLUR, 0, _BLUR)}
    answers = [answer(start) for start in sorted(starts)]
    return answers[0] if all(other == answers[0] for other in answers) else None


def _past(
    clip: Clip, start: int, frame: int, kind: str = "", how: str | None = None
) -> list[Event]:
    """Events told of the window, in order; all of it happened after its first frame."""
    return [
        event
        for event in told(clip)
        if start < event.start and event.frame <= frame
        if (not kind or event.kind == kind) and (how is None or event.how == how)
    ]


def _all_sure(clip: Clip, start: int, frame: int, kind: str) -> bool:
    return all(
        e.sure for e in clip.events if e.kind == kind and e.frame >= start and e.start <= frame
    )


def _seen(clip: Clip, start: int, frame: int, ident: int) -> bool | None:
    """Whether it was there at any time; None if that is debatable."""
    states = clip.presence[start : frame + 1, ident]
    return True if (states == 1).any() else None if (states < 0).any() else False


def ask_gone(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """Ask for what was there and is not now: exactly one thing, or nothing."""
    if not clip.settled(frame):
        return None
    things = [t for t in clip.things if t.kind in ("object", "drawing")]

    def gone(start: int) -> tuple[int, ...] | None:
        seen = {t.ident: _seen(clip, start, frame, t.ident) for t in things}
        if None in seen.values():
            return None
        return tuple(i for i, was in seen.items() if was and clip.presence[frame, i] == 0)

    found = stable(frame, gone)
    if found is None or len(found) > 1 or (not found and rng.random() < 0.85):
        return None
    answer = with_article(clip.full_name(found[0])) if found else "nothing"
    return Question("gone", say(rng, "gone"), answer)


def ask_was_there(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """Asked of what is not there now."""
    if not clip.settled(frame):
        return None
    gone = [
        t
        for t in clip.things
        if t.kind in ("object", "drawing") and clip.names(t.ident)
        if clip.presence[frame, t.ident] == 0
        and stable(frame, lambda start, i=t.ident: _seen(clip, start, frame, i))  # type: ignore[misc]
    ]
    if gone and rng.random() < 0.5:
        name, truth = with_article(clip.full_name(pick(rng, gone).ident)), True
    else:
        name, _ = claim(clip, frame, rng)
        words = name.split()[-2:]
        like = [
            t for t in clip.things if t.noun == words[-1] and t.kind not in ("sign", "tag", "hand")
        ]
        if any(clip.visible[: frame + 1, t.ident].any() for t in like):
            return None
        truth = False
    if not truth and rng.random() < 0.4:
        return None
    return Question("was_there", say(rng, "was_there", name), yes(truth))


def _arrivals(clip: Clip, start: int, frame: int) -> dict[int, int] | None:
    """First frame of everything that came first within the window; None where unclear."""
    found: dict[int, int] = {}
    for thing in clip.things:
        if thing.kind not in ("object", "drawing") or not clip.names(thing.ident):
            continue
        states = clip.presence[start : frame + 1, thing.ident]
        if states[0] == 0 and (states == 1).any():
            found[thing.ident] = start + int(np.argmax(states == 1))
    return found


def ask_order(clip: Clip, frame: int, rng: Generator) -> Question | None:
    found = stable(frame, lambda start: _arrivals(clip, start, frame))
    if not found or len(found) < 2:
        return None
    one, other = (list(found)[int(i)] for i in rng.permutation(len(found))[:2])
    if abs(found[one] - found[other]) < 3:
        return None
    names = [pick(rng, clip.names(ident)) for ident in (one, other)]
    first = names[0 if found[one] < found[other] else 1]
    return Question("order", say(rng, "order", *names), f"the {first}")


def ask_newest(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """The last to come within the window, if the one before it was clearly earlier."""
    if not clip.settled(frame) or not _all_sure(clip, max(frame - WINDOW, 0), frame, "came"):
        return None

    def newest(start: int) -> int | None:
        coming = [
            e
            for e in clip.events
            if e.kind == "came" and start < e.start and e.frame <= frame
            if clip.things[e.things[0]].kind in ("object", "drawing")
        ]
        if not coming or (len(coming) > 1 and coming[-1].frame - coming[-2].frame < 3):
            return None
        return coming[-1].things[0]

    found = stable(frame, newest)
    if found is None:
        return None
    return Question("newest", say(rng, "newest"), with_article(clip.full_name(found)))


def periods(clip: Clip, start: int, frame: int, ident: int) -> int | None:
    """Number of separate times it was there; None if half a period cannot be told from a whole."""
    number, was = 0, 0
    for state in clip.presence[start : frame + 1, ident]:
        if state == 1 and was == 0:
            number += 1
        if state >= 0:
            was = int(state)
    states = clip.presence[start : frame + 1, ident]
    return None if states[0] < 0 or states[-1] < 0 else number


def ask_appearances(clip: Clip, frame: int, rng: Generator) -> Question | None:
    blinking = {e.things[0] for e in clip.events if e.kind == "blinked"}
    doubtful = {e.things[0] for e in clip.events if not e.sure}
    counts: list[tuple[Thing, int]] = []
    for thing in clip.things:
        if thing.kind not in ("object", "drawing") or not clip.names(thing.ident):
            continue
        if thing.ident in blinking | doubtful:
            continue
        number = stable(frame, lambda s, i=thing.ident: periods(clip, s, frame, i))  # type: ignore[misc]
        if number is not None:
            counts.append((thing, number))
    often = [pair for pair in counts if pair[1] > 1]
    never = [pair for pair in counts if pair[1] == 0]
    roll = rng.random()
    options = often if often and roll < 0.7 else never if roll < 0.08 else counts
    if not options or (options is counts and not often and roll < 0.94):
        return None
    thing, number = pick(rng, options)
    name = pick(rng, clip.names(thing.ident))
    return Question("appearances", say(rng, "appearances", name), NUMBERS[number])


def ask_blinks(clip: Clip, frame: int, rng: Generator) -> Question | None:
    def blinks(start: int) -> tuple[tuple[int, str], ...] | None:
        found = [e for e in clip.events if e.kind == "blinked" and e.start <= frame]
        if any(e.start <= start <= e.frame or e.frame > frame or not e.sure for e in found):
            return None
        return tuple((e.things[0], e.how) for e in found if e.start > start)

    found = stable(frame, blinks)
    if not found:
        return None
    ident, number = pick(rng, found)
    if sum(other == ident for other, _ in found) > 1 or not clip.names(ident):
        return None
    name = pick(rng, clip.names(ident))
    return Question("blinks", say(rng, "blinks", name), NUMBERS[int(number)])


def _last_of(clip: Clip, frame: int, kind: str, there: bool, rng: Generator) -> Event | None:
    """The last such event of a thing that is (not) there now, sure and within every window."""
    found: list[Event] = []
    for thing in clip.things:
        if thing.kind not in ("object", "drawing") or not clip.names(thing.ident):
            continue
        if clip.there(frame, thing.ident) is not there:
            continue
        mine = [e for e in clip.events if e.kind == kind and e.things[0] == thing.ident]
        mine = [e for e in mine if e.frame <= frame]
        if mine and mine[-1].sure and stable(frame, lambda s, e=mine[-1]: e.start > s):  # type: ignore[misc]
            found.append(mine[-1])
    return pick(rng, found) if found else None


def ask_went(clip: Clip, frame: int, rng: Generator) -> Question | None:
    event = _last_of(clip, frame, "went", False, rng)
    if event is None or (event.how == "hand" and rng.random() < 0.8):
        return None
    name = pick(rng, clip.names(event.things[0]))
    return Question("went", say(rng, "went", name), whereabouts(clip, event))


def ask_origin(clip: Clip, frame: int, rng: Generator) -> Question | None:
    event = _last_of(clip, frame, "came", True, rng)
    if event is None or (event.how == "hand" and rng.random() < 0.5):
        return None
    name = pick(rng, clip.names(event.things[0]))
    return Question("origin", say(rng, "origin", name), whereabouts(clip, event))


def ask_earlier_place(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """Ask where something was before the one time that it moved."""
    moves: dict[int, list[Event]] = {}
    for event in clip.events:
        if event.kind in ("moved", "crossed", "swapped", "held") and event.start <= frame:
            for ident in event.things:
                moves.setdefault(ident, []).append(event)
    fit: list[tuple[int, str]] = []
    for ident, found in moves.items():
        last = found[-1]
        if not clip.names(ident) or last.frame > frame or not last.sure or last.kind == "held":
            continue
        others = [e for e in found[:-1] if stable(frame, lambda s, e=e: e.frame >= s) is not False]  # type: ignore[misc]
        if others or not stable(frame, lambda s, e=last: e.start > s + 2):  # type: ignore[misc]
            continue
        if clip.there(last.start - 1, ident) is not True or clip.there(frame, ident) is not True:
            continue
        if any(e.kind == "came" and e.things[0] == ident and e.start > 0 for e in clip.events):
            continue
        before, now = clip.place(last.start - 1, ident), clip.place(frame, ident)
        if before and now and before != now:
            fit.append((ident, before))
    if not fit:
        return None
    ident, before = pick(rng, fit)
    name = pick(rng, clip.names(ident))
    return Question("earlier_place", say(rng, "earlier_place", name), at(before))


def ask_crossed(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """A question about a way from one corner to the other: frame by frame this is motion, as a
    whole it is a way."""
    found = [
        e
        for e in clip.events
        if e.kind == "crossed" and e.sure and e.frame <= frame and clip.names(e.things[0])
        if stable(frame, lambda s, e=e: e.start > s)  # type: ignore[misc]
    ]
    if not found or sum(e.things == found[-1].things for e in found) > 1:
        return None
    name = pick(rng, clip.names(found[-1].things[0]))
    return Question("crossed", say(rng, "crossed", name), crossing(found[-1]))


def _shown(clip: Clip, start: int, frame: int) -> tuple[int, ...]:
    """Things that the hand has held up within the window, in order."""
    held_now = clip.holding[start : frame + 1]
    changed = np.flatnonzero(np.diff(held_now, prepend=-2))
    return tuple(int(held_now[k]) for k in changed if held_now[k] >= 0)


def shown_before(clip: Clip, frame: int) -> tuple[Thing, Thing] | None:
    """Thing that the hand holds up, and the one before that."""
    current = held(clip, frame)
    if not isinstance(current, Thing):
        return None

    def before(start: int) -> int | None:
        shown = _shown(clip, start, frame)
        return shown[-2] if len(shown) > 1 and shown[-2] != shown[-1] else None

    found = stable(frame, before)
    return None if found is None else (current, clip.things[found])


def ask_shown_before(clip: Clip, frame: int, rng: Generator) -> Question | None:
    found = shown_before(clip, frame)
    if found is None or not clip.names(found[0].ident):
        return None
    name = pick(rng, clip.names(found[0].ident))
    answer = with_article(clip.full_name(found[1].ident))
    return Question("shown_before", say(rng, "shown_before", name), answer)


def ask_old_price(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """The price from which it fell, while the new one shows."""
    fallen = _past(clip, 0, frame, "repriced")
    if not fallen or not fallen[-1].sure:
        return None
    event = fallen[-1]
    tags = [t for t in clip.present(frame, ("tag",)) if t.of == event.things[0]]
    old = [
        t
        for t in clip.things
        if t.of == event.things[0] and clip.presence[event.start - 1, t.ident] == 1
    ]
    if not tags or len(old) != 1 or not stable(frame, lambda start: start < event.start - 2):
        return None
    return Question("old_price", say(rng, "old_price"), said(clip, old[0].ident))


def ask_num_shown(clip: Clip, frame: int, rng: Generator) -> Question | None:
    number = stable(frame, lambda start: len(set(_shown(clip, start, frame))))
    if (
        number is None
        or held(clip, frame) is None
        or not any(t.kind == "hand" for t in clip.things)
    ):
        return None
    if number < 2 and rng.random() < 0.6:
        return None
    return Question("num_shown", say(rng, "num_shown"), NUMBERS[number])


def summary(clip: Clip, frame: int) -> list[str] | None:
    """Clauses about what happened within the window; None if any of it is unclear."""

    def happened(start: int) -> tuple[Event, ...] | None:
        begun = [e for e in clip.events if e.frame >= start and e.start <= frame]
        if any(not e.sure or e.frame > frame or e.start <= start for e in begun):
            return None
        return tuple(_past(clip, start, frame))

    found = stable(frame, happened)
    return None if found is None else [clause(clip, event) for event in found]
