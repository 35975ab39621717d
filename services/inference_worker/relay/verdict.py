"""Verdict of a relayed model: how likely yes is, read off a chat completion. No I/O."""

import math
import re
from typing import Any

from services.inference_worker.relay.stream import first_choice

LEAST_MASS = 0.05  # of yes and no together; with less, the model was about to say something else
LEAST_LOGPROB = -1000.0  # of what never comes, however little a server says it is
UNSAID = 0.5  # neither yes nor no: no watch begins to hold by it
_YES, _NO = frozenset({"yes", "y", "true"}), frozenset({"no", "n", "false"})
THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")


def by_probability(completion: dict[str, Any]) -> float | None:
    """Probability of yes among yes and no as the first token; None where the server tells no
    probabilities, or the model meant to begin with neither."""
    logprobs = first_choice(completion).get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    token = content[0] if isinstance(content, list) and content else None
    if not isinstance(token, dict):
        return None
    likeliest = token.get("top_logprobs")
    entries = likeliest if isinstance(likeliest, list) and likeliest else [token]
    yes, no = _mass(entries, _YES), _mass(entries, _NO)
    return yes / (yes + no) if yes + no >= LEAST_MASS else None


def tells_probabilities(completion: dict[str, Any]) -> bool:
    """Whether the server told the probabilities that it was asked for."""
    return isinstance(first_choice(completion).get("logprobs"), dict)


def by_words(completion: dict[str, Any]) -> float:
    """1 where the first yes or no that is said is a yes, 0 for a no, `UNSAID` for neither."""
    message = first_choice(completion).get("message")
    text = message.get("content") if isinstance(message, dict) else None
    for word in _WORD.findall(THOUGHTS.sub("", text) if isinstance(text, str) else ""):
        if word.lower() in _YES:
            return 1.0
        if word.lower() in _NO:
            return 0.0
    return UNSAID


def _mass(entries: list[Any], words: frozenset[str]) -> float:
    return sum(
        math.exp(max(LEAST_LOGPROB, min(0.0, entry["logprob"])))
        for entry in entries
        if isinstance(entry, dict)
        and isinstance(entry.get("logprob"), int | float)
        and str(entry.get("token", "")).strip(" \t\n▁Ġ\"'*.").lower() in words
    )
