"""Questions about a moment of a clip, with the one right answer, and watch conditions.

A moment is the frame after which the question is asked. Each `ask_*` returns None where the truth
is debatable there (something half in the picture, a motion just begun, a change about to slip out
of the window) or where the kind has nothing to ask about.
"""

from collections.abc import Callable

from numpy.random import Generator

from training import phrasings
from training.vocabulary import COLOURS, DIRECTIONS, NUMBERS, PLURALS, SHAPES
from training.world.question import DONT_KNOW, WINDOW, Question, pick
from training.world.shapes import Change, Clip, Thing

_WINDOW_BLUR = 5
_STEADY = 3


Ask = Callable[[Clip, int, Generator], Question | None]


# Truth at a moment


def unique_names(thing: Thing, present: list[Thing]) -> list[str]:
    """The ways to name a thing so that no other one present is meant."""
    names = [f"{thing.colour} {thing.shape}"]
    if sum(other.shape == thing.shape for other in present) == 1:
        names.append(thing.shape)
    if sum(other.colour == thing.colour for other in present) == 1:
        names.append(f"{thing.colour} object")
    return names


def motion_of(clip: Clip, frame: int, thing: Thing) -> str | None:
    """left, right, up, down or still; None where it has not gone on long enough to be sure."""
    return thing.motion if thing.steady >= _STEADY and frame >= _STEADY else None


def last_change(clip: Clip, frame: int) -> Change | str | None:
    """The most recent change in the window, "nothing" if none, None if debatable."""
    if not clip.settled(frame):
        return None
    past = [change for change in clip.changes if change.frame <= frame]
    horizon = WINDOW if frame >= WINDOW else frame + _WINDOW_BLUR + 1
    if not past:
        return "nothing"
    age = frame - past[-1].frame
    if age > horizon + _WINDOW_BLUR:
        return "nothing"
    return past[-1] if 1 <= age < horizon - _WINDOW_BLUR else None


def change_answer(change: Change | str) -> str:
    if isinstance(change, str):
        return "nothing changed"
    if change.kind == "turned":
        return f"the {change.shape} turned from {change.before} to {change.colour}"
    return f"a {change.colour} {change.shape} {change.kind}"


def motion_answer(motion: str) -> str:
    return "it is not moving" if motion == "still" else motion


def scene_answer(present: list[Thing]) -> str:
    return " and ".join(f"a {t.colour} {t.shape}" for t in present) or "nothing"


# Kinds


def ask_colour(clip: Clip, frame: int, rng: Generator) -> Question | None:
    present = clip.present(frame)
    unique = [t for t in present if sum(o.shape == t.shape for o in present) == 1]
    if not clip.settled(frame) or not unique:
        return None
    thing = pick(rng, unique)
    return Question("colour", pick(rng, phrasings.COLOUR).format(thing.shape), thing.colour)


def ask_shape(clip: Clip, frame: int, rng: Generator) -> Question | None:
    present = clip.present(frame)
    unique = [t for t in present if sum(o.colour == t.colour for o in present) == 1]
    if not clip.settled(frame) or not unique:
        return None
    thing = pick(rng, unique)
    return Question("shape", pick(rng, phrasings.SHAPE).format(thing.colour), f"a {thing.shape}")


def ask_count(clip: Clip, frame: int, rng: Generator) -> Question | None:
    if not clip.settled(frame):
        return None
    present = clip.present(frame)
    roll = rng.random()
    if roll < 0.7:
        return Question("count", pick(rng, phrasings.COUNT), NUMBERS[len(present)])
    if roll < 0.85:
        shape = pick(rng, [t.shape for t in present] + [pick(rng, SHAPES)])
        number = sum(t.shape == shape for t in present)
        text = pick(rng, phrasings.COUNT_SOME).format(PLURALS[shape])
    else:
        colour = pick(rng, [t.colour for t in present] + [pick(rng, COLOURS)])
        number = sum(t.colour == colour for t in present)
        text = pick(rng, phrasings.COUNT_SOME).format(f"{colour} objects")
    return Question("count", text, NUMBERS[number])


