"""A viewer's voice: what is heard becomes a question, and what is being said makes room for it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from services.common.errors import error_event
from services.gateway import metrics
from services.gateway.voice import floor, heard
from services.gateway.voice.ear import Ear
from services.gateway.voice.floor import Floor
from services.gateway.voice.loudspeaker import Loudspeaker
from services.gateway.voice.phrases import has_words, is_short, words_of
from sightline.v1 import gateway_pb2

ServerEvent = gateway_pb2.ServerEvent
SAMPLE_BYTES = 2
AWAY_S = 20.0  # for which what is being said waits for the rest, when its line has broken
MAX_HEARD = 2048  # pieces of audio that are known again


class Speaking(Protocol):
    """The viewer, as its voice needs it. `wishes`: what its spoken questions ask for beside their
    words."""

    @property
    def wishes(self) -> gateway_pb2.Question: ...
    def put(self, event: ServerEvent) -> None: ...
    def handle_event(self, event: gateway_pb2.ClientEvent) -> None: ...
    def expect(self, question: gateway_pb2.Question | None) -> None:
        """Be ready for this question, which may be asked in a moment; None: for none."""
        ...

    def cut(self, turn: str, heard: str) -> None:
        """Keep of a turn, whole or not, what was heard of its answer."""
        ...


class Talk:
    """The voice of one viewer. `make_ear` is called when the first audio comes, and raises
    SightlineError where nothing is heard here. All methods belong to the event loop."""

    def __init__(
        self,
        viewer: Speaking,
        make_ear: Callable[[Callable[[heard.Heard], None], Loudspeaker], Ear],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._viewer = viewer
        self._make_ear = make_ear
        self._clock = clock
        self._ear: Ear | None = None
        self._floor = Floor()
        self._loudspeaker = Loudspeaker(clock)
        self._alike: set[str] = set()  # turns that begin as what is being played sounds
        self._paused_s: float | None = None
        self._mode = gateway_pb2.LISTEN_MODE_HANDS_FREE
        self._timer: asyncio.TimerHandle | None = None
        self._away: asyncio.TimerHandle | None = None
        self._heard: deque[int] = deque(maxlen=MAX_HEARD)  # hashes of the newest pieces
        self._again: frozenset[int] = frozenset()  # … while they are said again
        self._told: gateway_pb2.Transcript | None = None  # of the turn under way

    def hear(self, audio: gateway_pb2.AudioChunk) -> None:
        """A piece of the microphone's audio. Raises what `Ear.feed` does."""
        if self._mode == gateway_pb2.LISTEN_MODE_OFF:
            return  # it was on its way when the microphone was closed
        piece = hash(audio.pcm)
        if piece in self._again:
            return
        self._again = frozenset()
        self._heard.append(piece)
        self._listening().feed(audio.pcm, audio.sample_rate)

    def leave(self) -> None:
        """The line has broken. What is being said waits for a while: its speaker may come back."""
        self._act(self._floor.speech_forgotten(self._clock()))
        if self._ear is not None and self._away is None:
            self._away = asyncio.get_running_loop().call_later(AWAY_S, self.break_off)

    def come_back(self) -> None:
        """There is a line again, and on it may come once more what was heard before it broke: how
        much of that arrived, its client cannot know."""
        self._stay()
        self._again = frozenset(self._heard)

    def _stay(self) -> None:
        if self._away is not None:
            self._away.cancel()
            self._away = None

    def listen(self, mode: gateway_pb2.ListenMode) -> None:
        """Hear the microphone otherwise from here on; what was said until now is a question."""
        before, self._mode = self._mode, mode or gateway_pb2.LISTEN_MODE_HANDS_FREE
        if self._mode == gateway_pb2.LISTEN_MODE_OFF and self._ear is None:
            return
        if self._again and self._mode == before and self._listening().in_turn:
            return  # said again, too: the turn goes on
        ear = self._listening()
        ear.commit()
        if self._mode == gateway_pb2.LISTEN_MODE_HOLD:
            ear.hold()

    def played(self, ack: gateway_pb2.PlaybackAck) -> None:
        self._floor.played(ack.turn, ack.played_s)

    def heard_of(self, turn: str) -> str | None:
        """What the viewer has heard of an answer; None where all of it, or it was not spoken."""
        return self._floor.heard(turn, self._clock())

    # --- what the viewer is told ----------------------------------------------------------------

    def answer_began(self, turn: str) -> None:
        self._loudspeaker.stop()
        self._floor.answer_began(turn)

    def audio_sent(self, chunk: gateway_pb2.SpeechChunk) -> None:
        audio = chunk.audio
        if audio.sample_rate:
            audio_s = len(audio.pcm) / SAMPLE_BYTES / audio.sample_rate
            self._floor.audio_sent(chunk.turn, audio_s, audio.text, self._clock())
            self._loudspeaker.say(audio.pcm, audio.sample_rate, audio.text)

    def answer_made(self, turn: str) -> None:
        self._floor.answer_made(turn)

    def answer_lost(self, turn: str) -> None:
        self._loudspeaker.stop()
        self._floor.answer_lost(turn)
        self._set_timer()

    def tasks(self) -> "list[asyncio.Task[None]]":
        """Whatever hears now."""
        return [] if self._ear is None else self._ear.tasks()

    def deafen(self) -> None:
        """Hear nothing until the viewer says how again, and forget what was not a question yet."""
        self._mode = gateway_pb2.LISTEN_MODE_OFF
        self.break_off()

    def break_off(self) -> None:
        """Forget what was not a question yet: the microphone is gone."""
        self._stay()
        self._heard.clear()
        self._again = frozenset()
        if self._ear is not None:
            self._ear.clear()
        if self._told is not None:
            self._told.text, self._told.final = "", True
            told, self._told = self._told, None
            self._viewer.put(ServerEvent(transcript=told))
        self._act(self._floor.speech_forgotten(self._clock()))
        self._viewer.expect(None)

    def close(self) -> None:
        """End with the viewer, whose `tasks` are for it to end."""
        self._told = None
        self.deafen()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- what the ear tells ---------------------------------------------------------------------

    def _listening(self) -> Ear:
        if self._ear is None:
            self._ear = self._make_ear(self._note, self._loudspeaker)
        return self._ear

    def _note(self, event: heard.Heard) -> None:
        now_s = self._clock()
        match event:
            case heard.SpeechSuspected(turn):
                if like_ours := self._loudspeaker.is_heard():
                    self._alike.add(turn)
                self._suspect(turn, now_s, like_ours=like_ours)
            case heard.SpeechBegan(turn) if turn in self._alike:
                if not self._loudspeaker.is_heard():  # now there is more to compare
                    self._alike.discard(turn)
                    self._suspect(turn, now_s)
            case heard.SpeechUnfounded(turn):
                self._alike.discard(turn)
                self._act(self._floor.speech_unfounded(turn, now_s))
            case heard.SpeechEnded(turn):
                self._floor.speech_ended(turn)
                self._set_timer()
            case heard.WordsHeard():
                self._note_words(event, now_s)
            case heard.HearingFailed(turn, error):
                metrics.VOICE_TURNS.labels("failed").inc()
                self._alike.discard(turn)
                self._act(self._floor.speech_unfounded(turn, now_s))
                self._viewer.expect(None)
                self._viewer.put(ServerEvent(error=error_event(error, turn=turn)))

    def _suspect(self, turn: str, now_s: float, *, like_ours: bool = False) -> None:
        late_s = self._listening().late_s
        self._act(self._floor.speech_suspected(turn, now_s, like_ours=like_ours, late_s=late_s))

    def _note_words(self, words: heard.WordsHeard, now_s: float) -> None:
        text = words.text if has_words(words.text) else ""
        alike = words.turn in self._alike
        outcome = "asked" if text else "echo" if alike else "wordless"
        sure = words.final and not (alike and is_short(text))  # a word of ours may be misheard
        others = text  # of what was said into ours, the words that are not
        if text and alike:
            others = self._floor.others_words(words.turn, self._loudspeaker.others_words(text))
        mixed = others != text and not is_short(others)  # fewer may be ours, misheard
        if (text and not mixed) and (
            (others != text and len(words_of(others)) < 2)
            or self._floor.is_echo(words.turn, text, final=sure)
            # A short answer may be over when its echo comes.
            or (alike and self._loudspeaker.said(text, final=sure))
            or (alike and self._loudspeaker.is_short_echo(words))
        ):
            text, outcome = "", "echo"
        else:
            text = others
        if words.final:
            self._alike.discard(words.turn)
        if text:
            self._act(self._floor.words(words.turn, text, now_s, final=sure))
        elif words.final:
            self._act(self._floor.speech_unfounded(words.turn, now_s))
        elif not has_words(words.text):  # those that are like ours may yet be somebody's
            self._floor.speech_wordless(words.turn)
            self._set_timer()
        if not text and not words.final:
            return
        transcript = gateway_pb2.Transcript(
            turn=words.turn,
            text=text,
            final=words.final,
            start_ns=words.start_ns,
            end_ns=words.end_ns,
        )
        self._told = None if words.final else transcript
        self._viewer.put(ServerEvent(transcript=transcript))
        question = gateway_pb2.Question()
        question.CopyFrom(self._viewer.wishes)
        question.turn, question.text = words.turn, text
        if not words.final:
            self._viewer.expect(question if words.whole else None)
            return
        metrics.VOICE_TURNS.labels(outcome).inc()
        if text:
            self._viewer.handle_event(gateway_pb2.ClientEvent(ask=question))
        self._viewer.expect(None)

    def _act(self, actions: list[floor.Action]) -> None:
        for action in actions:
            match action:
                case floor.Pause(turn):
                    self._paused_s = self._clock()
                    self._play(turn, gateway_pb2.PLAYBACK_ACTION_PAUSE)
                case floor.Resume(turn):
                    if self._paused_s is not None:
                        self._loudspeaker.wait(self._clock() - self._paused_s)
                    metrics.VOICE_INTERRUPTIONS.labels("resumed").inc()
                    self._play(turn, gateway_pb2.PLAYBACK_ACTION_RESUME)
                case floor.Stop(turn, text):
                    self._loudspeaker.stop()
                    metrics.VOICE_INTERRUPTIONS.labels("cut").inc()
                    self._play(turn, gateway_pb2.PLAYBACK_ACTION_STOP, text or "")
                case floor.Cancel(turn):
                    cancel = gateway_pb2.Cancel(turn=turn)
                    self._viewer.handle_event(gateway_pb2.ClientEvent(cancel=cancel))
                case floor.Cut(turn, text):
                    self._viewer.cut(turn, text)
        self._set_timer()

    def _play(self, turn: str, action: gateway_pb2.PlaybackAction, heard: str = "") -> None:
        playback = gateway_pb2.Playback(turn=turn, action=action, heard=heard)
        self._viewer.put(ServerEvent(playback=playback))

    def _set_timer(self) -> None:
        """Wake up when the floor has something to do."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (due_s := self._floor.due_s) is not None:
            delay_s = max(0.0, due_s - self._clock()) + 0.01
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._act(self._floor.tick(self._clock()))
