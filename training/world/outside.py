"""Outside of the wide world: what it has no answer to, and what is said before a question and does
not matter."""

from numpy.random import Generator

from training.world.catalogue import TINTS
from training.world.clip import Clip
from training.world.conversation import unknown_round
from training.world.question import DONT_KNOW, Question, pick
from training.world.realtime import any_noun, say

_UNKNOWN = (
    "who is the {}",
    "who is {}",
    "what time is it",
    "what is the weather like",
    "tell me a joke",
    "how old are you",
    "what is your name",
    "why is the {} {}",
    "what is the {} doing",
    "what is the capital of {}",
    "who are you",
    "can you {} a {}",
    "is the {} happy",
    "when did the {} {}",
    "{} {}",
    "what is the {} wearing",
    "hello",
    "how do i {} a {}",
)
_WORDS = """
man woman person people child boy girl city country school money language weather music movie
president king doctor teacher friend mother father eat drink sleep run walk read write play sing
dance work game story world river mountain water
"""
_AT_LENGTH = 0.3
_TAKEN_FOR_GRANTED = ("colour", "where", "direction", "price")


def ask_unknown(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """Nothing that a picture tells, in words known and unknown, briefly or at length."""
    if rng.random() < _AT_LENGTH:
        return Question("unknown", *unknown_round(rng))
    words = [pick(rng, _WORDS.split()) if rng.random() < 0.7 else "zzz" for _ in range(2)]
    return Question("unknown", pick(rng, _UNKNOWN).format(*words), DONT_KNOW)


def ask_absent(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """Takes for granted what is not there: what was, what will be, in another colour, or never."""
    if not clip.settled(frame):
        return None
    present = clip.present(frame)
    away = [t for t in clip.things if t.kind == "object" and clip.there(frame, t.ident) is False]
    roll = rng.random()
    if away and roll < 0.6:
        thing = pick(rng, away)
        name = thing.noun if rng.random() < 0.6 else clip.full_name(thing.ident)
    elif present and roll < 0.75:
        name = f"{pick(rng, TINTS)} {pick(rng, present).noun}"
    else:
        name = any_noun(clip, rng)
    colour, noun = (["", *name.split()])[-2:]
    if any(t.noun == noun and colour in ("", t.colour) for t in present):
        return None
    asked = "where" if colour else pick(rng, _TAKEN_FOR_GRANTED)
    return Question("absent", say(rng, asked, name), f"there is no {name}")
