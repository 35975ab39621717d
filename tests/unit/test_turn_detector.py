"""Turns of speech, found in audio whose likelihood of being speech the tests choose."""

import pytest

from services.gateway.voice.turn_detector import (
    Audio,
    Began,
    Ended,
    Event,
    Paused,
    Suspected,
    TurnDetector,
    TurnRules,
    Unfounded,
)
from tests.unit.voices import SILENCE, SPEECH, Told, audio

RULES = TurnRules()


def make() -> TurnDetector:
    return TurnDetector(Told(), RULES)


def kinds(events: list[Event]) -> list[type[Event]]:
    """Without the audio."""
    return [type(event) for event in events if not isinstance(event, Audio)]


def heard_s(events: list[Event]) -> float:
    return sum(len(event.pcm) / 2 / 16000 for event in events if isinstance(event, Audio))


def test_speech_begins_pauses_and_ends() -> None:
    detector = make()
    events = detector.feed(audio(SILENCE, 1) + audio(SPEECH, 1) + audio(SILENCE, 1))
    assert kinds(events) == [Suspected, Began, Paused, Ended]
    began = next(event for event in events if isinstance(event, Began))
    ended = next(event for event in events if isinstance(event, Ended))
    assert began.start_s == pytest.approx(1, abs=0.05)
    assert ended.end_s == pytest.approx(2, abs=0.05)
    assert ended.voiced_s == pytest.approx(1, abs=0.05)
    # A little of what came before it is part of it, and the silence up to the pause.
    assert heard_s(events) == pytest.approx(RULES.before_s + 1 + RULES.pause_s, abs=0.1)
    assert not detector.in_turn


def test_it_makes_no_difference_in_which_pieces_audio_comes() -> None:
    whole = audio(SILENCE, 0.5) + audio(SPEECH, 0.8) + audio(SILENCE, 0.8) + audio(SPEECH, 0.5)
    at_once = make().feed(whole)
    detector = make()
    pieces: list[Event] = []
    for start in range(0, len(whole), 330):
        pieces += detector.feed(whole[start : start + 330])
    assert pieces == at_once


def test_a_short_sound_is_no_speech() -> None:
    events = make().feed(audio(SPEECH, 0.2) + audio(SILENCE, 1))
    assert kinds(events) == [Suspected, Unfounded]
    assert heard_s(events) == 0
    assert kinds(make().feed(audio(SPEECH, 0.06) + audio(SILENCE, 1))) == []


def test_speech_that_stumbles_is_one_turn() -> None:
    stumbling = audio(SPEECH, 0.2) + audio(SILENCE, 0.1) + audio(SPEECH, 0.2)
    assert kinds(make().feed(stumbling)) == [Suspected, Began]


def test_a_pause_in_a_turn_loses_no_audio() -> None:
    spoken = audio(SPEECH, 0.5) + audio(SILENCE, 0.4) + audio(SPEECH, 0.5)
    events = make().feed(spoken + audio(SILENCE, 1))
    assert kinds(events) == [Suspected, Began, Paused, Paused, Ended]
    assert heard_s(events) == pytest.approx(1.4 + RULES.pause_s, abs=0.1)


def test_a_turn_that_expects_more_waits_longer() -> None:
    detector = make()
    assert Ended not in kinds(detector.feed(audio(SPEECH, 0.5) + audio(SILENCE, 0.4)))
    detector.expects_more = True
    assert kinds(detector.feed(audio(SILENCE, 0.8))) == []
    assert kinds(detector.check()) == []
    detector.expects_more = False
    assert kinds(detector.check()) == [Ended]


def test_a_turn_that_expects_more_ends_all_the_same() -> None:
    detector = make()
    detector.feed(audio(SPEECH, 0.5))
    detector.expects_more = True
    assert kinds(detector.feed(audio(SILENCE, 2))) == [Paused, Ended]


def test_what_follows_a_turn_is_another_one() -> None:
    turn = audio(SPEECH, 0.5) + audio(SILENCE, 0.7)
    events = make().feed(turn + turn)
    assert kinds(events) == [Suspected, Began, Paused, Ended] * 2


@pytest.mark.parametrize("last", [SPEECH, 0.2])
def test_a_turn_held_by_hand_is_all_that_comes(last: float) -> None:
    detector = make()
    events = detector.hold() + detector.feed(audio(SILENCE, 1) + audio(SPEECH, 0.5))
    events += detector.feed(audio(SILENCE, 3) + audio(last, 0.5) + b"\0" * 100)
    events += detector.release()
    assert kinds(events) == [Suspected, Began, Paused, Ended]
    assert heard_s(events) == pytest.approx(5, abs=0.1)
    assert kinds(detector.release()) == []


def test_a_turn_held_by_hand_pauses_and_ends_with_its_last_word() -> None:
    detector = make()
    events = detector.hold() + detector.feed(audio(SILENCE, 1) + audio(SPEECH, 0.5))
    events += detector.feed(audio(SILENCE, 3) + b"\0" * 100)
    assert kinds(events) == [Suspected, Began, Paused]
    before_s = heard_s(events)
    assert before_s == pytest.approx(1.5 + RULES.pause_s, abs=0.1)
    assert kinds(detector.release()) == [Ended]
    nothing = detector.hold() + detector.feed(audio(SILENCE, 1)) + detector.release()
    assert kinds(nothing) == [Suspected, Began, Ended]
    assert heard_s(nothing) == pytest.approx(1, abs=0.1)


def test_a_turn_without_an_end_is_cut() -> None:
    events = make().feed(audio(SPEECH, RULES.longest_s + 1))
    assert kinds(events)[:3] == [Suspected, Began, Ended]


def test_a_turn_can_be_ended_by_hand() -> None:
    detector = make()
    detector.feed(audio(SPEECH, 0.5))
    assert kinds(detector.release()) == [Ended]
    detector.feed(audio(SPEECH, 0.2))
    assert kinds(detector.release()) == [Unfounded]


def test_a_turn_is_parted_where_another_began() -> None:
    detector = make()
    before = detector.feed(audio(SPEECH, 2))
    events = detector.part(0.5)
    assert kinds(events) == [Ended, Suspected, Began]
    ended, began = (
        next(each for each in events if isinstance(each, kind)) for kind in (Ended, Began)
    )
    assert (ended.end_s, ended.voiced_s) == (pytest.approx(1.5, abs=0.05), 0.0)
    assert began.start_s == ended.end_s
    assert (heard_s(before), heard_s(events)) == (
        pytest.approx(2, abs=0.05),
        pytest.approx(RULES.before_s + 0.5, abs=0.05),
    )
    after = detector.feed(audio(SPEECH, 1) + audio(SILENCE, 1))
    assert kinds(after) == [Paused, Ended]
    assert after[-1] == Ended(pytest.approx(3, abs=0.05), pytest.approx(1.5, abs=0.05))
    assert detector.part(0.5) == [], "nobody speaks"
    detector.hold()
    detector.feed(audio(SPEECH, 1))
    assert detector.part(0.5) == [], "all that is held is one turn"
