"""Ear: one microphone, from its audio to the words of each turn."""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Protocol

from services.common.asr_client import Pause
from services.common.resampling import HEARD_RATE, Resampler
from services.common.tasks import cancel_and_wait, spawn
from services.gateway import metrics
from services.gateway.voice import turn_detector as detected
from services.gateway.voice.activity import Activity
from services.gateway.voice.heard import (
    Heard,
    HearingFailed,
    SpeechBegan,
    SpeechEnded,
    SpeechSuspected,
    SpeechUnfounded,
    WordsHeard,
)
from services.gateway.voice.loudspeaker import Loudspeaker
from services.gateway.voice.phrases import expects_more
from services.gateway.voice.turn_detector import TurnDetector, TurnRules
from sightline.errors import InvalidArgumentError, ResourceExhaustedError, SightlineError
from sightline.v1 import asr_pb2

MAX_PIECE_BYTES = 64 * 1024
AHEAD_S = 30.0  # of audio that may come faster than it is spoken
LEAST_VOICED_S = 0.15  # a turn with less speech has no words, whatever a model makes of it
MAX_UNDER_WAY = 4  # turns whose words are awaited
LOOK_S = 0.2  # of audio, between two looks at whether somebody speaks into our echo
BEFORE_S = 0.1  # of it that belongs to their words
NUM_LATE = 8  # turns, of which the latest words say how late others may be


class Recogniser(Protocol):
    """Words of audio, as `services.common.asr_client.AsrClient` has them."""

    def transcribe(
        self,
        audio: AsyncIterator[bytes | Pause],
        sample_rate: int,
        *,
        language: str = "",
        prompt: str = "",
        partials: bool = False,
        background: bool = False,
    ) -> AsyncGenerator[asr_pb2.TranscribeResponse, None]: ...


def _no_prompt() -> str:
    return ""


