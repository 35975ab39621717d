"""Questions about the past: which they are, by their words, and of when and what they ask.

English alone. A cheap rule before anything is looked up: whatever it does not take for one goes to
the model as ever.
"""

import datetime
import re
from dataclasses import dataclass
from enum import Enum

NS = 1_000_000_000
_COUNTED = "one two three four five six seven eight nine ten eleven twelve"
_WORDS: dict[str, float] = {
    **{word: number for number, word in enumerate(_COUNTED.split(), 1)},
    **{"fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "forty-five": 45, "fifty": 50},
    **{"sixty": 60, "ninety": 90, "a": 1, "an": 1, "half an": 0.5, "half a": 0.5},
    **{"a few": 3, "a couple of": 2, "several": 5},
}
_UNITS = {"second": 1, "sec": 1, "minute": 60, "min": 60, "hour": 3600, "hr": 3600, "day": 86400}
_NUMBER = "|".join(sorted(map(re.escape, _WORDS), key=len, reverse=True)) + r"|\d+(?:\.\d+)?"
_AMOUNT = rf"(?P<number>{_NUMBER}) (?P<unit>{'|'.join(_UNITS)})s?(?P<half> and a half)?"
_AGO = re.compile(rf"\b(?:about |around |roughly |some )?{_AMOUNT} (?:ago|earlier|before now)\b")
_SPAN = re.compile(
    rf"\b(?:(?:in|over|during|within|for|of) )?the (?:last|past) (?:{_AMOUNT}|"
    r"(?P<one>minute|hour|day))\b"
)
_CLOCK = re.compile(r"\bat (\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?\s*(am|pm)?(?: utc)?\b")
_DAY = re.compile(r"\b(yesterday|today|this morning|so far)\b")
_WHEN = re.compile(
    r"^(?:and |so |tell me |do you know )?(?:when (?:did|was|were|has|have|had)|what time (?:did|"
    r"was|were)|at what time|how long ago|when is the last time|when's the last time)\b"
)
_VAGUE = re.compile(
    r"\b(?:earlier|a while ago|some time ago|long ago|have you (?:ever )?seen|did you ever see|"
    r"has there (?:ever )?been|do you remember|ever (?:show|appear|come)|what have you seen)\b"
)
_HAPPENED = re.compile(r"\bwhat (?:has |had )?(?:happened|changed|went on|was going on)\b")
_PASSED_OVER = (
    "a an and any anything appear appeared at away be been before came come comes did disappear do "
    "does ever first from gone had happened has have he held i in into is it its last leave left "
    "me of off on or out remember saw scene see seen she show shown shows showed so some somebody "
    "something someone start started stop stopped tell that the there they thing things this time "
    "to up visible was we were what when where which while who with you your know how long ago "
    "since again earlier most recently recent latest"
)
_STOP = frozenset(_PASSED_OVER.split())
# Of what a question asks of a thing, and nothing that a line would say of it.
_OF_A_THING = (
    "brand camera can color colour cost could currently exactly hand held here hold holding image "
    "kind like look looking many much my name now number picture please price right should sort "
    "type video would your"
)
_ASKED_OF = frozenset(_OF_A_THING.split())
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
    def at_ns(self) -> int:
        """The middle of the time that it asks about."""
        return (self.from_ns + self.to_ns) // 2


def past_question(text: str, now_ns: int) -> PastQuestion | None:
    """The question as one about the past; None for one about the present. now_ns: capture time of
    the newest frame."""
    said = " ".join(text.lower().replace("?", " ").replace(",", " ").split())
    first = re.search(r"\bfirst\b", said) is not None
    if (found := _AGO.search(said)) is not None:
        age_ns = _ns_of(found)
        rest = _without(said, found)
        if _WHEN.match(said):  # "when did … ten minutes ago": of that time
            return PastQuestion(Kind.SPAN, 0, now_ns, _subject(rest))
        blur_ns = max(5 * NS, age_ns // 20)
        return PastQuestion(
            Kind.AT,
            max(0, now_ns - age_ns - blur_ns),
            now_ns - age_ns + blur_ns,
            _subject(rest),
            _present(rest),
        )
    if (found := _CLOCK.search(said)) is not None:
        at_ns = _clock_ns(found, now_ns)
        if at_ns is not None:
            rest = _without(said, found)
            return PastQuestion(
                Kind.AT, at_ns - 30 * NS, at_ns + 30 * NS, _subject(rest), _present(rest)
            )
    if _WHEN.match(said):
        words = _subject(said)
        return PastQuestion(Kind.WHEN, 0, now_ns, words, first=first) if words else None
    if (found := _SPAN.search(said)) is not None:
        unit = found["one"] or found["unit"]
        age_ns = _UNITS[unit] * NS if found["one"] else _ns_of(found)
        return PastQuestion(Kind.SPAN, now_ns - age_ns, now_ns, _subject(_without(said, found)))
    if (found := _DAY.search(said)) is not None:
        begin_ns, end_ns = _day_ns(found[1], now_ns)
        return PastQuestion(Kind.SPAN, begin_ns, end_ns, _subject(_without(said, found)))
    if _VAGUE.search(said) is not None:
        return PastQuestion(Kind.VAGUE, 0, now_ns, _subject(said), first=first)
    return None


def present_question(text: str, now_ns: int) -> PastQuestion | None:
    """A question about the present, as one about when that was last there; None where it names
    nothing to look for."""
    said = " ".join(text.lower().replace("?", " ").replace(",", " ").split())
    words = tuple(word for word in _subject(said) if word not in _ASKED_OF)
    return PastQuestion(Kind.NOW, 0, now_ns, words, present=text) if words else None


def phrases(line: str) -> list[frozenset[str]]:
    """The words of each thing that a line names."""
    parts = re.split(r"\band\b|[;,.]", line.lower())
    return [frozenset(map(_stem, re.findall(r"[a-z0-9$€%'-]+", part))) for part in parts if part]


def matches(line: str, words: tuple[str, ...]) -> bool:
    """Whether one of the things in a line has all of these words."""
    return any(set(words) <= phrase for phrase in phrases(line))


def _subject(text: str) -> tuple[str, ...]:
    words = re.findall(r"[a-z0-9$€%'-]+", _WHERE.sub(" ", text))
    return tuple(dict.fromkeys(_stem(word) for word in words if word not in _STOP))


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


def _ns_of(found: re.Match[str]) -> int:
    number = found["number"]
    count = _WORDS[number] if number in _WORDS else float(number)
    count += 0.5 if found["half"] else 0.0
    return round(count * _UNITS[found["unit"]] * NS)


def _clock_ns(found: re.Match[str], now_ns: int) -> int | None:
    """The last time that a clock in UTC showed this."""
    hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
    if found[4]:
        hour = hour % 12 + (12 if found[4] == "pm" else 0)
    if hour > 23 or minute > 59 or second > 59:
        return None
    now = datetime.datetime.fromtimestamp(now_ns // NS, datetime.UTC)
    at = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
    if at > now:
        at -= datetime.timedelta(days=1)
    return int(at.timestamp()) * NS


def _day_ns(name: str, now_ns: int) -> tuple[int, int]:
    if name == "so far":
        return 0, now_ns
    now = datetime.datetime.fromtimestamp(now_ns // NS, datetime.UTC)
    midnight = int(now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()) * NS
    if name == "yesterday":
        return midnight - 86400 * NS, midnight
    if name == "this morning":
        return midnight, min(now_ns, midnight + 12 * 3600 * NS)
    return midnight, now_ns
