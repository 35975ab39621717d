"""Questions about the past: which they are, by their words, and of when and what they ask.

English, and German as far as times go. A cheap rule before anything is looked up: whatever it does
not take for one goes to the model as ever.
"""

import datetime
import re
from dataclasses import dataclass, replace
from enum import Enum

from services.gateway.memory.german import PASSED_OVER, in_english
from services.gateway.memory.times import (
    AGO,
    CLOCK,
    CLOCK_WORDS,
    DAY,
    FUTURE,
    NS,
    SPAN,
    clock_ns,
    day_ns,
    ns_of,
)

_WHEN = re.compile(
    r"^(?:and |so |tell me |do you know )?(?:"
    r"when (?!will|is (?!the last time)|are|do|does|can|should|would|could|you|i |we|they|it )|"
    r"what time (?:did|was|were)|at what time|how long ago|since when|when's the last time)|\bwhen$"
)
_VAGUE = re.compile(
    r"\b(?:earlier|a while ago|some time ago|long ago|have you (?:ever )?seen|did you ever see|"
    r"has there (?:ever )?been|do you remember|ever (?:show|appear|come)|what have you seen|"
    r"did i miss|have i missed)\b"
)
_HAPPENED = re.compile(
    r"\b(?:(?:what|wot|whats|what's) (?:has |had |did |have i |did i |have you |did you )?"
    r"(?:happen(?:e?d)?|changed?|missed|miss|seen|see|went on|gone on|was going on|was up)\b)"
)
_PASSED_OVER = (
    "a an and any anything appear appeared at away be been before came come comes did disappear "
    "do does ever first from gone had happened has have he held i in into is it its last leave "
    "left me of off on or out remember saw scene see seen she show shown shows showed so some "
    "somebody something someone start started stop stopped tell that the there they thing things "
    "this time to up visible was we were what when where which while who with you your know how "
    "long ago since again earlier most recently recent latest miss missed wot happend back prior "
    "like changed about say said saying says speak spoke talk talked talking mention mentioned "
    "told her him his"
)
_TOKEN = re.compile(r"[$€]?\w[\w$€%'-]*")
_STOP = frozenset(_PASSED_OVER.split())
_GERMAN_STOP = _STOP | frozenset(PASSED_OVER.split())
# Of what a question asks of a thing, and nothing that a line would say of it.
_OF_A_THING = (
    "brand camera can color colour cost could currently exactly hand held here hold holding image "
    "kind like look looking many much my name now number picture please price right should sort "
    "type video would your"
)
_ASKED_OF = frozenset(_OF_A_THING.split())
_POINTS = re.compile(r"\b(?:it|this|that|these|those)\b")
_SPEECH = re.compile(r"\b(?:say|said|saying|mention|mentioned|talk|talked|tell|told|speak|spoke)\b")
_TENSES = (
    (r"\bdid you see\b", "do you see"),
    (r"\bcould you see\b", "do you see"),
    (r"\bwas there\b", "is there"),
    (r"\bwere there\b", "are there"),
    (r"\bwas\b", "is"),
    (r"\bwere\b", "are"),
    (r"\bhad\b", "has"),
)


_WHERE = re.compile(r"\b(?:on|in|into) (?:the )?(?:camera|picture|video|stream|scene|view)\b")


class Kind(Enum):
    """What an answer is made of."""

    AT = "at"  # what was there at a time
    SPAN = "span"  # what happened in a stretch of time
    WHEN = "when"  # the time of something
    VAGUE = "vague"  # something, at whatever time before the window
    NOW = "now"  # something of the present, as it was when it was there last


@dataclass(frozen=True, slots=True)
class PastQuestion:
    """A question about the past. `from_ns`, `to_ns`: of when, capture times. `words`: what it is
    about, of which the order does not matter. `present`: as it would have been asked then; "" where
    it asks what happened. `first`: it asks for the first of several times."""

    kind: Kind
    from_ns: int
    to_ns: int
    words: tuple[str, ...]
    present: str = ""
    first: bool = False

    @property
    def is_of_words(self) -> bool:
        """Whether it asks about something that was said or done at about a time."""
        return self.kind is Kind.AT and not self.present and bool(self.words)

    @property
    def at_ns(self) -> int:
        """The middle of the time that it asks about."""
        return (self.from_ns + self.to_ns) // 2


def past_question(
    text: str, now_ns: int, zone: datetime.tzinfo = datetime.UTC
) -> PastQuestion | None:
    """The question as one about the past; None for one about the present. now_ns: capture time of
    the newest frame; zone: of the hours and days that it names."""
    heard = _plain(text)
    said = in_english(heard)
    if said == heard:
        return _understood(said, now_ns, zone, _STOP)
    asked = _understood(said, now_ns, zone, _GERMAN_STOP)
    return None if asked is None else replace(asked, present="")


