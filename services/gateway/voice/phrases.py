"""Words as they are said: whether more will come, whether they are any, and whose they are."""

import re
from difflib import SequenceMatcher
from itertools import groupby

from sightline.v1 import gateway_pb2

MAX_PROMPT_CHARACTERS = 240  # recognisers read no more than some of it
ALIKE = 0.85  # as texts are that were said and heard
MAX_SHORT = 3  # words
LEAST_OURS = 4  # words beside somebody's that are known for our own
PARTLY_ALIKE = 0.6  # … while they are still being said
# What a sentence does not end with, but for a question, which may end with some of it.
_OPEN = re.compile(
    "and|or|but|because|so|then|also|plus|than|if|when|while|where|which|who|that|the|a|an|of|with|"
    "without|to|from|for|in|on|at|by|as|is|are|was|were|my|your|its|their|this|these|those"
)
_MAY_END = re.compile("in|on|at|to|from|for|with|by|that|is|are|was|were|this|these|those")
_NO_WORD = re.compile("u+h+|u+h?m+|m+h*m*|h+m+|ah+|oh+|eh|er+|huh")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def prompt_of(card: gateway_pb2.ModelCard | None) -> str:
    """Words that are likely when somebody talks with a model: the questions of its card."""
    prompt = ""
    for question in () if card is None else card.questions:
        if len(prompt) + len(question) < MAX_PROMPT_CHARACTERS:
            prompt = f"{prompt} {question}".strip()
    return prompt


def words_of(text: str) -> list[str]:
    """The words, in lower case and without marks."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def expects_more(text: str) -> bool:
    """Whether somebody who has said this goes on: "a red one and …"."""
    text = text.strip()
    if not text:
        return False
    if text.endswith(("...", "…", ",", "-", "—")):
        return True
    said = words_of(text)
    if not said or (text.endswith("?") and _MAY_END.fullmatch(said[-1])):
        return False
    return _OPEN.fullmatch(said[-1]) is not None


def has_words(text: str) -> bool:
    """Whether there is more in it than sounds of listening."""
    return any(_NO_WORD.fullmatch(word) is None for word in words_of(text))


def is_short(text: str) -> bool:
    """Whether it is so little that recognisers often take it for something else."""
    return len(words_of(text)) <= MAX_SHORT


def is_echo(text: str, spoken: str, *, final: bool = True) -> bool:
    """Whether what is heard are words of `spoken`, one after the other: our own voice, as far as it
    was understood. Words that are not final are often misheard, and the last may be cut off."""
    # Recognisers say the word of a short sound twice.
    heard, said = ([word for word, _ in groupby(words_of(each))] for each in (text, spoken))
    if not heard or not said:
        return False
    alike, whole = ALIKE if final else PARTLY_ALIKE, " ".join(heard)
    for length in {max(1, len(heard) + more) for more in ((0,) if final else (-1, 0, 1))}:
        for start in range(len(said) - length + 1):
            part = " ".join(said[start : start + length])
            if part.startswith(whole) or SequenceMatcher(None, part, whole).ratio() >= alike:
                return True
    return False


def without_echo(text: str, spoken: str) -> str:
    """What somebody says who speaks into our own voice: the text without those words of `spoken`
    that it begins or ends with. A few may be anybody's, who asks about what was told, and no text
    is all ours."""
    found = list(_WORD.finditer(text))
    start, end = 0, len(text)
    for number in range(LEAST_OURS, len(found)):
        # Many words alike would carry one beside them that is not.
        last = found[number - 1].end()
        ours = (text[:last], text[found[number - 2].start() : last])
        if all(is_echo(each, spoken) for each in ours):
            start = found[number].start()
    for number in range(len(found) - LEAST_OURS, 0, -1):
        first = found[number].start()
        if first <= start:
            break
        ours = (text[first:], text[first : found[number + 1].end()])
        if all(is_echo(each, spoken) for each in ours):
            end = first
    return text[start:end].strip(" ,;:…-—")
