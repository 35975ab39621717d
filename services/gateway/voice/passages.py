"""Passages of speech in audio that goes on and on: what is said in one breath, and when."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from services.common.resampling import HEARD_RATE
from services.gateway.voice import turn_detector as detected
from services.gateway.voice.activity import CHUNK_BYTES, Activity
from services.gateway.voice.turn_detector import TurnDetector, TurnRules

PIECE_BYTES = 64 * 1024
# Nobody waits for an answer: sentences may stay together, and a short word counts.
RULES = TurnRules(speech_s=0.16, pause_s=0.3, silence_s=0.7, more_s=0.7, longest_s=12.0)


@dataclass(frozen=True, slots=True)
class Passage:
    """Speech between two silences. `pcm` is of HEARD_RATE; `start_s` is of all that was fed."""

    start_s: float
    pcm: bytes

    @property
    def length_s(self) -> float:
        return len(self.pcm) / 2 / HEARD_RATE

    async def pieces(self) -> AsyncIterator[bytes]:
        """It, in messages of a usual size."""
        for at in range(0, len(self.pcm), PIECE_BYTES):
            yield self.pcm[at : at + PIECE_BYTES]


class PassageCutter:
    """Cuts PCM of HEARD_RATE into passages by voice activity; what lies between them is dropped.
    Bounded: a passage has a longest length."""

    def __init__(self, activity: Activity, rules: TurnRules = RULES) -> None:
        self._detector = TurnDetector(activity, rules)
        self._waiting = bytearray()
        self._start_s: float | None = None
        self._pcm = bytearray()

    @property
    def fed_s(self) -> float:
        return self._detector.fed_s

    @property
    def in_passage(self) -> bool:
        """Whether somebody speaks."""
        return self._detector.in_turn

    def feed(self, pcm: bytes) -> Iterator[Passage]:
        """The passages that end in this piece."""
        self._waiting += pcm
        while len(self._waiting) >= CHUNK_BYTES:
            chunk = bytes(self._waiting[:CHUNK_BYTES])
            del self._waiting[:CHUNK_BYTES]
            yield from self._take(self._detector.feed(chunk))

    def finish(self) -> Iterator[Passage]:
        """The passage that the end cut off. Feed nothing after it."""
        missing = -len(self._waiting) % CHUNK_BYTES
        yield from self.feed(bytes(missing))
        yield from self._take(self._detector.release())

    def _take(self, events: list[detected.Event]) -> Iterator[Passage]:
        for event in events:
            match event:
                case detected.Audio(pcm):
                    if self._start_s is None:
                        self._start_s = max(0.0, self.fed_s - len(pcm) / 2 / HEARD_RATE)
                    self._pcm += pcm
                case detected.Ended() if self._start_s is not None:
                    yield Passage(self._start_s, bytes(self._pcm))
                    self._start_s = None
                    self._pcm.clear()
