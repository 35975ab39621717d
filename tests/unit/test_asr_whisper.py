"""What is asked of Whisper, and how often, with a model that says what it is told to."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from services.asr.engines import LONG_WINDOW_S, WINDOW_S, WhisperEngine
from services.asr.recording import Samples
from services.common.resampling import HEARD_RATE

START, END, TIME_0 = 900, 901, 1000
SAID = [TIME_0, 1, 2, TIME_0 + 50, END]
AGAIN = [TIME_0, *[1, 2] * 100]


class Tokenizer:
    """Words are numbers."""

    sot_prev, eot, timestamp_begin, sot_sequence = 902, END, TIME_0, (START,)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def encode(self, text: str) -> list[int]:
        return [len(text)]

    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))


class Model:
    """Whisper, as CTranslate2 and faster-whisper have it. `says`: tokens of each reading."""

    max_length, is_multilingual, hf_tokenizer = 448, True, None

    def __init__(self, *says: list[int], score: float = -0.1) -> None:
        self.says = list(says)
        self.score = score
        self.windows_s: list[float] = []
        self.prompts: list[list[int]] = []
        self.model = self

    def feature_extractor(self, samples: Samples) -> Any:
        return np.zeros((80, len(samples) * 100 // HEARD_RATE), np.float32)

    def encode(self, features: Any) -> Any:
        self.windows_s.append(features.shape[-1] / 100)
        return features

    def generate(self, encoded: Any, prompts: list[list[int]], **options: Any) -> list[Any]:
        [prompt] = prompts
        self.prompts.append(prompt)
        tokens = self.says.pop(0)[: options["max_length"] - len(prompt)]
        return [SimpleNamespace(sequences_ids=[tokens], scores=[self.score], no_speech_prob=0.0)]


def _engine(model: Model) -> WhisperEngine:
    engine = object.__new__(WhisperEngine)
    engine._model, engine._tokenizer = model, Tokenizer
    return engine


def _audio(length_s: float) -> Samples:
    return np.zeros(round(length_s * HEARD_RATE), np.float32)


def test_a_question_is_read_once_in_a_short_window() -> None:
    model = Model(SAID)
    words = _engine(model).transcribe(_audio(2.0), "en", "circles")
    assert words is not None
    assert [(each.text, each.end_s) for each in words.segments] == [("1 2", 1.0)]
    assert (model.windows_s, len(model.prompts[0])) == ([WINDOW_S], 3)


@pytest.mark.parametrize("doubtful", [Model(AGAIN, SAID), Model(SAID, SAID, score=-2.0)])
def test_what_is_doubtful_is_read_again_whole_and_without_a_prompt(doubtful: Model) -> None:
    words = _engine(doubtful).transcribe(_audio(2.0), "en", "circles")
    assert words is not None
    assert words.text == "1 2"
    assert doubtful.windows_s == [WINDOW_S, LONG_WINDOW_S]
    assert doubtful.prompts[1] == [START]


def test_no_more_is_written_than_can_have_been_said() -> None:
    lengths = []
    for audio_s in (0.8, 2.0, 20.0):
        model = Model(list(range(400)), SAID)
        generate = model.generate

        def noted(*given: Any, generate: Any = generate, **options: Any) -> Any:
            lengths.append(options["max_length"])
            return generate(*given, **options)

        model.generate = noted  # type: ignore[method-assign]
        assert _engine(model).transcribe(_audio(audio_s), "en", "", lambda: False) is None
    assert lengths == [37, 67, 225]  # with the token that begins


def test_partial_words_are_read_once_or_given_up() -> None:
    model = Model(SAID)
    words = _engine(model).transcribe(_audio(1.0), "en", "", lambda: False)
    assert words is not None
    assert words.text == "1 2"
    model = Model(SAID, score=-2.0)
    assert _engine(model).transcribe(_audio(1.0), "en", "", lambda: False) is None
    assert len(model.windows_s) == 1
    model = Model(SAID)
    assert _engine(model).transcribe(_audio(1.0), "en", "", lambda: True) is None
    assert model.prompts == []
