"""espeak-ng in its child process: every voice, hostile texts, crashes and hangs."""

import contextlib
import signal
from collections.abc import Iterator

import pytest

from services.common.config import ConfigError
from services.tts import engines
from services.tts.config import TtsConfig
from services.tts.engines import Emit, EspeakEngine, make_engine
from sightline.errors import InvalidArgumentError

# Ends espeak-ng 1.52.0 with "buffer overflow detected" when the Sinhala voice reads it.
CRASHING = "]Ɲŋ﹟ﾄįﹴ﹖ﾽ︐ￋ﹟ƛﻇ﹀ȭﺏｳﺸ︽︕ﹱ﹏ﻃ﹫ﻒòＷ3ﾕ︻ｊ﹨ｊ[ﾅ︿ŏﺸȤﻻＶﾄ︑ｖ"


@pytest.fixture
def espeak() -> Iterator[EspeakEngine]:
    engine = EspeakEngine()
    yield engine
    engine.close()


def _collected() -> tuple[list[bytes], Emit]:
    heard: list[bytes] = []

    def emit(pcm: bytes) -> bool:
        heard.append(pcm)
        return True

    return heard, emit


def test_espeak_speaks_with_every_voice_it_lists(espeak: EspeakEngine) -> None:
    ids = [voice.id for voice in espeak.voices]
    assert len(ids) == len(set(ids)) > 100
    assert {"en-us", "de", "fr", "cmn"} <= set(ids)
    assert espeak.default_voice in ids
    for voice in espeak.voices:
        heard, emit = _collected()
        espeak.speak("hello 5", voice.id, 1.0, emit)
        assert len(b"".join(heard)) > 0.3 * 2 * espeak.sample_rate, voice


def test_espeak_takes_text_as_text(espeak: EspeakEngine) -> None:
    assert _length(espeak, '<break time="9s"/>') < 2 * espeak.sample_rate * 9  # spoken, not obeyed
    for text in ("[[a]]", "\U0001f600", "é" * 900, 'quote " backslash \\ newline \n end'):
        assert _length(espeak, text) > 0


def test_espeak_stops_and_recovers(espeak: EspeakEngine) -> None:
    text = "a long sentence that goes on and on " * 20
    whole, emit = _collected()
    espeak.speak(text, "en-us", 1.0, emit)
    heard: list[bytes] = []

    def leave(pcm: bytes) -> bool:
        heard.append(pcm)
        return len(heard) < 3

    espeak.speak(text, "en-us", 1.0, leave)
    assert len(heard) == 3

    def fail(pcm: bytes) -> bool:
        raise RuntimeError("from the callback")

    with pytest.raises(RuntimeError, match="from the callback"):
        espeak.speak(text, "en-us", 1.0, fail)
    again, emit = _collected()
    espeak.speak(text, "en-us", 1.0, emit)
    # Not to the sample: espeak-ng carries a little of its state on.
    assert len(b"".join(again)) == pytest.approx(len(b"".join(whole)), rel=0.01)


def test_an_unknown_default_voice_is_named() -> None:
    with pytest.raises(ConfigError, match="TTS_VOICE='klingon'"):
        make_engine(TtsConfig(engine="espeak-ng", voice="klingon"))


def _length(espeak: EspeakEngine, text: str = "hello", voice: str = "en-us") -> int:
    heard, emit = _collected()
    espeak.speak(text, voice, 1.0, emit)
    return len(b"".join(heard))


def test_a_text_that_crashes_the_library_is_refused_and_costs_nobody_else(
    espeak: EspeakEngine,
) -> None:
    usual = _length(espeak)
    with contextlib.suppress(InvalidArgumentError):  # another build may be able to speak it
        _length(espeak, CRASHING, "si")
    assert _length(espeak) == pytest.approx(usual, rel=0.01)


def test_a_child_killed_between_sentences_is_replaced(espeak: EspeakEngine) -> None:
    usual = _length(espeak)
    assert espeak._child is not None
    espeak._child.kill()
    espeak._child.wait()
    assert _length(espeak) == pytest.approx(usual, rel=0.01)


def test_a_child_killed_in_a_sentence_costs_that_sentence(espeak: EspeakEngine) -> None:
    def kill(pcm: bytes) -> bool:
        assert espeak._child is not None
        espeak._child.kill()
        return True

    with pytest.raises(InvalidArgumentError, match="cannot speak"):
        espeak.speak("a long sentence that goes on and on " * 100, "en-us", 1.0, kill)
    assert _length(espeak) > 0


def test_a_child_that_hangs_is_given_up(
    espeak: EspeakEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "SENTENCE_TIMEOUT_S", 0.2)
    assert espeak._child is not None
    espeak._child.send_signal(signal.SIGSTOP)
    with pytest.raises(InvalidArgumentError, match="cannot speak"):
        _length(espeak)
    monkeypatch.undo()
    assert _length(espeak) > 0


def test_signals_of_a_terminal_do_not_end_the_child(espeak: EspeakEngine) -> None:
    """Ctrl-C reaches the whole process group; the service still has texts to finish."""
    assert espeak._child is not None
    child = espeak._child
    for number in (signal.SIGINT, signal.SIGTERM):
        child.send_signal(number)
    assert _length(espeak) > 0
    assert espeak._child is child