class Ear:
    """Hears one microphone. All methods belong to the event loop; `tell` is called by `feed`, and
    by tasks of the ear when words come.

    Hands-free, turns begin and end by voice activity. `hold` begins one by hand, of all that is fed
    until `commit`. `clear` forgets the turn under way.

    A turn that begins as what `loudspeaker` plays sounds ends without words where somebody speaks
    into that: theirs is a turn of its own, whose recogniser does not hear what we said before.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        activity: Activity,
        rules: TurnRules,
        tell: Callable[[Heard], None],
        *,
        language: str = "",
        prompt: Callable[[], str] = _no_prompt,
        loudspeaker: Loudspeaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """prompt: asked with every turn for words that are likely in it. loudspeaker: one beside
        the microphone; it is told what that hears."""
        self._prompt = prompt
        self._loudspeaker = loudspeaker
        self._looked_s = 0.0
        self._recogniser = recogniser
        self._detector = TurnDetector(activity, rules)
        self._tell = tell
        self._language = language
        self._clock = clock
        self._began_s = clock()
        self._resampler: Resampler | None = None
        self._turn = ""  # the one under way, or suspected
        self._listening: _Listening | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._took_s: deque[float] = deque(maxlen=NUM_LATE)

    @property
    def fed_s(self) -> float:
        """Seconds of audio heard so far."""
        return self._detector.fed_s

    @property
    def in_turn(self) -> bool:
        """Whether somebody speaks, as far as is known."""
        return self._listening is not None

    @property
    def late_s(self) -> float:
        """How long the words of the last turns came after these, at most; 0 before the first."""
        return max(self._took_s, default=0.0)

    def feed(self, pcm: bytes, sample_rate: int) -> None:
        """Hear a piece of the microphone's audio: PCM, signed 16-bit little endian, mono. Raises
        InvalidArgumentError for what is none, ResourceExhaustedError for more than is spoken."""
        if len(pcm) > MAX_PIECE_BYTES:
            raise InvalidArgumentError(f"audio comes in pieces of at most {MAX_PIECE_BYTES} bytes")
        if self._resampler is None or self._resampler.sample_rate != sample_rate:
            self._resampler = Resampler(sample_rate)
        if self.fed_s - (self._clock() - self._began_s) > AHEAD_S:
            raise ResourceExhaustedError("audio comes faster than it can have been spoken")
        self._began_s = max(self._began_s, self._clock() - self.fed_s)  # silence that never came
        heard = self._resampler.feed(pcm)
        if self._loudspeaker is not None:
            self._loudspeaker.hear(heard, HEARD_RATE)
        self._note(self._detector.feed(heard))
        self._look_for_others()

    def hold(self) -> None:
        """Begin a turn by hand: what is fed until `commit`."""
        self._note(self._detector.hold())

    def commit(self) -> None:
        """End the turn under way, if there is one; its words follow."""
        self._note(self._detector.release())

    def clear(self) -> None:
        """Forget the turn under way: its words are not awaited."""
        self._detector.release()
        if self._listening is not None:
            self._listening.forget()
            self._listening = None
        self._turn = ""

    def _look_for_others(self) -> None:
        """Somebody may speak into a turn that is our echo."""
        listening = self._listening
        if listening is None or not listening.echo or self.fed_s - self._looked_s < LOOK_S:
            return
        self._looked_s = self.fed_s
        assert self._loudspeaker is not None
        if since_s := self._loudspeaker.drowned_s(listening.echo):
            self._note(self._detector.part(since_s + BEFORE_S))

    def tasks(self) -> list[asyncio.Task[None]]:
        """Tasks that await words."""
        return list(self._tasks)

    async def aclose(self) -> None:
        self.clear()
        await cancel_and_wait(*self._tasks)

    def _note(self, events: list[detected.Event]) -> None:
        for event in events:
            match event:
                case detected.Suspected():
                    self._turn = f"voice-{secrets.token_hex(8)}"
                    self._tell(SpeechSuspected(self._turn))
                case detected.Unfounded():
                    self._tell(SpeechUnfounded(self._turn))
                case detected.Began(start_s):
                    self._begin(start_s)
                case detected.Audio(pcm):
                    if self._listening is not None:
                        self._listening.add(pcm)
                case detected.Paused():
                    # Until its words are known, for they may ask for more.
                    self._detector.expects_more = True
                    if self._listening is not None:
                        self._listening.pause()
                case detected.Ended(end_s, voiced_s):
                    self._end(end_s, voiced_s)

    def _begin(self, start_s: float) -> None:
        start_ns = self._wall_ns(start_s)
        listening = self._listening = _Listening(self._turn, start_s, start_ns)
        if self._loudspeaker is not None and self._loudspeaker.is_heard():
            listening.echo = self._loudspeaker.loudness
        self._tell(SpeechBegan(self._turn, start_s, start_ns))
        if len(self._tasks) >= MAX_UNDER_WAY:
            self._tell(
                HearingFailed(self._turn, ResourceExhaustedError("too much is said at once"))
            )
            self._listening = None
            return
        task = listening.task = spawn(self._listen(listening), name="voice:listen")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, end_s: float, voiced_s: float) -> None:
        listening, self._listening = self._listening, None
        if listening is None:
            return
        listening.end_ns = listening.ns_at(end_s)
        listening.ended_s = self._clock()
        self._tell(SpeechEnded(listening.turn, end_s, listening.end_ns))
        if voiced_s < LEAST_VOICED_S:
            listening.forget()
            self._tell(self._words(listening, "", final=True))
        else:
            listening.end()

    async def _listen(self, listening: "_Listening") -> None:
        """Words of one turn, told as they come."""
        try:
            words = self._recogniser.transcribe(
                listening.audio(),
                HEARD_RATE,
                language=self._language,
                prompt=self._prompt(),
                partials=True,
            )
            async with contextlib.aclosing(words):
                async for reply in words:
                    if reply.final:
                        took_s = max(0.0, self._clock() - listening.ended_s)
                        metrics.VOICE_WORDS.observe(took_s)
                        self._took_s.append(took_s)
                    covers = listening.covers(reply.audio_s)
                    whole = covers and not expects_more(reply.text)
                    self._tell(self._words(listening, reply.text, final=reply.final, whole=whole))
                    if covers:
                        self._settle(listening, reply.text)
        except SightlineError as error:
            if self._listening is listening:
                self._detector.release()
                self._listening = None
            self._tell(HearingFailed(listening.turn, error))

    def _settle(self, listening: "_Listening", text: str) -> None:
        """The words up to a pause are known: the turn is over when they are whole, and the silence
        long enough."""
        if self._listening is listening:
            self._detector.expects_more = expects_more(text)
            self._note(self._detector.check())

    def _words(
        self, listening: "_Listening", text: str, *, final: bool, whole: bool = True
    ) -> WordsHeard:
        end_ns = listening.end_ns or listening.ns_at(self.fed_s)
        return WordsHeard(listening.turn, text, final, listening.start_ns, end_ns, whole)

    def _wall_ns(self, at_s: float) -> int:
        """Wall clock at which audio came that is `at_s` behind the first."""
        return time.time_ns() - round(max(0.0, self.fed_s - at_s) * 1e9)


class _Listening:
    """Audio of one turn on its way to the recogniser. Bounded: a turn has a longest length."""

    def __init__(self, turn: str, start_s: float, start_ns: int) -> None:
        self.turn = turn
        self.start_s = start_s
        self.start_ns = start_ns
        self.end_ns = 0
        self.echo = 0.0  # how loud it is, of a turn that begins as one
        self.ended_s = 0.0
        self.task: asyncio.Task[None] | None = None  # awaits its words
        self._audio_s = 0.0
        self._paused_s = -1.0  # audio before the pause under way; −1: there is none
        self._queue: asyncio.Queue[bytes | Pause | None] = asyncio.Queue()

    def ns_at(self, at_s: float) -> int:
        """Wall clock of the audio that is `at_s` behind the first."""
        return self.start_ns + round((at_s - self.start_s) * 1e9)

    def add(self, pcm: bytes) -> None:
        self._audio_s += len(pcm) / 2 / HEARD_RATE
        self._paused_s = -1.0
        self._queue.put_nowait(pcm)

    def pause(self) -> None:
        self._paused_s = self._audio_s
        self._queue.put_nowait(Pause())

    def end(self) -> None:
        self._queue.put_nowait(None)

    def forget(self) -> None:
        """Its words are not wanted, and take the recogniser's time from others'."""
        if self.task is not None:
            self.task.cancel()

    def covers(self, audio_s: float) -> bool:
        """Whether words of so much audio are those up to the pause that is under way."""
        return self._paused_s >= 0 and audio_s >= self._paused_s - 0.01

    async def audio(self) -> AsyncIterator[bytes | Pause]:
        while (piece := await self._queue.get()) is not None:
            yield piece
