"""Times in questions: how long ago, in which stretch of time, at what o'clock, on which day."""

import datetime
import re

NS = 1_000_000_000
_COUNTED = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
_COUNTED += ["twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"]
_COUNTED += ["nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS: dict[str, float] = {
    **{word: number for number, word in enumerate(_COUNTED, 1)},
    **{
        f"{ten}{between}{one}": 10 * tens + ones
        for tens, ten in enumerate(_TENS, 2)
        for ones, one in enumerate(["", *_COUNTED[:9]])
        for between in ("-", " ")
    },
    **{ten: 10 * tens for tens, ten in enumerate(_TENS, 2)},
    **{"a": 1, "an": 1, "half an": 0.5, "half a": 0.5, "a hundred": 100, "a dozen": 12},
    **{"a quarter of an": 0.25, "quarter of an": 0.25, "three quarters of an": 0.75},
    **{"a few": 3, "few": 3, "a couple of": 2, "a couple": 2, "couple of": 2, "several": 5},
}
_UNITS = {"second": 1, "sec": 1, "s": 1, "minute": 60, "min": 60, "m": 60, "hour": 3600, "hr": 3600}
_UNITS |= {"h": 3600, "day": 86400, "week": 604_800, "month": 2_629_746, "year": 31_556_952}
_LONGEST_S = 1e9  # whatever is older is as little remembered
_WORDED = "|".join(sorted(map(re.escape, _WORDS), key=len, reverse=True))
_NUMBER = rf"(?:(?:{_WORDED})(?=[ -])|\d+(?:\.\d+)?)"
_UNIT = "|".join(sorted(_UNITS, key=len, reverse=True))
_HALF = r"(?: and a half)?"
_PART = rf"{_NUMBER}{_HALF}[ -]?(?:{_UNIT})s?{_HALF}(?: or (?:so|two|more))?"
_COUNT = re.compile(
    rf"(?P<number>{_NUMBER})(?P<more>{_HALF})[ -]?(?P<unit>{_UNIT})s?(?P<half>{_HALF})"
)
# "an hour and ten minutes", "1h30m"; of "five or ten minutes" the last.
_AMOUNT = (
    rf"(?:{_NUMBER} (?:or|to) |\d+(?:\.\d+)?-)?(?P<amount>{_PART}(?:(?: and)? ?{_PART}){{0,3}})"
)
AGO = re.compile(
    r"\b(?:(?:about|around|roughly|some|like|approximately|almost|nearly|over|exactly|just) )?"
    rf"{_AMOUNT} (?:ago|earlier|back|prior|before now)\b"
)
SPAN = re.compile(
    rf"\b(?:(?:in|over|during|within|for|of) )?(?:(?:the |these |those )?(?:last|past) {_AMOUNT}|"
    rf"(?:the )?(?:last|past) (?P<one>minute|hour|day|week)(?P<more>{_HALF}))\b"
)
CLOCK = re.compile(
    r"\bat (\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?(?:\s*(am|pm))?(?:\s*(?P<utc>utc|gmt|z))?\b"
)
_DAY = (
    r"(?:the day before yesterday|yesterday(?: (?:morning|afternoon|evening))?|today|"
    r"this (?:morning|afternoon|evening)|last night)"
)
_HOUR = r"at (\d{1,2})(?![\d:.]| ?(?:am\b|pm\b|o'clock|seconds?\b|minutes?\b|hours?\b))"
CLOCK_WORDS = (
    (re.compile(rf"\b({_DAY}) {_HOUR}"), r"\1 at \2:00"),
    (re.compile(rf"\b{_HOUR}(?= {_DAY}\b)"), r"at \1:00"),
    (re.compile(r"\b([ap]) m\b"), r"\1m"),
    (re.compile(r"\bat noon\b"), "at 12:00"),
    (re.compile(r"\bat midnight\b"), "at 00:00"),
    (re.compile(r"\bat (\d{1,2}) ?(am|pm)\b"), r"at \1:00 \2"),
    (re.compile(r"\bat (\d{1,2}) o'clock\b"), r"at \1:00"),
)
DAY = re.compile(rf"\b({_DAY}|so far)\b")
_OF_TODAY = ("today", "this morning", "this afternoon", "this evening")
_HOURS = {  # from the last midnight on
    "the day before yesterday": (-48, -24),
    "yesterday": (-24, 0),
    "yesterday morning": (-24, -12),
    "yesterday afternoon": (-12, -6),
    "yesterday evening": (-6, 0),
    "last night": (-6, 6),
    "this morning": (0, 12),
    "this afternoon": (12, 18),
    "this evening": (18, 24),
    "today": (0, 24),
}
FUTURE = re.compile(
    r"\b(?:will (?:be|happen|come|there|it|she|he|they|we|you|i|the|this|that)|"
    r"(?:what|who|where|how) will|won't|(?:is|are|am) going to|tomorrow|from now)\b"
)


def ns_of(found: re.Match[str]) -> int:
    seconds = 0.0
    said = found["amount"] or f"a {found['one']}{found['more']}"  # the last one
    for part in _COUNT.finditer(said):
        number = part["number"]
        count = _WORDS[number] if number in _WORDS else float(number)
        seconds += (count + 0.5 * bool(part["more"] or part["half"])) * _UNITS[part["unit"]]
    return round(min(seconds, _LONGEST_S) * NS)


def clock_ns(
    found: re.Match[str], day: str, now_ns: int, zone: datetime.tzinfo = datetime.UTC
) -> int | None:
    """The last time that a clock of the zone, or of UTC where that is said, showed this, or when it
    does on a day that is named. An hour alone is one of twenty-four, but after noon where the part
    of the day is named so. Of the two of a night in which clocks are set back it is the later one
    that was; a time that they pass over is as long after the hour at which they were set."""
    hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
    if found[4]:
        hour = hour % 12 + (12 if found[4] == "pm" else 0)
    elif hour < 12 and (day.endswith(("noon", "evening")) or (day == "last night" and hour > 5)):
        hour += 12
    if hour > 23 or minute > 59 or second > 59:
        return None
    now = datetime.datetime.fromtimestamp(now_ns // NS, datetime.UTC if found["utc"] else zone)
    at = now.replace(hour=hour, minute=minute, second=second, microsecond=0, fold=0)
    if "yesterday" in day:
        at -= datetime.timedelta(days=2 if day.startswith("the") else 1)
    elif at.timestamp() > now.timestamp() and day not in _OF_TODAY:
        at -= datetime.timedelta(days=1)
    again_s, at_s = at.replace(fold=1).timestamp(), at.timestamp()
    return int(again_s if at_s < again_s <= now.timestamp() else at_s) * NS


def day_ns(name: str, now_ns: int, zone: datetime.tzinfo = datetime.UTC) -> tuple[int, int]:
    """When a day, or the part of one, begins and ends, by the zone's clock: a day on which that is
    set has an hour less or more."""
    if name == "so far":
        return 0, now_ns
    now = datetime.datetime.fromtimestamp(now_ns // NS, zone)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    begin_ns, end_ns = (
        int((midnight + datetime.timedelta(hours=hours)).timestamp()) * NS for hours in _HOURS[name]
    )
    return max(0, begin_ns), max(0, min(now_ns, end_ns))
