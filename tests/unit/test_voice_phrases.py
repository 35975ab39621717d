"""Words as they are said."""

import pytest

from services.gateway.voice.phrases import expects_more, has_words, is_echo, without_echo


@pytest.mark.parametrize(
    "text",
    [
        "Is there a red square and",
        "Is there a red square and...",
        "a circle, a square,",
        "What colour is the",
        "What colour is the?",
        "Tell me when",
        "I would like to know because",
        "a red one —",
    ],
)
def test_a_sentence_that_is_not_over_asks_for_more(text: str) -> None:
    assert expects_more(text)


@pytest.mark.parametrize(
    "text",
    ["", "What colour is the square?", "How many are there?", "Stop.", "What is it standing on?"],
)
def test_a_sentence_that_is_over_does_not(text: str) -> None:
    assert not expects_more(text)


@pytest.mark.parametrize(("text", "words"), [("Mm-hmm.", False), ("Uh…", False), ("", False)])
def test_sounds_of_listening_are_no_words(text: str, words: bool) -> None:
    assert has_words(text) is words
    assert has_words(text + " stop")


def test_our_own_words_are_an_echo_and_those_of_others_are_not() -> None:
    spoken = "There are three circles. One of them is red."
    assert is_echo("three circles one of", spoken)
    assert is_echo("Three circles. One of th", spoken)  # cut off in a word
    assert is_echo("There are three circle", spoken)  # misheard
    assert is_echo("No. No.", "no")  # said once
    assert not is_echo("three red circles", spoken)
    assert not is_echo("stop", spoken)
    assert not is_echo("", spoken)
    assert is_echo("A read try", "A red triangle", final=False)  # misheard, while it is said
    assert not is_echo("A read try", "A red triangle")
    assert not is_echo("What about", "A red triangle", final=False)


def test_who_speaks_into_our_own_voice_is_told_from_it() -> None:
    spoken = "There are three circles. One of them is red."
    asked = "Where is the square?"
    assert without_echo(f"There are three circles. {asked}", spoken) == asked
    assert without_echo(f"{asked} One of them is red.", spoken) == asked
    assert without_echo(f"There are three circles. {asked} One of them is red.", spoken) == asked
    for theirs in (asked, "Three, please.", "Are there three circles?", "three circles"):
        assert without_echo(theirs, spoken) == theirs
    spoken = "a teddy is at the left and a hand holds a gun and a green glove is at the right"
    asked = "Where is the green glove?"
    assert without_echo(asked, spoken) == asked
    heard = f"{asked} And holds a gun and a green glove?"  # in a browser
    assert without_echo(heard, spoken) == asked
