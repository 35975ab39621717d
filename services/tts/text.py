"""Sentences from text that is still being written."""

import re
import unicodedata

MAX_WORD_CHARS = 1000
FIRST_CLAUSE_CHARS = 12  # shorter ones sound broken off when they are spoken alone
_LOOKAHEAD_CHARS = 64


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A full stop after these ends no sentence: a name follows.
_TITLES = _words("""
    mr mrs ms mx dr prof st rev hon gen col capt lt sgt maj gov pres sen rep messrs
    eg e.g ie i.e viz vs cf
""")
# Nor after these, when a number follows.
_COUNTED = _words("no nos fig figs vol p pp ch sec approx ca")
# These may end a sentence; whether the next word begins with a capital tells.
_OPEN = _words("""
    etc inc ltd co corp jr sr bros al dept est min max
    a.m p.m u.s u.k u.n e.u d.c b.c a.d ph.d m.d b.a m.a
    jan feb mar apr jun jul aug sep sept oct nov dec
""")
# The mark, closing quotes and brackets behind it, then white space. East Asian marks need none.
# A run of marks is tried once, as a whole: hostile text must not cost its length squared.
_END = re.compile(r"""(?<![.!?…])(?P<mark>[.!?…]++)["'”’»)\]}]*+(?=\s)|[。！？]++[」』”’）]*+|\n""")
_WORD_BEFORE = re.compile(r"""[^\s(\[{"'“‘«]+$""")
_NEXT = re.compile(r"""\s*["'“‘«(\[{]*(\S)""")
_CLAUSE_END = re.compile(r"[,;:–—)](?=\s)|[、，；：]")


class SentenceTooLongError(ValueError):
    """An unbroken run of characters that no voice could speak."""


class SentenceSplitter:
    """Cuts text into sentences as soon as each is certainly complete.

    A sentence of more than `max_chars` is given in parts, cut behind a clause where there is one,
    else between words. What makes no sound (lone marks, white space) is left out. eager: the first
    clause of all is given by itself, for somebody waits for it.
    """

    def __init__(self, max_chars: int, *, eager: bool = False) -> None:
        self._max_chars = max_chars
        self._eager = eager
        self._rest = ""

    def feed(self, piece: str) -> list[str]:
        """Add text; the sentences it completes. Raises SentenceTooLongError."""
        self._rest = (self._rest + _cleaned(piece)).lstrip()
        return self._take(finished=False)

    def finish(self) -> list[str]:
        """No more text: what is left."""
        sentences = self._take(finished=True)
        last, self._rest = self._rest.strip(), ""
        return [*sentences, last] if has_sound(last) else sentences

    def _take(self, *, finished: bool) -> list[str]:
        found: list[str] = []
        while (cut := self._first_cut(finished)) is not None:
            sentence, self._rest = self._rest[:cut].rstrip(), self._rest[cut:].lstrip()
            if has_sound(sentence):
                found.append(sentence)
                self._eager = False
        return found

    def _first_cut(self, finished: bool) -> int | None:
        """End of the first sentence, or of a part of a long one; None while none does."""
        # No sentence is longer, so that however much text comes at once costs the same per cut.
        near = self._rest[: self._max_chars + _LOOKAHEAD_CHARS]
        cut = self._sentence(near, finished)
        if self._eager:
            for match in _CLAUSE_END.finditer(near, 0, cut or len(near)):
                if FIRST_CLAUSE_CHARS <= match.end() <= self._max_chars:
                    return match.end()
        return cut

    def _sentence(self, near: str, finished: bool) -> int | None:
        for match in _END.finditer(near):
            ends = _ends_sentence(near, match, finished)
            if ends is None or match.end() > self._max_chars:
                break
            if ends:
                return match.end()
        return self._part() if len(self._rest) > self._max_chars else None

    def _part(self) -> int | None:
        """Cut of a sentence that is too long; None where its only word goes on."""
        window = self._rest[: self._max_chars]
        clause = max((match.end() for match in _CLAUSE_END.finditer(window)), default=0)
        if clause >= self._max_chars // 3:
            return clause
        if (space := window.rfind(" ")) > 0:
            return space
        if ord(window[-1]) >= 0x2E80:  # a script without spaces: a part may begin anywhere
            return len(window)
        space = self._rest.find(" ", 0, MAX_WORD_CHARS + 1)
        if space < 0 and len(self._rest) > MAX_WORD_CHARS:
            raise SentenceTooLongError(f"a word has more than {MAX_WORD_CHARS} characters")
        return space if space > 0 else None


def has_sound(text: str) -> bool:
    """Whether a voice would say anything: letters, digits, or symbols that have names."""
    categories = (unicodedata.category(character) for character in text)
    return any(category[0] in "LN" or category in ("So", "Sc") for category in categories)


def _ends_sentence(text: str, match: re.Match[str], finished: bool) -> bool | None:
    """Whether a mark ends its sentence; None when that depends on text still to come."""
    mark = match["mark"]
    if mark is None or "!" in mark or "?" in mark:  # None: a line break, or an East Asian mark
        return True
    following = _NEXT.match(text, match.end())
    if following is None and not finished:
        following_is_new = None
    else:
        first = following[1] if following else ""
        following_is_new = not (first.islower() or first.isdigit())
    if len(mark) > 1 or mark == "…":
        return following_is_new
    before = _WORD_BEFORE.search(text, 0, match.start())
    word = before[0] if before else ""
    if word.lower() in _TITLES:
        return False
    if word.lower() in _OPEN:
        return following_is_new
    if word.lower() in _COUNTED:
        if following is None:
            return True if finished else None
        return not following[1].isdigit()
    if len(word) == 1 and word.isupper() and word != "I":
        return False  # an initial
    is_list_number = before is not None and before.start() == 0 and word.isdigit()
    return not is_list_number


def _cleaned(piece: str) -> str:
    """Lines end in \\n, all other white space is a space, and control characters are gone: voices
    stop at a zero byte."""
    piece = piece.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(_CLEAN.get(unicodedata.category(c), c) if c != "\n" else c for c in piece)


_CLEAN = {"Cc": " ", "Cn": " ", "Co": " ", "Cs": " ", "Zs": " ", "Zl": "\n", "Zp": "\n"}
