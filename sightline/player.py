"""Speech of a talk on its way to a loudspeaker: at its pace, and silent at once when told to."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sightline.talk import Talk, TalkEvent, TalkKind

__all__ = ["Player"]

SAMPLE_BYTES = 2
ACK_S = 0.25  # between two words about how much was heard


@dataclass(slots=True)
class _Speech:
    turn: str
    pcm: bytearray = field(default_factory=bytearray)


class Player:
    """Keeps what is to be played of a talk. `take` is given its events; whoever has the loudspeaker
    calls `next` for every piece, and the talk is told what was heard. One event loop."""

    def __init__(self, talk: Talk, clock: Callable[[], float] = time.monotonic) -> None:
        self.sample_rate = 0  # of the speech; 0: none came yet
        self._talk = talk
        self._clock = clock
        self._waiting: deque[_Speech] = deque()
        self._played: dict[str, int] = {}  # bytes of turns that are not over
        self._paused = False
        self._told_s = 0.0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to play."""
        return not self._waiting

    def take(self, event: TalkEvent) -> None:
        """Note what happened."""
        match event.kind:
            case TalkKind.SOUND if event.audio is not None:
                self.sample_rate = event.audio.sample_rate
                if not self._waiting or self._waiting[-1].turn != event.turn:
                    self._waiting.append(_Speech(event.turn))
                self._waiting[-1].pcm += event.audio.pcm
            case TalkKind.PAUSE:
                self._paused = True
                self._tell(event.turn)
            case TalkKind.RESUME:
                self._paused = False
            case TalkKind.STOP:
                self._paused = False
                self._waiting = deque(each for each in self._waiting if each.turn != event.turn)
                self._played.pop(event.turn, None)

    def next(self, seconds: float) -> bytes:
        """PCM of the next so many seconds: speech, or silence."""
        size = round(seconds * self.sample_rate) * SAMPLE_BYTES
        pcm = b""
        while self._waiting and not self._paused and len(pcm) < size:
            speech = self._waiting[0]
            piece = bytes(speech.pcm[: size - len(pcm)])
            del speech.pcm[: len(piece)]
            pcm += piece
            self._played[speech.turn] = self._played.get(speech.turn, 0) + len(piece)
            if not speech.pcm:
                self._waiting.popleft()  # more may come of it
                self._tell(speech.turn)
        if self._waiting and self._clock() - self._told_s > ACK_S:
            self._tell(self._waiting[0].turn)
        return pcm.ljust(size, b"\0")

    def _tell(self, turn: str) -> None:
        if self.sample_rate and turn in self._played:
            self._told_s = self._clock()
            self._talk.played(turn, self._played[turn] / SAMPLE_BYTES / self.sample_rate)
