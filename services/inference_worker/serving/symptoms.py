"""Symptoms of a model that degenerates, read off its answers. Nothing here knows an engine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from services.inference_worker.engine.jobs import FinishReason
from sightline.v1 import gateway_pb2

LONGEST_PERIOD = 32  # tokens of what is said again and again
LEAST_RUN = 16  # tokens that a repetition lasts …
LEAST_TIMES = 4  # … and how often it says its part
LEAST_TOKENS = 4  # of an answer whose confidence says something


class Symptom(Enum):
    """Symptom of an unhealthy answer, by the word that `degraded` has for it."""

    REPEATS = "answer_repeats"
    EMPTY = "answer_empty"
    NOT_FINITE = "answer_not_finite"
    UNSURE = "answer_unsure"
    ENDLESS = "answer_endless"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An answer that has ended. `surprise`: the sum of its tokens' negative log probabilities."""

    tokens: Sequence[int]
    text: str
    reason: FinishReason
    surprise: float = 0.0


def symptom_of(
    outcome: Outcome, question: gateway_pb2.Question, least_confidence: float
) -> Symptom | None:
    """Symptom of an answer; None where nothing is, or where the question asked for it: a
    temperature over 1 or rewards for repeating make nonsense of any model.

    least_confidence: the geometric mean of the probabilities of a sound answer's tokens is more.
    """
    if question.temperature > 1 or min(question.presence_penalty, question.frequency_penalty) < 0:
        return None
    if outcome.reason is FinishReason.CANCELLED:
        return None
    if not outcome.text.strip() and outcome.reason is FinishReason.STOP and not question.stop:
        return Symptom.EMPTY
    if repeats(outcome.tokens):
        return Symptom.REPEATS
    count = len(outcome.tokens)
    if count >= LEAST_TOKENS and math.exp(-outcome.surprise / count) < least_confidence:
        return Symptom.UNSURE
    if outcome.reason is FinishReason.LENGTH and not question.max_tokens:
        return Symptom.ENDLESS
    return None


def repeats(tokens: Sequence[int]) -> bool:
    """Whether the end of an answer is one part, said at least `LEAST_TIMES` in a row."""
    for period in range(1, min(LONGEST_PERIOD, len(tokens) // LEAST_TIMES) + 1):
        run = period
        later, before = reversed(tokens[period:]), reversed(tokens[:-period])
        for token, earlier in zip(later, before, strict=True):
            if token != earlier:
                break
            run += 1
        if run >= max(LEAST_RUN, LEAST_TIMES * period):
            return True
    return False