def _claim(present: list[Thing], rng: Generator) -> tuple[str, str, bool]:
    """(colour or "", shape or "", whether such a thing is present), balanced, with near misses."""
    style = rng.random()
    if rng.random() < 0.42 and present:
        thing = pick(rng, present)
        colour, shape = thing.colour, thing.shape
    elif present and rng.random() < 0.7:  # one half true, or one thing's colour on another's shape
        thing, other = pick(rng, present), pick(rng, present)
        colour, shape = thing.colour, other.shape
        if (colour, shape) == (thing.colour, thing.shape):
            colour, shape = (
                (colour, pick(rng, SHAPES)) if rng.random() < 0.5 else (pick(rng, COLOURS), shape)
            )
    else:
        colour, shape = pick(rng, COLOURS), pick(rng, SHAPES)
    if style < 0.25:
        return "", shape, any(t.shape == shape for t in present)
    if style < 0.5:
        return colour, "", any(t.colour == colour for t in present)
    return colour, shape, any((t.colour, t.shape) == (colour, shape) for t in present)


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def ask_presence(clip: Clip, frame: int, rng: Generator) -> Question | None:
    if not clip.settled(frame):
        return None
    present = clip.present(frame)
    if rng.random() < 0.06:
        return Question("presence", pick(rng, phrasings.ANYTHING), _yes(bool(present)))
    colour, shape, truth = _claim(present, rng)
    if colour and not shape and rng.random() < 0.6:
        text = pick(rng, phrasings.PRESENCE_COLOUR).format(colour)
    else:
        text = pick(rng, phrasings.PRESENCE).format(f"{colour} {shape or 'object'}".strip())
    return Question("presence", text, _yes(truth))


def _moving(clip: Clip, frame: int, rng: Generator) -> tuple[Thing, str, str] | None:
    """A thing with a sure motion, a way to name it, and the motion; movers come first."""
    if not clip.settled(frame):
        return None
    present = clip.present(frame)
    sure = [(t, m) for t in present if (m := motion_of(clip, frame, t)) is not None]
    if not sure:
        return None
    going = [(t, m) for t, m in sure if m != "still"]
    thing, motion = pick(rng, going if going and rng.random() < 0.8 else sure)
    return thing, pick(rng, unique_names(thing, present)), motion


def ask_direction(clip: Clip, frame: int, rng: Generator) -> Question | None:
    found = _moving(clip, frame, rng)
    if found is None:
        return None
    _, name, motion = found
    return Question("direction", pick(rng, phrasings.DIRECTION).format(name), motion_answer(motion))


def ask_moving(clip: Clip, frame: int, rng: Generator) -> Question | None:
    found = _moving(clip, frame, rng)
    if found is None:
        return None
    _, name, motion = found
    if rng.random() < 0.6:
        way = motion if rng.random() < 0.5 and motion != "still" else pick(rng, DIRECTIONS)
        return Question("moving", f"is the {name} moving {way}", _yes(way == motion))
    return Question("moving", f"is the {name} moving", _yes(motion != "still"))


def ask_change(clip: Clip, frame: int, rng: Generator) -> Question | None:
    change = last_change(clip, frame)
    if change is None or (change == "nothing" and rng.random() < 0.6):
        return None
    return Question("change", pick(rng, phrasings.CHANGE), change_answer(change))


def ask_scene(clip: Clip, frame: int, rng: Generator) -> Question | None:
    if not clip.settled(frame):
        return None
    present = clip.present(frame)
    if not present and rng.random() < 0.6:
        return None
    return Question("scene", pick(rng, phrasings.SCENE), scene_answer(present))


