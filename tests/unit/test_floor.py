"""Who has the floor."""

from services.gateway.voice.floor import Cancel, Cut, Floor, Pause, Resume, Stop

TEXT = "There are three circles. One of them is red and large."


def speaking(*, made: bool = False) -> Floor:
    """An answer of two sentences, two seconds each, that has been playing since second 10."""
    floor = Floor()
    floor.answer_began("a")
    floor.audio_sent("a", 1.0, "There are three circles.", 10.0)
    floor.audio_sent("a", 1.0, "", 10.1)
    floor.audio_sent("a", 2.0, "One of them is red and large.", 10.2)
    if made:
        floor.answer_made("a")
    return floor


def test_speech_silences_an_answer_and_words_end_it_in_order() -> None:
    floor = speaking()
    assert floor.speech_suspected("v", 12.9) == [Pause("a")]
    floor.played("a", 3.0)
    assert floor.words("v", "What about", 13.5) == [
        Stop("a", "There are three circles. One of them is"),
        Cancel("a"),
        Cut("a", "There are three circles. One of them is"),
    ]
    assert floor.words("v", "What about the square?", 13.9) == []
    assert not floor.paused


def test_an_answer_that_is_made_is_cut_and_not_cancelled() -> None:
    floor = speaking(made=True)
    floor.played("a", 1.0)
    floor.speech_suspected("v", 11.0)
    assert floor.words("v", "stop", 11.5) == [Stop("a", "There are"), Cut("a", "There are")]


def test_a_false_alarm_resumes_after_two_seconds() -> None:
    floor = speaking()
    assert floor.speech_suspected("v", 11.0) == [Pause("a")]
    floor.speech_wordless("another")
    floor.speech_wordless("v")
    assert floor.due_s == 13.0
    assert floor.tick(12.9) == []
    assert floor.tick(13.0) == [Resume("a")]
    assert floor.tick(20.0) == []
    # Words that come late end it all the same.
    assert floor.words("v", "hold on", 13.2)[0] == Stop("a", "There are")


def test_who_may_have_said_something_is_not_spoken_to() -> None:
    floor = speaking()
    floor.speech_suspected("v", 11.0)
    assert floor.tick(13.5) == [], "its words are not known yet"
    assert floor.due_s == 16.0
    floor.speech_ended("another")
    assert floor.due_s == 16.0
    floor.speech_ended("v")
    assert floor.due_s is None
    assert floor.tick(60.0) == []
    assert floor.words("v", "hold on", 60.0)[0] == Stop("a", "There are")


def test_words_that_come_late_are_waited_for_longer() -> None:
    floor = speaking()
    floor.speech_suspected("v", 11.0, late_s=4.0)
    assert floor.due_s == 11.0 + 5.0 + 8.0
    floor.speech_wordless("v")
    assert floor.due_s == 11.0 + 2.0 + 8.0


def test_sound_without_end_of_which_nothing_is_known_resumes() -> None:
    floor = speaking()
    floor.speech_suspected("v", 11.0)
    assert floor.tick(16.0) == [Resume("a")]


def test_speech_that_is_forgotten_resumes_at_once() -> None:
    floor = speaking()
    assert floor.speech_forgotten(11.0) == []
    floor.speech_suspected("v", 11.0)
    floor.speech_ended("v")
    assert floor.speech_forgotten(11.5) == [Resume("a")]


def test_what_was_no_speech_resumes_at_once() -> None:
    floor = speaking()
    floor.speech_suspected("v", 11.0)
    assert floor.speech_unfounded("another", 11.1) == []
    assert floor.speech_unfounded("v", 11.1) == [Resume("a")]


def test_sounds_of_listening_end_nothing() -> None:
    floor = speaking()
    floor.speech_suspected("v", 11.0)
    assert floor.words("v", "Mm-hmm.", 11.5) == []
    assert floor.paused


def test_our_own_voice_ends_nothing() -> None:
    floor = speaking()
    floor.speech_suspected("v", 11.5)
    assert floor.words("v", "three circles", 12.0) == []
    assert floor.is_echo("v", "three circles")
    assert floor.words("v", "three squares", 12.0) != []


def test_our_own_voice_is_known_when_it_is_over() -> None:
    floor = speaking(made=True)
    floor.speech_suspected("v", 13.5)
    floor.played("a", 4.0)
    assert floor.is_echo("v", "One of them is red.")
    assert not floor.is_echo("w", "One of them is red.")
    floor.speech_suspected("w", 15.0)
    assert not floor.is_echo("w", "One of them is red.")


def test_what_was_played_is_no_longer_interrupted() -> None:
    floor = speaking(made=True)
    floor.played("a", 4.0)
    assert floor.speech_suspected("v", 14.0) == []
    assert floor.words("v", "and the square?", 14.5) == []


def test_a_player_that_says_nothing_is_thought_to_play_on() -> None:
    floor = speaking(made=True)
    assert floor.speech_suspected("v", 20.0) == []  # it has been over for long
    floor = speaking(made=True)
    floor.speech_suspected("v", 12.0)
    assert floor.heard("a", 13.0) == "There are three circles."
    floor.speech_unfounded("v", 13.0)
    assert floor.heard("a", 14.0) == "There are three circles. One of them is"


def test_an_answer_that_is_only_text_is_cancelled() -> None:
    floor = Floor()
    floor.answer_began("a")
    assert floor.speech_suspected("v", 1.0) == []
    assert floor.words("v", "what?", 1.5) == [Cancel("a")]


def test_an_answer_that_is_lost_is_forgotten() -> None:
    floor = speaking()
    floor.speech_suspected("v", 11.0)
    floor.answer_lost("a")
    assert floor.due_s is None
    assert floor.words("v", "what?", 11.5) == []
    floor.played("a", 1.0)
    floor.audio_sent("a", 1.0, "", 12.0)
    assert floor.heard("a", 12.0) is None


def test_an_answer_that_begins_anew_was_not_heard() -> None:
    floor = speaking()
    floor.played("a", 3.0)
    floor.answer_began("a")
    floor.audio_sent("a", 2.0, "There are two.", 15.0)
    assert floor.heard("a", 15.0) == ""