def _understood(
    said: str, now_ns: int, zone: datetime.tzinfo, stop: frozenset[str]
) -> PastQuestion | None:
    first = re.search(r"\bfirst\b", said) is not None
    for pattern, clock in CLOCK_WORDS:
        said = pattern.sub(clock, said)
    if (found := AGO.search(said)) is not None:
        age_ns = ns_of(found)
        rest = _without(said, found)
        if _WHEN.search(said):  # "when did … ten minutes ago": of that time
            return PastQuestion(Kind.SPAN, 0, now_ns, _subject(rest, stop))
        blur_ns = max(5 * NS, age_ns // 20)
        return PastQuestion(
            Kind.AT,
            max(0, now_ns - age_ns - blur_ns),
            now_ns - age_ns + blur_ns,
            _subject(rest, stop),
            _present(rest),
        )
    if FUTURE.search(said):
        return None
    if (found := CLOCK.search(said)) is not None:
        day = DAY.search(said)
        at_ns = clock_ns(found, day[1] if day else "", now_ns, zone)
        if at_ns is not None and at_ns > now_ns:
            return None
        if at_ns is not None:
            rest = DAY.sub("", _without(said, found)).strip()
            return PastQuestion(
                Kind.AT,
                max(0, at_ns - 30 * NS),
                max(0, at_ns + 30 * NS),
                _subject(rest, stop),
                _present(rest),
            )
    if _WHEN.search(said):
        words = _subject(said, stop)
        return PastQuestion(Kind.WHEN, 0, now_ns, words, first=first) if words else None
    if (found := SPAN.search(said)) is not None:
        age_ns = ns_of(found)
        words = _subject(_without(said, found), stop)
        return PastQuestion(Kind.SPAN, max(0, now_ns - age_ns), now_ns, words)
    if (found := DAY.search(said)) is not None:
        begin_ns, end_ns = day_ns(found[1], now_ns, zone)
        if begin_ns >= now_ns > 0:  # it is yet to come
            return None
        return PastQuestion(Kind.SPAN, begin_ns, end_ns, _subject(_without(said, found), stop))
    if _VAGUE.search(said) is not None:
        words = _subject(said, stop)
        kind = Kind.SPAN if not words and _HAPPENED.search(said) else Kind.VAGUE
        return PastQuestion(kind, 0, now_ns, words, first=first)
    return None


def present_question(text: str, now_ns: int) -> PastQuestion | None:
    """A question about the present, as one about when that was last there; None where it names
    nothing to look for, or what it means is before its asker's eyes."""
    said = _plain(text)
    if _POINTS.search(said):
        return None
    words = _subject(said)
    if not _SPEECH.search(said):
        words = tuple(word for word in words if word not in _ASKED_OF)
    return PastQuestion(Kind.NOW, 0, now_ns, words, present=text) if words else None


def _plain(text: str) -> str:
    said = re.sub(r"(?<=\d),(?=\d)", ".", text.lower().replace("’", "'"))
    return " ".join(re.sub(r"[?!,;…~]|\.(?!\d)|(?<!\w)-|-(?!\w)", " ", said).split())


def phrases(line: str) -> list[frozenset[str]]:
    """The words of each thing that a line names."""
    parts = re.split(r"\band\b|[;,.]", line.lower())
    return [frozenset(map(_stem, _TOKEN.findall(part))) for part in parts if part]


def matches(line: str, words: tuple[str, ...]) -> bool:
    """Whether one of the things in a line has all of these words."""
    return any(set(words) <= phrase for phrase in phrases(line))


def says(heard: str, words: tuple[str, ...]) -> bool:
    """Whether all of these words were said, in whatever order."""
    return bool(words) and set(words) <= set(map(_stem, _TOKEN.findall(heard.lower())))


def _subject(text: str, stop: frozenset[str] = _STOP) -> tuple[str, ...]:
    words = _TOKEN.findall(_WHERE.sub(" ", text))
    return tuple(dict.fromkeys(_stem(word) for word in words if word not in stop))


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _present(text: str) -> str:
    """A question of the past as it was asked then; "" for what the present does not tell."""
    if _HAPPENED.search(text):
        return ""
    for past, now in _TENSES:
        changed, count = re.subn(past, now, text, count=1)
        if count:
            return changed
    return "" if re.search(r"\bdid\b", text) else text


def _without(text: str, found: re.Match[str]) -> str:
    return " ".join(f"{text[: found.start()]} {text[found.end() :]}".split())