def ask_absent(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """A question that takes for granted something that is not there."""
    if not clip.settled(frame):
        return None
    present = clip.present(frame)
    colour, shape = pick(rng, COLOURS), pick(rng, SHAPES)
    roll = rng.random()
    if roll < 0.35 and all(t.shape != shape for t in present):
        text, name = pick(rng, phrasings.COLOUR).format(shape), shape
    elif roll < 0.6 and all(t.colour != colour for t in present):
        text, name = pick(rng, phrasings.SHAPE).format(colour), f"{colour} object"
    elif all((t.colour, t.shape) != (colour, shape) for t in present):
        name = f"{colour} {shape}"
        text = pick(rng, phrasings.DIRECTION).format(name)
    else:
        return None
    return Question("absent", text, f"there is no {name}")


def ask_unknown(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """Something outside this world."""
    words = [pick(rng, phrasings.NOUNS) if rng.random() < 0.6 else "zzz" for _ in range(2)]
    return Question("unknown", pick(rng, phrasings.UNKNOWN).format(*words), DONT_KNOW)


def ask_followup(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """ "it": the thing named in the latest round about a thing."""
    if not clip.settled(frame):
        return None
    present = clip.present(frame)
    if not present:
        return None
    thing = pick(rng, present)
    motion = motion_of(clip, frame, thing)
    names = unique_names(thing, present)
    roll = rng.random()
    if roll < 0.4:
        names = [n for n in names if thing.colour not in n] or names
        text, answer = pick(rng, phrasings.IT_COLOUR), thing.colour
    elif roll < 0.65:
        names = [n for n in names if thing.shape not in n] or names
        text, answer = pick(rng, phrasings.IT_SHAPE), f"a {thing.shape}"
    elif motion is None:
        return None
    elif roll < 0.9:
        text, answer = pick(rng, phrasings.IT_DIRECTION), motion_answer(motion)
    else:
        text, answer = pick(rng, phrasings.IT_MOVING), _yes(motion != "still")
    name = pick(rng, names)
    rounds: list[tuple[str, str]] = []
    if rng.random() < 0.35 and len(present) > 1:  # an earlier round about another thing
        other = pick(rng, [t for t in present if t is not thing])
        rounds.append(_naming_round(other, pick(rng, unique_names(other, present)), None, rng))
    said = motion if rng.random() < 0.7 else pick(rng, DIRECTIONS)
    rounds.append(_naming_round(thing, name, said, rng))
    if rng.random() < 0.15:
        rounds.append((pick(rng, phrasings.COUNT), NUMBERS[len(present)]))
    if len(present) == 1 and rng.random() < 0.15:
        rounds.clear()
    return Question("followup", text, answer, tuple(rounds))


def _naming_round(thing: Thing, name: str, motion: str | None, rng: Generator) -> tuple[str, str]:
    """An earlier round that names `thing` as `name`."""
    options = [(pick(rng, phrasings.PRESENCE).format(name), "yes")]
    if motion is not None:
        options.append((pick(rng, phrasings.DIRECTION).format(name), motion_answer(motion)))
    if name == thing.shape:
        options.append((pick(rng, phrasings.COLOUR).format(name), thing.colour))
    if name == f"{thing.colour} object":
        options.append((pick(rng, phrasings.SHAPE).format(thing.colour), f"a {thing.shape}"))
    return pick(rng, options)


def ask_watch(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """A condition and whether it holds, as yes or no."""
    if not clip.settled(frame):
        return None
    present = clip.present(frame)
    roll = rng.random()
    if roll < 0.55:
        colour, shape, truth = _claim(present, rng)
        if colour and not shape and rng.random() < 0.6:
            text = pick(rng, phrasings.WATCH_COLOUR).format(colour)
        else:
            text = pick(rng, phrasings.WATCH).format(f"{colour} {shape or 'object'}".strip())
    elif roll < 0.75:
        found = _moving(clip, frame, rng)
        if found is None:
            return None
        _, name, motion = found
        if rng.random() < 0.7:
            way = motion if rng.random() < 0.5 and motion != "still" else pick(rng, DIRECTIONS)
            text, truth = f"the {name} is moving {way}", way == motion
        else:
            text, truth = f"the {name} is moving", motion != "still"
    elif roll < 0.9:
        number = len(present) if rng.random() < 0.5 else int(rng.integers(0, 4))
        text, truth = pick(rng, phrasings.WATCH_COUNT[number]), number == len(present)
    elif roll < 0.95:
        unique = [t for t in present if sum(o.shape == t.shape for o in present) == 1]
        if not unique:
            return None
        thing = pick(rng, unique)
        colour = thing.colour if rng.random() < 0.5 else pick(rng, COLOURS)
        text, truth = f"the {thing.shape} is {colour}", colour == thing.colour
    else:
        word = pick(rng, phrasings.NOUNS) if rng.random() < 0.6 else "zzz"
        text, truth = pick(rng, phrasings.WATCH).format(word), False
    return Question("watch", text, _yes(truth), is_watch=True)


KINDS: dict[str, tuple[Ask, float]] = {
    "colour": (ask_colour, 1.0),
    "shape": (ask_shape, 1.0),
    "count": (ask_count, 1.0),
    "presence": (ask_presence, 1.0),
    "direction": (ask_direction, 1.6),
    "moving": (ask_moving, 0.5),
    "change": (ask_change, 2.2),
    "scene": (ask_scene, 2.4),
    "followup": (ask_followup, 1.4),
    "watch": (ask_watch, 1.4),
    "absent": (ask_absent, 0.35),
    "unknown": (ask_unknown, 0.25),
}
TARGET_KINDS = tuple(kind for kind in KINDS if kind not in ("moving", "absent", "unknown"))


def ask(clip: Clip, frame: int, kind: str, rng: Generator) -> Question | None:
    return KINDS[kind][0](clip, frame, rng)


def small_talk(clip: Clip, frame: int, rng: Generator) -> tuple[tuple[str, str], ...]:
    """Earlier rounds that do not matter: 0 in 65 %, 1–3 in 25 %, up to 10 otherwise.

    They were asked at earlier moments, so their answers may no longer be true.
    """
    roll = rng.random()
    number = 0 if roll < 0.65 else int(rng.integers(1, 4) if roll < 0.92 else rng.integers(4, 11))
    rounds: list[tuple[str, str]] = []
    for _ in range(number):
        kind = pick(rng, [k for k in KINDS if k not in ("watch", "followup")])
        question = ask(clip, int(rng.integers(frame + 1)), kind, rng)
        if question is not None:
            rounds.append((question.text, question.answer))
    return tuple(rounds)
