"""Turns of speech in a stream of audio: where one begins, pauses and ends.

Pure: audio in, events out, and time is counted in samples.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from services.gateway.voice.activity import CHUNK_BYTES, CHUNK_S, Activity

DIP_S = 0.16  # silence that speech may have before it counts as begun
FAINT = 0.1  # probability from which on a silence may be speech that is too quiet to be known
HELD_LONGER = 4  # a turn that is held by hand may last so many times longer
HYSTERESIS = 0.15  # what goes on is speech from a lower probability on than what begins
PART_S = 1.6  # of a turn, that may be the beginning of another


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRules:
    """When somebody begins to speak, and when they have said what they wanted, in seconds."""

    threshold: float = 0.5  # probability of speech
    suspect_s: float = 0.12  # so much of it is suspected to be some
    speech_s: float = 0.3  # so much of it is some
    pause_s: float = 0.12  # silence after which the words are wanted
    silence_s: float = 0.5  # silence that ends a turn
    more_s: float = 1.5  # … whose words ask for more
    before_s: float = 0.3  # audio before the speech that belongs to it
    longest_s: float = 24.0  # a longer turn is cut here


@dataclass(frozen=True, slots=True)
class Suspected:
    """Sound that may be speech."""


@dataclass(frozen=True, slots=True)
class Unfounded:
    """Nobody did."""


@dataclass(frozen=True, slots=True)
class Began:
    start_s: float


@dataclass(frozen=True, slots=True)
class Audio:
    """Audio of the turn that has begun."""

    pcm: bytes


@dataclass(frozen=True, slots=True)
class Paused:
    """Silence; no audio comes until the speech goes on, or a turn that is held ends."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The turn is over. `voiced_s`: how much of it was speech."""

    end_s: float
    voiced_s: float


Event = Suspected | Unfounded | Began | Audio | Paused | Ended


