"""Engines that turn speech into words: Whisper, by faster-whisper.

Engines block and are not thread-safe; `services.asr.hearing` gives each one thread.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from services.asr.config import AsrConfig
from services.asr.recording import Samples
from services.common.config import ConfigError
from services.common.resampling import HEARD_RATE

SHORT_S = 24.0  # longer recordings go through Whisper's own windows
WINDOW_S = 10.0  # least audio that is shown to the model, see `WhisperEngine`
LONG_WINDOW_S = 30.0  # what Whisper was made for
MARGIN_S = 2.0  # of silence behind the speech
FRAMES_PER_S = 100  # of Whisper's features
MAX_TOKENS = 224
# Nobody says more in a second, in whatever script. A model that lost its way says the same again
# and again until it is stopped: that took a second, for which whoever paused waited.
TOKENS_PER_S, TOKENS_BEFORE = 25, 16
UNSURE = -1.0  # mean log probability of a token, below which words are doubtful
SILENT = 0.6  # probability that there is no speech, above which doubtful words are none


@dataclass(frozen=True, slots=True)
class Segment:
    """Words without a pause, and when they were said, in seconds since the first sample."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Words:
    """What was said in a recording. `language`: of two letters."""

    segments: Sequence[Segment] = ()
    language: str = ""

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)


class Engine(Protocol):
    """A recogniser. `languages`: codes of those that it hears."""

    name: str
    languages: Sequence[str]

    def transcribe(
        self,
        samples: Samples,
        language: str,
        prompt: str,
        unwanted: Callable[[], bool] | None = None,
    ) -> Words | None:
        """Words of a recording, at HEARD_RATE. "auto": the language is found out. Blocks.

        unwanted: given where more is still being said. It is asked on the way whether something
        else has become more urgent; None is what is then, or is too doubtful yet, to be told."""
        ...


