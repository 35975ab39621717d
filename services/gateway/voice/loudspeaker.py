"""Loudspeaker of a client that plays our speech by itself: what can be in its microphone of that.

Nothing is told of when it plays, so it is taken to play what it is sent as it comes. What a
microphone hears is compared with that as sound, at once, and as words, once they are known.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.common.resampling import HEARD_RATE, Resampler
from services.gateway.voice.heard import WordsHeard
from services.gateway.voice.phrases import is_echo, is_short, without_echo

RATE = HEARD_RATE // 2  # of what is compared: speech has little above 4 kHz
HEARD_S = 0.5  # of the microphone that are compared
KNOWN_S = 1.5  # … that are remembered
BEHIND_S = 3.0  # that a client plays later than speech was sent
LATE_S = 0.5  # … as most do
AFTER_S = 6.0  # that words are understood after they were heard
KEPT_S = 60.0  # of speech that waits to be played
# Correlation of an echo with what was played. Measured with half a second of Piper's voice: in
# rooms that ring for 0.3 to 0.4 s nineteen of twenty echoes have more, of other things in the same
# voice one of a hundred; in one that rings for 0.6 s, with noise, half of the echoes.
ALIKE = 0.4
LOUDER = 3.0  # as energy, than our echo is somebody who speaks into it
# Such a voice begins with the first of its sounds that are so much louder, with dips between them.
# Measured with Piper's voice in forty of its own echoes, 8 or 12 dB above them: found at most 30 ms
# too late, and 100 ms too early.
VOICED, SOUND_S, VOICE_DIP_S = 5.0, 0.02, 0.16
PRE_EMPHASIS = 0.95  # so that the pitch of a voice does not count for all
LEAST_ENERGY = 1.0  # a sample, of silence


@dataclass(slots=True)
class _Piece:
    """Speech that is played from `start_s` on."""

    start_s: float
    samples: np.ndarray


class Loudspeaker:
    """What one client is taken to play now. Belongs to the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends_s = float("-inf")  # when all that was sent will have been played
        self._pieces: deque[_Piece] = deque()
        self._sentences: deque[tuple[str, float]] = deque(maxlen=64)  # and when each was to begin
        self._heard: np.ndarray | None = None  # None: there is no microphone yet
        self._resamplers: dict[str, Resampler] = {}

    @property
    def is_playing(self) -> bool:
        """Whether something is being played, as far as can be known."""
        return self._clock() < self._ends_s + LATE_S

    def say(self, pcm: bytes, sample_rate: int, text: str) -> None:
        """So much more speech was sent. text: the sentence that begins with it."""
        start_s = max(self._clock(), self._ends_s)
        if text:
            self._sentences.append((text, start_s))
        self._ends_s = start_s + len(pcm) / 2 / sample_rate
        if self._heard is None:
            return
        self._pieces.append(_Piece(start_s, self._samples("said", pcm, sample_rate)))
        while self._pieces[0].start_s < self._ends_s - KEPT_S:
            self._pieces.popleft()

    def hear(self, pcm: bytes, sample_rate: int) -> None:
        """The client's microphone heard this."""
        before = np.zeros(0, np.float32) if self._heard is None else self._heard
        heard = np.concatenate((before, self._samples("heard", pcm, sample_rate)))
        self._heard = heard[-round(RATE * KNOWN_S) :]

    def stop(self) -> None:
        """What was not played will not be."""
        now_s = self._clock()
        self._ends_s = min(self._ends_s, now_s)
        while self._pieces and self._pieces[-1].start_s > now_s:
            self._pieces.pop()
        while self._sentences and self._sentences[-1][1] > now_s:
            self._sentences.pop()

    def wait(self, seconds: float) -> None:
        """It stood still for so long."""
        self._ends_s += seconds
        for piece in self._pieces:
            piece.start_s += seconds

    @property
    def loudness(self) -> float:
        """Mean energy of what the microphone heard last."""
        return float(np.mean(np.square(self._compared))) if len(self._compared) else 0.0

    def drowned_s(self, loudness: float) -> float:
        """For how long by now the microphone has heard something else than what is being played,
        which is louder than that was; 0: it does not, as far as is known."""
        if self._heard is None or self.loudness <= LOUDER * loudness or self.is_heard():
            return 0.0
        size = round(RATE * SOUND_S)
        sounds = self._heard[len(self._heard) % size :].reshape(-1, size)
        loud = np.mean(np.square(sounds), axis=1) > VOICED * loudness
        since = dip = 0
        for back, is_loud in enumerate(reversed(loud), 1):
            since, dip = (back, 0) if is_loud else (since, dip + 1)
            if since and dip * SOUND_S > VOICE_DIP_S:
                break
        return since * SOUND_S

    def is_heard(self) -> bool:
        """Whether the microphone hears, by the sound of it, what is being played."""
        now_s = self._clock()
        since_s = now_s - BEHIND_S - HEARD_S
        played = [
            piece.samples
            for piece in self._pieces
            if piece.start_s <= now_s + LATE_S
            and piece.start_s + len(piece.samples) / RATE >= since_s
        ]
        heard = self._compared
        if not len(heard) or not played or now_s > self._ends_s + BEHIND_S:
            return False
        before = np.zeros(len(heard), np.float32)  # an echo may have only begun
        return likeness(heard, np.concatenate([before, *played])) >= ALIKE

    def said(self, text: str, *, final: bool) -> bool:
        """Whether these words, just heard, are ours."""
        return is_echo(text, self._lately(), final=final)

    def is_short_echo(self, words: WordsHeard) -> bool:
        """Whether a turn that sounded like what is played was nothing else: as a whole it was
        compared by its sound, and a recogniser takes so little for any word. While it goes on that
        is not known, and a word or two of it tell nothing."""
        return is_short(words.text) and (not words.final or words.length_s <= HEARD_S)

    def others_words(self, text: str) -> str:
        """What of these words, just heard, somebody else has said, who spoke into ours."""
        return without_echo(text, self._lately())

    @property
    def _compared(self) -> np.ndarray:
        """The last of what the microphone heard."""
        heard = np.zeros(0, np.float32) if self._heard is None else self._heard
        return heard[-round(RATE * HEARD_S) :]

    def _lately(self) -> str:
        """What may have been heard of ours by now."""
        now_s = self._clock()
        since_s = now_s - BEHIND_S - AFTER_S
        if self._ends_s < since_s:
            return ""
        # A sentence lasts until the next one begins.
        spoken = list(self._sentences)
        ends_s = [*(start_s for _, start_s in spoken[1:]), self._ends_s]
        ours = [
            sentence
            for (sentence, start_s), end_s in zip(spoken, ends_s, strict=True)
            if start_s <= now_s and end_s >= since_s
        ]
        return " ".join(ours)

    def _samples(self, whose: str, pcm: bytes, sample_rate: int) -> np.ndarray:
        resampler = self._resamplers.get(whose)
        if resampler is None or resampler.sample_rate != sample_rate:
            resampler = self._resamplers[whose] = Resampler(sample_rate)
        found = np.frombuffer(resampler.feed(pcm), np.int16).astype(np.float32)
        return (found[: len(found) // 2 * 2 : 2] + found[1::2]) / 2


def likeness(heard: np.ndarray, played: np.ndarray) -> float:
    """Greatest normalised correlation of a stretch of sound with any stretch as long of what was
    played, from 0 to 1. Neither loudness nor delay matter."""
    if len(heard) < RATE // 8 or len(played) <= len(heard):
        return 0.0
    heard, played = (each[1:] - PRE_EMPHASIS * each[:-1] for each in (heard, played))
    length, energy = len(heard), float(heard @ heard)
    if energy < LEAST_ENERGY * length:
        return 0.0
    size = 1 << (len(played) + length).bit_length()
    spectrum = np.fft.rfft(played, size) * np.conj(np.fft.rfft(heard, size))
    products = np.fft.irfft(spectrum, size)[: len(played) - length + 1]
    sums = np.concatenate(([0.0], np.cumsum(np.square(played, dtype=np.float64))))
    energies = np.maximum(sums[length:] - sums[:-length], LEAST_ENERGY * length)
    return float(np.max(np.abs(products) / np.sqrt(energies * energy)))