class TurnDetector:
    """Finds turns by voice activity. `hold` makes one of all that comes until `release`, whatever
    it is, but for the silence at its end. `expects_more` keeps a turn open through a longer
    silence, until it is set back."""

    def __init__(self, activity: Activity, rules: TurnRules) -> None:
        self.expects_more = False
        self._activity = activity
        self._rules = rules
        self._waiting = bytearray()  # less than a chunk
        self._fed_s = 0.0
        self._held = False
        self._speaking = False
        self._suspected = False
        self._voiced_s = 0.0
        self._silent_s = 0.0
        self._start_s = 0.0
        self._back = bytearray()  # audio withheld: before a turn, or in a pause of one
        self._faint = False  # there may be speech in it
        self._recent: deque[bytes] = deque(maxlen=max(1, round(rules.before_s / CHUNK_S)))
        self._lately: deque[bytes] = deque(maxlen=round(PART_S / CHUNK_S))

    @property
    def fed_s(self) -> float:
        return self._fed_s

    @property
    def in_turn(self) -> bool:
        return self._speaking

    def feed(self, pcm: bytes) -> list[Event]:
        """What HEARD_RATE audio brings."""
        self._waiting += pcm
        events: list[Event] = []
        while len(self._waiting) >= CHUNK_BYTES:
            chunk = bytes(self._waiting[:CHUNK_BYTES])
            del self._waiting[:CHUNK_BYTES]
            probability = self._activity.process_chunk(chunk)
            self._fed_s += CHUNK_S
            self._lately.append(chunk)
            events += self._take(chunk, probability)
        return events

    def check(self) -> list[Event]:
        """What is due, now that `expects_more` may have changed."""
        return list(self._ending()) if self._speaking and not self._held else []

    def hold(self) -> list[Event]:
        """Begin a turn with what comes next, if none is under way."""
        self._held = True
        return [] if self._speaking else list(self._begin(self._fed_s, b""))

    def part(self, back_s: float) -> list[Event]:
        """The turn under way was none: it ends without speech, and another begins `back_s` ago, at
        most PART_S. One that is held is what was held.

        Silence takes the place of what was before it, as recognisers are used to: Whisper base had
        twenty of twenty such questions word for word, without it eighteen."""
        if not self._speaking or self._held:
            return []
        chunks = list(self._lately)[-max(1, round(back_s / CHUNK_S)) :]
        back_s = len(chunks) * CHUNK_S
        events: list[Event] = [Ended(self._fed_s - back_s, 0.0)]
        self._reset()
        self._voiced_s = back_s
        before = bytes(CHUNK_BYTES * round(self._rules.before_s / CHUNK_S))
        return [*events, *self._begin(self._fed_s - back_s, before + b"".join(chunks))]

    def release(self) -> list[Event]:
        """End the turn that is under way, if one is."""
        events: list[Event] = []
        if self._speaking:
            if self._held:
                paused = self._voiced_s > 0 and self._silent_s >= self._rules.pause_s
                rest = b"" if paused and not self._faint else bytes(self._back + self._waiting)
                self._waiting.clear()
                if rest:
                    events.append(Audio(rest))
            events += self._end()
        elif self._suspected:
            events.append(Unfounded())
        self._reset()
        return events

    def _take(self, chunk: bytes, probability: float) -> Iterator[Event]:
        rules = self._rules
        voiced = probability >= rules.threshold - (HYSTERESIS if self._speaking else 0.0)
        if voiced:
            self._voiced_s += CHUNK_S
            self._silent_s = 0.0
        else:
            self._silent_s += CHUNK_S
        if self._speaking:
            yield from self._go_on(chunk, voiced, probability)
        else:
            yield from self._maybe_begin(chunk, voiced)
        longest_s = rules.longest_s * (HELD_LONGER if self._held else 1)
        if self._speaking and self._fed_s - self._start_s >= longest_s:
            yield from self._end()
            self._reset()

    def _maybe_begin(self, chunk: bytes, voiced: bool) -> Iterator[Event]:
        if not self._voiced_s or (not voiced and self._silent_s > DIP_S):
            if self._suspected:
                yield Unfounded()
            for each in range(0, len(self._back), CHUNK_BYTES):
                self._recent.append(bytes(self._back[each : each + CHUNK_BYTES]))
            self._reset()
            self._recent.append(chunk)
            return
        if not self._back:
            self._start_s = self._fed_s - CHUNK_S
        self._back += chunk
        if not self._suspected and self._voiced_s >= self._rules.suspect_s:
            self._suspected = True
            yield Suspected()
        if self._voiced_s >= self._rules.speech_s:
            before = b"".join(self._recent)
            self._recent.clear()
            yield from self._begin(self._start_s, before + bytes(self._back))

    def _begin(self, start_s: float, pcm: bytes) -> Iterator[Event]:
        if not self._suspected:
            yield Suspected()
        self._speaking = True
        self._suspected = False
        self._start_s = start_s
        self._back.clear()
        yield Began(start_s)
        if pcm:
            yield Audio(pcm)

    def _go_on(self, chunk: bytes, voiced: bool, probability: float) -> Iterator[Event]:
        pause_s = self._rules.pause_s
        if voiced or not self._voiced_s:  # of a turn that is held, the beginning may be silence
            yield Audio(bytes(self._back) + chunk)
            self._back.clear()
            self._faint = False
            return
        if self._silent_s - CHUNK_S < pause_s:
            yield Audio(chunk)
            if self._silent_s >= pause_s:
                yield Paused()
            return
        self._back += chunk
        self._faint = self._faint or probability >= FAINT
        if not self._held:
            yield from self._ending()

    def _ending(self) -> Iterator[Event]:
        silence_s = self._rules.more_s if self.expects_more else self._rules.silence_s
        if self._silent_s >= silence_s:
            yield from self._end()
            for each in range(0, len(self._back), CHUNK_BYTES):
                self._recent.append(bytes(self._back[each : each + CHUNK_BYTES]))
            self._reset()

    def _end(self) -> Iterator[Event]:
        yield Ended(self._fed_s - self._silent_s, self._voiced_s)

    def _reset(self) -> None:
        self._speaking = self._suspected = self._held = self.expects_more = self._faint = False
        self._voiced_s = self._silent_s = 0.0
        self._back.clear()