class WhisperEngine:
    """Whisper in CTranslate2's format.

    The model was made for windows of thirty seconds, and a question lasts two. It hears as well
    when its window ends a little after the speech, at a fifth of the cost; what it is unsure of is
    shown to it once more in a whole window, without a prompt.
    """

    def __init__(self, config: AsrConfig, folder: str) -> None:
        """Raises ConfigError for a folder that holds no such model."""
        self.name = f"whisper {config.model}"
        whisper = import_whisper()
        try:
            self._model: Any = whisper.WhisperModel(
                folder,
                device=config.device,
                compute_type=config.compute,
                cpu_threads=config.threads or min(4, os.cpu_count() or 1),
                local_files_only=True,
            )
        except Exception as error:  # CTranslate2 raises RuntimeError and ValueError for most
            raise ConfigError(f"ASR_MODEL={config.model}: it does not load: {error}") from error
        self._tokenizer = whisper.tokenizer.Tokenizer
        self.languages: Sequence[str] = tuple(self._model.supported_languages)
        if config.language != "auto" and config.language not in self.languages:
            raise ConfigError(f"ASR_LANGUAGE={config.language} is not a language of this model")

    def warm_up(self, language: str) -> None:
        """Go once through all that a question goes through: the first time takes the longest. It
        is noise, of which the model makes something."""
        noise = np.random.default_rng(0).normal(0, 0.1, 2 * HEARD_RATE).astype(np.float32)
        features = self._model.feature_extractor(noise)
        for window_s, prompt in ((WINDOW_S, "What is in the picture?"), (LONG_WINDOW_S, "")):
            self._read(self._encoded(features, window_s), window_s, 2.0, language, prompt)

    def transcribe(
        self,
        samples: Samples,
        language: str,
        prompt: str,
        unwanted: Callable[[], bool] | None = None,
    ) -> Words | None:
        audio_s = len(samples) / HEARD_RATE
        if audio_s > SHORT_S:
            return self._transcribe_long(samples, language, prompt)
        features = self._model.feature_extractor(samples)
        window_s = max(WINDOW_S, audio_s + MARGIN_S)
        encoded = self._encoded(features, window_s)
        if unwanted is not None and unwanted():
            return None
        words, sure = self._read(encoded, window_s, audio_s, language, prompt)
        if sure:
            return words
        if unwanted is not None:
            return None
        # Where little is said, a prompt is heard that nobody said.
        encoded = self._encoded(features, LONG_WINDOW_S)
        return self._read(encoded, LONG_WINDOW_S, audio_s, language, "")[0]

    def _encoded(self, features: Any, window_s: float) -> Any:
        return self._model.encode(_fitted(features, round(window_s * FRAMES_PER_S)))

    def _read(
        self, encoded: Any, window_s: float, audio_s: float, language: str, prompt: str
    ) -> tuple[Words, bool]:
        """Words of one window, and whether the model was sure of them."""
        if language == "auto":
            language = self._model.model.detect_language(encoded)[0][0][0].strip("<|>")
        tokenizer = self._tokenizer(
            self._model.hf_tokenizer,
            self._model.model.is_multilingual,
            task="transcribe",
            language=language,
        )
        before = tokenizer.encode(f" {prompt.strip()}")[-100:] if prompt.strip() else []
        most = min(MAX_TOKENS, TOKENS_BEFORE + round(TOKENS_PER_S * audio_s))
        start = [*([tokenizer.sot_prev, *before] if before else []), *tokenizer.sot_sequence]
        [found] = self._model.model.generate(
            encoded,
            [start],
            beam_size=1,
            max_length=min(self._model.max_length, most + len(start)),
            max_initial_timestamp_index=50,
            return_scores=True,
            return_no_speech_prob=True,
        )
        tokens = found.sequences_ids[0]
        sure = found.scores[0] > UNSURE and len(tokens) < most and not _repeats(tokens)
        if found.no_speech_prob > SILENT and not sure:
            return Words((), language), window_s < LONG_WINDOW_S
        return Words(_segments(tokens, tokenizer, min(window_s, audio_s)), language), sure

    def _transcribe_long(self, samples: Samples, language: str, prompt: str) -> Words:
        segments, info = self._model.transcribe(
            samples,
            language=None if language == "auto" else language,
            beam_size=1,
            condition_on_previous_text=False,
            initial_prompt=prompt or None,
        )
        found = [Segment(each.text.strip(), each.start, each.end) for each in segments]
        return Words(tuple(each for each in found if each.text), info.language)


def import_whisper() -> Any:
    """The faster-whisper package. Raises ConfigError where it is not installed."""
    try:
        import faster_whisper
    except ImportError as error:
        raise ConfigError(
            "speech is heard by the faster-whisper package: make voice, or "
            "pip install -r services/asr/requirements.txt"
        ) from error
    return faster_whisper


def _fitted(features: Any, frames: int) -> Any:
    """Features [mels, frames], cut or filled with silence."""
    features = features[:, :frames]
    missing = frames - features.shape[-1]
    return np.pad(features, ((0, 0), (0, missing))) if missing else features


def _segments(tokens: Sequence[int], tokenizer: Any, length_s: float) -> tuple[Segment, ...]:
    """Text tokens between Whisper's tokens of time, one for every 20 ms."""
    segments: list[Segment] = []
    text: list[int] = []
    start_s = end_s = 0.0

    def close(end_s: float) -> None:
        words = tokenizer.decode(text).strip()
        if words:
            segments.append(Segment(words, min(start_s, length_s), min(end_s, length_s)))
        text.clear()

    for token in tokens:
        if token >= tokenizer.timestamp_begin:
            end_s = (token - tokenizer.timestamp_begin) * 0.02
            close(end_s)
            start_s = end_s
        elif token < tokenizer.eot:
            text.append(token)
    close(length_s)
    return tuple(segments)


def _repeats(tokens: Sequence[int]) -> bool:
    """Whether a model that lost its way says the same few words again and again."""
    return len(tokens) > 24 and len(set(tokens)) < len(tokens) / 3
