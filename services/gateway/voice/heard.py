"""What an ear tells of a microphone: events, as data.

Of one turn they come in this order: `SpeechSuspected`; then `SpeechUnfounded`, and nothing more of
it, or `SpeechBegan`, any number of `WordsHeard` that are not final, `SpeechEnded`, and last either
a final `WordsHeard` or `HearingFailed`. Times: `_s` are seconds of the audio that was fed, `_ns`
the wall clock.
"""

from dataclasses import dataclass

from sightline.errors import SightlineError


@dataclass(frozen=True, slots=True)
class SpeechSuspected:
    """Sounds like speech, for a moment: time to be quiet, and too early to be sure."""

    turn: str


@dataclass(frozen=True, slots=True)
class SpeechUnfounded:
    """Speech that was none."""

    turn: str


@dataclass(frozen=True, slots=True)
class SpeechBegan:
    """Speech, since `start_s`."""

    turn: str
    start_s: float
    start_ns: int


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """The turn is over: its last word ended at `end_s`, and silence followed."""

    turn: str
    end_s: float
    end_ns: int


@dataclass(frozen=True, slots=True)
class WordsHeard:
    """Words of the turn from its beginning on. A final "": it held no words. whole: its speaker
    pauses behind them, and they ask for no more, so that they may be the final ones."""

    turn: str
    text: str
    final: bool
    start_ns: int
    end_ns: int
    whole: bool = False

    @property
    def length_s(self) -> float:
        """Of the speech; where more may come, until now."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class HearingFailed:
    """The turn's words will not come."""

    turn: str
    error: SightlineError


Heard = SpeechSuspected | SpeechUnfounded | SpeechBegan | SpeechEnded | WordsHeard | HearingFailed
