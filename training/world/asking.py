"""All kinds of questions about the wide world, in OVO-Bench's three classes."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.random import Generator

from training.world import backward, captions, dialogue, forward, outside, realtime
from training.world.catalogue import (
    DRAWINGS,
    GROUP_PLURALS,
    PAINTS,
    SIGN_WORDS,
    items,
    plural,
    with_article,
)
from training.world.clip import Clip
from training.world.question import Question, pick
from training.world.shop import BANNERS
from training.world.telling import WORDS
from training.world.wording import ASKED, NUMBERS

Class = Literal["realtime", "backward", "forward"]


class Kind(NamedTuple):
    """Kind of question: how to ask it, which class it counts to, and how often it is asked."""

    ask: Callable[[Clip, int, Generator], Question | None]
    of: Class
    weight: float


KINDS: dict[str, Kind] = {
    "what": Kind(realtime.ask_what, "realtime", 1.5),
    "colour": Kind(realtime.ask_colour, "realtime", 1.0),
    "where": Kind(realtime.ask_where, "realtime", 1.2),
    "count": Kind(realtime.ask_count, "realtime", 1.2),
    "presence": Kind(realtime.ask_presence, "realtime", 1.2),
    "sign": Kind(realtime.ask_sign, "realtime", 1.5),
    "direction": Kind(realtime.ask_direction, "realtime", 1.5),
    "speed": Kind(realtime.ask_speed, "realtime", 0.5),
    "change": Kind(realtime.ask_change, "realtime", 1.8),
    "bigger": Kind(realtime.ask_bigger, "realtime", 0.5),
    "held": Kind(realtime.ask_held, "realtime", 1.2),
    "price": Kind(realtime.ask_price, "realtime", 1.2),
    "prohibited": Kind(realtime.ask_prohibited, "realtime", 0.8),
    "scene": Kind(captions.ask_scene, "realtime", 2.0),
    "followup": Kind(dialogue.ask_followup, "realtime", 1.8),
    "gone": Kind(backward.ask_gone, "backward", 1.2),
    "was_there": Kind(backward.ask_was_there, "backward", 1.0),
    "order": Kind(backward.ask_order, "backward", 1.0),
    "newest": Kind(backward.ask_newest, "backward", 0.8),
    "appearances": Kind(backward.ask_appearances, "backward", 1.0),
    "blinks": Kind(backward.ask_blinks, "backward", 0.8),
    "went": Kind(backward.ask_went, "backward", 1.2),
    "origin": Kind(backward.ask_origin, "backward", 1.0),
    "earlier_place": Kind(backward.ask_earlier_place, "backward", 1.0),
    "crossed": Kind(backward.ask_crossed, "backward", 0.6),
    "shown_before": Kind(backward.ask_shown_before, "backward", 1.0),
    "old_price": Kind(backward.ask_old_price, "backward", 0.8),
    "num_shown": Kind(backward.ask_num_shown, "backward", 0.6),
    "story": Kind(captions.ask_story, "backward", 1.8),
    "watch": Kind(forward.ask_watch, "forward", 3.0),
}
# What a model must know of itself; in no class, since OVO-Bench asks nothing of the sort.
OUTSIDE: dict[str, Kind] = {
    "absent": Kind(outside.ask_absent, "realtime", 0.6),
    "unknown": Kind(outside.ask_unknown, "realtime", 0.4),
}
ALL_KINDS = KINDS | OUTSIDE
# Asked in training alone, where a recipe names them.
LESSONS: dict[str, Kind] = {
    "reference": Kind(dialogue.ask_reference, "realtime", 0.0),
    "then": Kind(dialogue.ask_then, "realtime", 0.0),
}
_NO_TALK = ("watch", "followup", *LESSONS, "scene", "story")


def ask(clip: Clip, frame: int, kind: str, rng: Generator) -> Question | None:
    """A question of this kind after this frame, None where there is nothing sure to ask."""
    return (ALL_KINDS | LESSONS)[kind].ask(clip, frame, rng)


def small_talk(
    clip: Clip, frame: int, kinds: Sequence[str], rng: Generator
) -> tuple[tuple[str, str], ...]:
    """Earlier rounds that do not matter: one to three, now and then up to ten. They were asked at
    earlier moments, so that their answers may no longer be true."""
    number = int(rng.integers(1, 4) if rng.random() < 0.9 else rng.integers(4, 11))
    fit = [kind for kind in kinds if kind not in _NO_TALK]
    asked = [ask(clip, int(rng.integers(frame + 1)), pick(rng, fit), rng) for _ in range(number)]
    return tuple((past.text, past.answer) for past in asked if past is not None)


def draw_question(clip: Clip, frame: int, rng: Generator) -> Question | None:
    """A question at this moment, of a kind drawn by weight."""
    weights = np.array([kind.weight for kind in KINDS.values()])
    index = int(rng.choice(len(weights), p=weights / weights.sum()))
    return ask(clip, frame, list(KINDS)[index], rng)


def words() -> list[str]:
    """Every word of the wide world's questions and answers, in a fixed order."""
    told = [
        text.replace("{}", " ").replace("{at}", " ") for texts in ASKED.values() for text in texts
    ]
    told += [*WORDS, *NUMBERS, *PAINTS, *DRAWINGS, *GROUP_PLURALS.values(), *BANNERS, *SIGN_WORDS]
    for item in items():
        told += [with_article(item.noun), plural(item.noun)]
    told += [str(number) for number in range(100)]
    return list(dict.fromkeys(word for text in told for word in text.split()))
