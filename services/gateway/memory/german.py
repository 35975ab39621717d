"""German of questions about the past: its times, put into the English that the rules read.

What a thing is called stays as it was said: lines are in the words of their model.
"""

import re

_COUNTED = "ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf"
_NUMBERS = {
    **{word: str(number) for number, word in enumerate(_COUNTED.split(), 1)},
    **{"einer": "1", "einem": "1", "eine": "1", "fuenf": "5", "zwoelf": "12", "zwo": "2"},
    **{"fünfzehn": "15", "zwanzig": "20", "dreißig": "30", "dreissig": "30", "vierzig": "40"},
    **{"fünfzig": "50", "sechzig": "60", "neunzig": "90", "ein paar": "a few", "einigen": "a few"},
    **{"einer halben": "half an", "anderthalb": "1.5", "eineinhalb": "1.5", "mehreren": "several"},
}
_UNITS = {"sekunde": "second", "minute": "minute", "stunde": "hour", "tag": "day"}
_UNITS |= {"woche": "week", "monat": "month", "jahr": "year"}
_UNITS |= {"sek": "second", "min": "minute", "std": "hour"}
_NUMBER = "|".join(sorted(_NUMBERS, key=len, reverse=True)) + r"|\d+(?:[.,]\d+)?"
_AMOUNT = rf"(?P<number>{_NUMBER}) (?P<unit>{'|'.join(_UNITS)})(?:n|en|e|s)?\b"
_ABOUT = r"(?:(?:etwa|ungefähr|circa|ca\.?|rund|genau|so) )?"
_AGO = re.compile(rf"\bvor {_ABOUT}{_AMOUNT}\b")
_SPAN = re.compile(rf"\b(?:in|während) (?:den|der|dem) (?:letzten|vergangenen) {_AMOUNT}\b")
_ONE = re.compile(
    r"\b(?:in|während) (?:der|dem) (?:letzten|vergangenen) (?P<unit>minute|stunde|tag)\b"
)
_WORDS = (
    (re.compile(r"\bum (\d{1,2}[:.]\d{2})(?: uhr)?\b"), r"at \1"),
    (re.compile(r"\bum (\d{1,2}) uhr\b"), r"at \1:00"),
    (re.compile(r"\bheute (?:morgen|früh)\b"), "this morning"),
    (re.compile(r"\bgestern\b"), "yesterday"),
    (re.compile(r"\bheute\b"), "today"),
    (re.compile(r"\bbisher\b"), "so far"),
    (re.compile(r"\b(?:vorhin|früher|vor einer weile|vor kurzem)\b"), "earlier"),
    (re.compile(r"^wann (?:war|waren|ist|sind|hat|haben|wurde|kam|gab|sah)\b"), "when did"),
    (re.compile(r"\bzum ersten mal\b"), "first"),
    (re.compile(r"^was (?:ist|war|hat)\b(.*?)\b(?:passiert|geschehen|los)\b"), r"what happened\1"),
)
PASSED_OVER = (
    "auf da das dem den denn der des die er es gesehen gezeigt hast haben hat ich ihr im ist kam "
    "man mir sie sehen sind und uns war waren was wer wie wir wo wurde zu zuletzt etwas jemand du "
    "bild kamera eine einen einer einem ein habe passiert "
    "geschehen los gesagt sagte über worden"
)


def in_english(said: str) -> str:
    """What was said, in lower case, with its German times in English; the same where it has
    none."""
    found = _AGO.sub(lambda each: f"{_amount(each)} ago", said)
    found = _SPAN.sub(lambda each: f"in the last {_amount(each)}", found)
    found = _ONE.sub(lambda each: f"in the last {_UNITS[each['unit']]}", found)
    for german, english in _WORDS:
        found = german.sub(english, found)
    return found


def _amount(found: re.Match[str]) -> str:
    number = _NUMBERS.get(found["number"], found["number"].replace(",", "."))
    return f"{number} {_UNITS[found['unit']]}"
