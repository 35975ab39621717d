"""Long conversations before a question: what was asked earlier, and what was true of it then.

Their answers may no longer be true, and some were given over other video: whoever trusts them more
than the frames is wrong.
"""

from collections.abc import Sequence
from typing import Protocol

from numpy.random import Generator

from training.world.question import DONT_KNOW, Question, pick

ROUNDS = 10  # of a conversation that the model is given
_SORTS = ("short", "short", "described", "described", "unknown", "mixed", "mixed", "same", "same")
_FULL = 0.6  # share of conversations that fill their rounds
_ELSEWHERE = 0.3  # share of conversations that began over other video
_DESCRIPTIONS = ("scene", "story")
_SHORT_WITHOUT = ("watch", "followup", "reference", "then", *_DESCRIPTIONS)
_TRIES = 3
_OPENINGS = (
    "can you tell me",
    "please tell me",
    "hello , i am here again and i want to know",
    "my friend and i talk about it all day so tell me",
    "before we go on with the game please say",
)
_UNKNOWN = (
    "what the weather is like in the {} today",
    "who the {} of the {} is and when the {} was born",
    "why the {} and the {} do not like the {}",
    "how i can {} a {} in the {} without money",
    "what the {} is wearing and where the {} is from",
    "which music the {} and the {} like best",
    "what time it is in the {} and how old the {} is",
    "a joke about the {} and the {} in the {}",
    "what the capital of the {} is and how many people live there",
)
_WORDS = """
man woman person people child boy girl city country school money language weather music movie
president king doctor teacher friend mother father story world river mountain water game dance
"""

Rounds = tuple[tuple[str, str], ...]


class Moments(Protocol):
    """A clip that can be asked at any of its moments."""

    @property
    def num_moments(self) -> int: ...

    def ask_at(self, frame: int, kind: str, rng: Generator) -> Question | None: ...


def unknown_round(rng: Generator) -> tuple[str, str]:
    """A long question that no picture answers."""
    words = [pick(rng, _WORDS.split()) if rng.random() < 0.8 else "zzz" for _ in range(3)]
    about = pick(rng, _UNKNOWN).format(*words)
    opening = f"{pick(rng, _OPENINGS)} " if rng.random() < 0.7 else ""
    return opening + about, DONT_KNOW


def long_talk(
    clip: Moments,
    frame: int,
    question: Question,
    kinds: Sequence[str],
    elsewhere: Moments | None,
    rng: Generator,
) -> Rounds:
    """Earlier rounds of a conversation of one sort, most often ten of them: short questions,
    descriptions, what nobody can know, all of these, or the same kind of question again and again.
    """
    sort = pick(rng, _SORTS)
    number = ROUNDS if rng.random() < _FULL else int(rng.integers(2, ROUNDS))
    short = [kind for kind in kinds if kind not in _SHORT_WITHOUT]
    described = [kind for kind in kinds if kind in _DESCRIPTIONS]
    away = elsewhere is not None and rng.random() < _ELSEWHERE
    wording = ""  # some people always ask in the same words
    rounds: list[tuple[str, str]] = []
    for _ in range(number):
        of = pick(rng, ("short", "described", "unknown")) if sort == "mixed" else sort
        if of == "unknown" or (of == "described" and not described):
            rounds.append(unknown_round(rng))
            continue
        options = described if of == "described" else short
        if of == "same" and question.kind not in ("followup", "watch"):
            options = [question.kind]
        there = elsewhere if away and elsewhere is not None and rng.random() < 0.7 else clip
        last = frame if there is clip else there.num_moments - 1
        past = _ask(there, last, options, rng)
        if past is None:
            continue
        text = past.text
        if past.kind in _DESCRIPTIONS and past.kind == question.kind and sort == "same":
            text = question.text
        elif past.kind == "scene":
            wording = wording or text
            text = wording if rng.random() < 0.6 else text
        rounds.append((text, past.answer))
    if rounds and rng.random() < 0.15:  # one question, sent again and again
        rounds = [rounds[0]] * len(rounds)
    return tuple(rounds)


def _ask(clip: Moments, last: int, kinds: Sequence[str], rng: Generator) -> Question | None:
    for _ in range(_TRIES):
        asked = clip.ask_at(int(rng.integers(last + 1)), pick(rng, kinds), rng)
        if asked is not None:
            return asked
    return None
