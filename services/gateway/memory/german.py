"""German of questions about the past: its times, put into the English that the rules read.

What a thing is called stays as it was said: lines are in the words of their model.
"""

import re

_COUNTED = ["ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn"]
_COUNTED += ["elf", "zwölf"]
_TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]
_NUMBERS = {
    **{word: str(number) for number, word in enumerate(_COUNTED, 1)},
    **{f"{word}zehn": str(10 + number) for number, word in enumerate(_COUNTED[:9], 1)},
    **{"sechzehn": "16", "siebzehn": "17"},
    **{
        (f"{one}und{ten}" if one else ten): str(10 * tens + ones)
        for tens, ten in enumerate(_TENS, 2)
        for ones, one in enumerate(["", *_COUNTED[:9]])
    },
    **{f"{word}einhalb": f"{number}.5" for number, word in enumerate(_COUNTED, 1)},
    **{"einer": "1", "einem": "1", "eine": "1", "ner": "1", "zwo": "2", "anderthalb": "1.5"},
    **{"ein paar": "a few", "einigen": "a few", "mehreren": "several", "einer halben": "half an"},
}
_NUMBERS |= {
    spelt.replace("ß", "ss").replace("ü", "ue").replace("ö", "oe"): number
    for spelt, number in _NUMBERS.items()
}
_UNITS = {"sekunde": "second", "minute": "minute", "stunde": "hour", "tag": "day"}
_UNITS |= {"woche": "week", "monat": "month", "jahr": "year"}
_UNITS |= {"sek": "second", "min": "minute", "std": "hour"}
_NUMBER = "|".join(sorted(_NUMBERS, key=len, reverse=True)) + r"|\d+(?:[.,]\d+)?"
_PART = rf"(?:{_NUMBER}) (?:{'|'.join(_UNITS)})(?:n|en|e|s)?\b"
_COUNT = re.compile(rf"(?P<number>{_NUMBER}) (?P<unit>{'|'.join(_UNITS)})(?:n|en|e|s)?\b")
_AMOUNT = rf"(?P<amount>{_PART}(?: (?:und )?{_PART}){{0,3}})"
_ABOUT = r"(?:(?:etwa|ungefähr|circa|ca\.?|rund|genau|so|gut|knapp) )?"
_AGO = re.compile(
    rf"\bvor {_ABOUT}{_AMOUNT}|\b{_ABOUT}{_AMOUNT.replace('amount', 'back')} "
    r"(?:früher|zuvor|her|zurück)\b"
)
_SPAN = re.compile(rf"\b(?:in|während) (?:den|der|dem) (?:letzten|vergangenen) {_AMOUNT}")
_ONE = re.compile(
    r"\b(?:in|während) (?:der|dem) (?:letzten|vergangenen) (?P<unit>minute|stunde|tag)\b"
)
_QUARTERS = (
    (re.compile(r"\b(?:einer|ner) viertelstunde\b"), "15 minuten"),
    (re.compile(r"\b(?:einer|ner) dreiviertelstunde\b"), "45 minuten"),
)
_WORDS = (
    (re.compile(r"\bum (\d{1,2}[:.]\d{2})(?: uhr)?\b"), r"at \1"),
    (re.compile(r"\bum (\d{1,2}) uhr\b"), r"at \1:00"),
    (re.compile(r"\bheute (?:morgen|früh|vormittag)\b"), "this morning"),
    (re.compile(r"\bheute nachmittag\b"), "this afternoon"),
    (re.compile(r"\bheute abend\b"), "this evening"),
    (re.compile(r"\bletzte nacht\b"), "last night"),
    (re.compile(r"\bvorgestern\b"), "the day before yesterday"),
    (re.compile(r"\bgestern (?:morgen|früh|vormittag)\b"), "yesterday morning"),
    (re.compile(r"\bgestern nachmittag\b"), "yesterday afternoon"),
    (re.compile(r"\bgestern abend\b"), "yesterday evening"),
    (re.compile(r"\bgestern(?: mittag)?\b"), "yesterday"),
    (re.compile(r"\b(?:wird|werden|(?<!guten )morgen)\b"), "from now"),
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
    "geschehen los gesagt sagte über worden gab gibt"
)


def in_english(said: str) -> str:
    """What was said, in lower case, with its German times in English; the same where it has
    none."""
    found = said
    for german, counted in _QUARTERS:
        found = german.sub(counted, found)
    found = _AGO.sub(lambda each: f"{_amount(each['amount'] or each['back'])} ago", found)
    found = _SPAN.sub(lambda each: f"in the last {_amount(each['amount'])}", found)
    found = _ONE.sub(lambda each: f"in the last {_UNITS[each['unit']]}", found)
    for german, english in _WORDS:
        found = german.sub(english, found)
    return found


def _amount(said: str) -> str:
    """An amount of time in English."""
    parts = []
    for part in _COUNT.finditer(said):
        number = _NUMBERS.get(part["number"], part["number"].replace(",", "."))
        parts.append(f"{number} {_UNITS[part['unit']]}")
    return " and ".join(parts)
