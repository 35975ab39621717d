"""Sentences from text that arrives in pieces."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.tts.text import MAX_WORD_CHARS, SentenceSplitter, SentenceTooLongError, has_sound


def _split(*pieces: str, max_chars: int = 240, eager: bool = False) -> list[str]:
    splitter = SentenceSplitter(max_chars, eager=eager)
    found = [sentence for piece in pieces for sentence in splitter.feed(piece)]
    return found + splitter.finish()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A circle. It moves! Where? Left.", ["A circle.", "It moves!", "Where?", "Left."]),
        ("no full stop at the end", ["no full stop at the end"]),
        ("No. It left.", ["No.", "It left."]),
        ("It costs 3.14 dollars. Cheap.", ["It costs 3.14 dollars.", "Cheap."]),
        ("See example.com or v1.2.3 now. Yes.", ["See example.com or v1.2.3 now.", "Yes."]),
        ("Dr. Smith met Mr. J. Jones. They left.", ["Dr. Smith met Mr. J. Jones.", "They left."]),
        ("Shapes, e.g. circles, move. Yes.", ["Shapes, e.g. circles, move.", "Yes."]),
        ("At 3 p.m. the U.S. team left.", ["At 3 p.m. the U.S. team left."]),
        ("It ended at 3 p.m. Then rain.", ["It ended at 3 p.m.", "Then rain."]),
        ("Cats, dogs, etc. They run.", ["Cats, dogs, etc.", "They run."]),
        ("Cats, dogs, etc. and birds.", ["Cats, dogs, etc. and birds."]),
        ("Answer no. 5 is right. Good.", ["Answer no. 5 is right.", "Good."]),
        ("The answer is no. It left.", ["The answer is no.", "It left."]),
        ("Well... maybe. Yes.", ["Well... maybe.", "Yes."]),
        ("Well… maybe. Yes.", ["Well… maybe.", "Yes."]),
        ("It fades... Then nothing.", ["It fades...", "Then nothing."]),
        ("Really?! Yes!!! Go.", ["Really?!", "Yes!!!", "Go."]),
        ('He said "Stop." Then he (he!) left.', ['He said "Stop."', "Then he (he!)", "left."]),
        ("One line\nAnother line\r\n\r\nThird", ["One line", "Another line", "Third"]),
        ("1. First thing. 2. Second.", ["1. First thing.", "2. Second."]),
        ("It is I. You know.", ["It is I.", "You know."]),
        ("他来了。你好吗？好！", ["他来了。", "你好吗？", "好！"]),
        ("  \n ... --- !!! \n", []),
        ("", []),
        ("$", ["$"]),
        ("a\0b\x07c", ["a b c"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert _split(text) == sentences
    assert _split(*text) == sentences  # one character at a time


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A red square, a blue circle, a cross.", ["A red square,", "a blue circle, a cross."]),
        ("Yes, the red square, too. It moves.", ["Yes, the red square,", "too.", "It moves."]),
        ("Yes, it is red. Look here now, a cross.", ["Yes, it is red.", "Look here now, a cross."]),
        ("There are 1,000 circles here", ["There are 1,000 circles here"]),
        (f"{'x' * 300}, y", [*("x" * 300 + ",",), "y"]),
    ],
)
def test_the_first_clause_is_spoken_while_the_rest_is_made(text: str, sentences: list[str]) -> None:
    assert _split(text, eager=True) == sentences
    assert _split(*text, eager=True) == sentences


def test_a_sentence_leaves_before_the_next_begins() -> None:
    splitter = SentenceSplitter(240)
    assert splitter.feed("A red circle entered") == []
    assert splitter.feed(" from the left.") == []  # "left.5" would go on
    assert splitter.feed(" ") == ["A red circle entered from the left."]
    assert splitter.feed("It was 3.") == []
    assert splitter.feed("5 seconds ago.\n") == ["It was 3.5 seconds ago."]
    assert splitter.finish() == []


def test_a_long_sentence_is_cut_behind_a_clause() -> None:
    text = "a circle moves to the left, then it stops for a while, and then it turns around again"
    parts = _split(text, max_chars=60)
    assert parts == [
        "a circle moves to the left, then it stops for a while,",
        "and then it turns around again",
    ]


def test_a_long_sentence_without_clauses_is_cut_between_words() -> None:
    words = "word " * 100
    parts = _split(words, max_chars=60)
    assert all(len(part) <= 60 for part in parts)
    assert " ".join(parts) == words.strip()


def test_a_script_without_spaces_is_cut_anywhere() -> None:
    parts = _split("好" * 500, max_chars=60)
    assert [len(part) for part in parts] == [60] * 8 + [20]


def test_a_word_nobody_could_say_is_refused() -> None:
    assert _split("a" * MAX_WORD_CHARS, max_chars=60) == ["a" * MAX_WORD_CHARS]
    with pytest.raises(SentenceTooLongError):
        _split("hello " + "a" * (MAX_WORD_CHARS + 1), max_chars=60)


@given(
    text=st.text(
        alphabet=st.sampled_from("ab AB.,!?…\n\"')(3 。、好\u00a0\t\x00-:;"), max_size=400
    ),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    max_chars=st.integers(40, 80),
)
@example(text="." * 400, cuts=[], max_chars=40)
@example(text="\u00a0" * 200 + "a", cuts=[100], max_chars=40)
def test_nothing_that_can_be_said_is_lost_or_moved(
    text: str, cuts: list[int], max_chars: int
) -> None:
    marks = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[start:end] for start, end in pairwise(marks)]
    parts = _split(*pieces, max_chars=max_chars)
    letters = re.findall(r"[^\W_]", text)
    assert re.findall(r"[^\W_]", "".join(parts)) == letters
    assert all(has_sound(part) for part in parts)
    longest_word = max((len(word) for word in re.split(r"[\s\0]+", text)), default=0)
    assert all(len(part) <= max(max_chars, longest_word) for part in parts)


@pytest.mark.timeout(20)
def test_much_text_at_once_takes_time_in_proportion() -> None:
    parts = _split(("." * 900 + ".x ") * 300, max_chars=240)  # no mark ends where it stands
    assert "".join(parts).count("x") == 300
