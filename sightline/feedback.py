"""What people think of answers, as lines of JSON: all of it, or the pairs of a better and a worse
answer that the third stage of training reads."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from sightline.types import RatedRound

SAME_SCENE_S = 5.0  # two answers further apart may both have been right, each in its time


def records(rated: Iterable[RatedRound]) -> Iterator[dict[str, Any]]:
    """Everything that is known of each rated answer."""
    for each in rated:
        where = {"conversation": each.conversation, "session": each.session}
        yield where | dataclasses.asdict(each.round)


def pairs(rated: Iterable[RatedRound], video: str, began_ns: int) -> Iterator[dict[str, Any]]:
    """Pairs for `training.preference`. A bad answer and what would have been right are one; so are
    a bad and a good answer to one question at about the same time.

    `video`: a recording of what the model saw, which began at `began_ns` since the Unix epoch. What
    was asked before it is left out.
    """
    good: dict[tuple[str, str], list[RatedRound]] = defaultdict(list)
    rated = list(rated)
    for each in rated:
        if each.round.rating == "up":
            good[each.session, each.round.question].append(each)
    for each in rated:
        said = each.round
        at_s = (said.capture_ns - began_ns) / 1e9
        if said.rating != "down" or not said.answer or at_s < 0:
            continue
        near = (
            other.round.answer
            for other in good[each.session, said.question]
            if abs(other.round.capture_ns - said.capture_ns) <= SAME_SCENE_S * 1e9
        )
        chosen = said.better or next(near, "")
        if chosen and chosen != said.answer:
            yield {
                "video": video,
                "at": round(at_s, 3),
                "question": said.question,
                "chosen": chosen,
                "rejected": said.answer,
            }
