"""Doubt: whether an answer says that the model does not know, or its probabilities say it."""

import math
import re

from services.inference_worker.engine.jobs import FinishReason
from services.inference_worker.serving.symptoms import Outcome

BEGINNING = 100  # characters in which an answer says it
_DOES = "know|see|tell|find|say|think|recogni[sz]e|identify|determine|make out"
_DOUBT = re.compile(
    r"^\W*(?:(?:sorry|well|unfortunately|based on [^,]*|from [^,]*),? (?:but )?)?(?:"
    r"i(?:'m| am) (?:not (?:sure|certain|able)|unsure|unable)|"
    rf"i (?:do not|don't|cannot|can't|can not|could not|couldn't|did not|didn't) (?:{_DOES})|"
    r"there (?:is|are) no(?:t any)?\b|there's no\b|there (?:is|are)n't any|"
    r"it (?:is|'s) (?:not (?:clear|visible|possible)|unclear|impossible|hard|difficult)|"
    r"it's (?:not (?:clear|visible|possible)|unclear|impossible|hard|difficult)|"
    r"the (?:video|picture|image|scene|stream|frames?) (?:does|do) not (?:show|contain|provide)|"
    r"(?:not sure|unsure|unknown|not visible|not in (?:view|sight))\b)"
)


def says_doubt(text: str) -> bool:
    """Whether an answer begins with saying that it is none: that the model does not know, or that
    what it was asked about is not there. A plain no is an answer."""
    return _DOUBT.match(text[:BEGINNING].lower().replace("\u2019", "'")) is not None


def is_unsure(outcome: Outcome, least_confidence: float) -> bool:
    """Whether the model is not sure of an answer.

    least_confidence: the geometric mean of the probabilities of a sure answer's tokens is more.
    """
    if outcome.reason is FinishReason.CANCELLED or not outcome.tokens:
        return False
    confidence = math.exp(-outcome.surprise / len(outcome.tokens))
    return confidence < least_confidence or says_doubt(outcome.text)
