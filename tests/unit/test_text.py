"""What a viewer sees while an answer is being written."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.inference_worker.serving.detokenizer import AnswerText


def decode_bytes(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


@given(st.text(max_size=40))
def test_characters_come_whole_and_none_is_lost(text: str) -> None:
    assume("<think>" not in text)
    answer = AnswerText(decode_bytes)
    pieces = [answer.add(byte) for byte in text.encode()] + [answer.rest()]
    assert "".join(pieces) == answer.text == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_the_answer_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    answer = AnswerText(decode_bytes, stops)
    given_out = ""
    for byte in text.encode():
        given_out += answer.add(byte)
        assert not any(stop in given_out for stop in stops)
        if answer.stopped:
            break
    given_out += answer.rest()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert given_out == text
    else:
        seen = text[: min(ends)]  # all that was written when the first stop string was complete
        assert given_out == seen[: min(seen.find(stop) for stop in stops if stop in seen)]


def test_text_waits_only_as_long_as_it_may_become_a_stop_string() -> None:
    answer = AnswerText(decode_bytes, ["END"])
    assert [answer.add(byte) for byte in b"xENxEND."[:7]] == ["x", "", "", "ENx", "", "", ""]
    assert answer.stopped
    assert answer.text == "xENx"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("<think>\nIt is red.\n</think>\n\nYes.", "Yes."),
        ("Yes. <think>Or not?</think> It is.", "Yes. It is."),
        ("<think>It goes on and on", ""),
        ("<think>a</think><think>b</think>c", "c"),
        ("a < b, <thinly", "a < b, <thinly"),
        ("No <", "No <"),
    ],
)
@pytest.mark.parametrize("stops", [[], ["red", "Or"]], ids=["", "stops"])
def test_thoughts_are_never_seen(written: str, read: str, stops: list[str]) -> None:
    """Not a part of one at any moment, and no stop string is looked for in them."""
    answer = AnswerText(decode_bytes, stops)
    seen = ""
    for byte in written.encode():
        seen += answer.add(byte)
        assert read.startswith(seen)
    assert seen + answer.rest() == answer.text == read
