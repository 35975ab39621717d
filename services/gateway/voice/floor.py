"""Who has the floor: what becomes of an answer when somebody speaks.

Pure: told what happens, it says what is to be done, in order. An answer that is interrupted ends in
this order: playing stops and forgets what waits, no more of it is made, and its turn keeps what was
heard. What the model remembers of the video is not touched by any of this.
"""

from dataclasses import dataclass, field

from services.gateway.voice.doubt import Doubt
from services.gateway.voice.phrases import has_words, is_echo, without_echo

MAX_SPOKEN = 512  # sentences of one answer that are remembered, the newest


@dataclass(frozen=True, slots=True)
class Pause:
    """Be silent at once, and keep what waits."""

    turn: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on where it paused."""

    turn: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Forget what was not played. heard: the text that was; None: all of it."""

    turn: str
    heard: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Make no more of this answer."""

    turn: str


@dataclass(frozen=True, slots=True)
class Cut:
    """Keep of this turn what was heard."""

    turn: str
    heard: str


Action = Pause | Resume | Stop | Cancel | Cut


@dataclass(slots=True)
class _Sentence:
    text: str
    start_s: float  # of the turn's audio
    end_s: float


@dataclass(slots=True)
class _Spoken:
    """An answer that is being made or played."""

    turn: str
    made: bool = False  # whole
    audio_s: float = 0.0  # sent
    played_s: float | None = None  # as its player says; None: it has not said
    first_s: float = 0.0  # when its first audio was sent
    sentences: list[_Sentence] = field(default_factory=list)


class Floor:
    """The answers of one conversation and whoever speaks into them. Clocks are the caller's: any
    seconds that only grow."""

    def __init__(self) -> None:
        self._answers: dict[str, _Spoken] = {}
        self._paused = ""  # the turn whose playing is paused
        self._doubt = Doubt("", 0.0)  # about the spoken turn that paused it
        self._into: tuple[str, _Spoken | None] = ("", None)  # the newest, and what it began in

    @property
    def paused(self) -> bool:
        return bool(self._paused)

    @property
    def due_s(self) -> float | None:
        """When `tick` has something to do; None: never."""
        return self._doubt.due_s if self._paused else None

    # --- answers ------------------------------------------------------------------------------

    def answer_began(self, turn: str) -> None:
        """An answer is being made, also one that begins anew."""
        self._answers[turn] = _Spoken(turn)

    def audio_sent(self, turn: str, audio_s: float, text: str, now_s: float) -> None:
        """So much more of its speech is on its way. text: the sentence that begins with it."""
        if (answer := self._answers.get(turn)) is None:
            return
        if not answer.sentences:
            answer.first_s = now_s
        if text or not answer.sentences:
            answer.sentences.append(_Sentence(text, answer.audio_s, answer.audio_s))
            del answer.sentences[:-MAX_SPOKEN]
        answer.audio_s += audio_s
        answer.sentences[-1].end_s = answer.audio_s

    def answer_made(self, turn: str) -> None:
        """It is whole; its speech may still be playing."""
        if (answer := self._answers.get(turn)) is not None:
            answer.made = True
            self._forget_if_over(answer)

    def answer_lost(self, turn: str) -> None:
        """Nothing more of it will come or be played: it failed, or was cancelled."""
        self._answers.pop(turn, None)
        if self._paused == turn:
            self._paused = ""

    def played(self, turn: str, played_s: float) -> None:
        """Its player says how much it has played."""
        if (answer := self._answers.get(turn)) is not None:
            before_s = answer.played_s or 0.0
            answer.played_s = min(max(before_s, played_s), answer.audio_s)
            self._forget_if_over(answer)

    def heard(self, turn: str, now_s: float) -> str | None:
        """What was heard of an answer; None where all of it was, or it was not spoken."""
        answer = self._answers.get(turn)
        if answer is None or not answer.sentences:
            return None
        played_s = self._played_s(answer, now_s)
        if answer.made and played_s >= answer.audio_s:
            return None
        parts = [_heard_of(sentence, played_s) for sentence in answer.sentences]
        return " ".join(part for part in parts if part)

    # --- speech -------------------------------------------------------------------------------

    def speech_suspected(
        self, turn: str, now_s: float, *, like_ours: bool = False, late_s: float = 0.0
    ) -> list[Action]:
        """Somebody may speak: silence at once where an answer is being spoken. like_ours: it sounds
        as what is being played does, so that its words must tell first. late_s: how late words
        come."""
        self._drop_played(now_s)
        answer = next(reversed(self._answers.values()), None)
        self._into = (turn, answer)
        if answer is None or not answer.sentences or self._paused or like_ours:
            return []
        self._paused, self._doubt = answer.turn, Doubt(turn, now_s, late_s)
        return [Pause(answer.turn)]

    def speech_unfounded(self, turn: str, now_s: float) -> list[Action]:
        """It was no speech, or had no words."""
        return self._resume(now_s) if self._doubt.turn == turn else []

    def speech_wordless(self, turn: str) -> None:
        """No words have been found in it so far."""
        if turn == self._doubt.turn:
            self._doubt.wordless = True

    def speech_ended(self, turn: str) -> None:
        """It is over: its words will be told, or that it had none."""
        if turn == self._doubt.turn:
            self._doubt.ended = True

    def speech_forgotten(self, now_s: float) -> list[Action]:
        """Nothing more will be told of whatever was said."""
        return self._resume(now_s)

    def words(self, turn: str, text: str, now_s: float, *, final: bool = True) -> list[Action]:
        """Words of a spoken turn, its first or more: they end every answer under way, unless they
        are our own."""
        if not has_words(text) or self.is_echo(turn, text, final=final):
            return []
        actions: list[Action] = []
        for answer in list(self._answers.values()):
            heard = self.heard(answer.turn, now_s)
            if answer.sentences:
                actions.append(Stop(answer.turn, heard))
            if not answer.made:
                actions.append(Cancel(answer.turn))
            if heard is not None:
                actions.append(Cut(answer.turn, heard))
        self._answers.clear()
        self._paused = ""
        return actions

    def is_echo(self, turn: str, text: str, *, final: bool = True) -> bool:
        """Whether the words of a spoken turn are those that we said ourselves when it began: also
        where they are known later than our last one is over."""
        return is_echo(text, self._said_into(turn), final=final)

    def others_words(self, turn: str, text: str) -> str:
        """What of the words of a spoken turn somebody else has said, who spoke into ours."""
        return without_echo(text, self._said_into(turn))

    def _said_into(self, turn: str) -> str:
        """What we said when a turn began."""
        speaker, answer = self._into
        if speaker != turn or answer is None:
            return ""
        return " ".join(sentence.text for sentence in answer.sentences)

    def tick(self, now_s: float) -> list[Action]:
        """What is due by now: nobody has said a word for too long."""
        due_s = self.due_s
        return self._resume(now_s) if due_s is not None and now_s >= due_s else []

    def _resume(self, now_s: float) -> list[Action]:
        if not self._paused:
            return []
        turn, self._paused = self._paused, ""
        if (answer := self._answers.get(turn)) is not None:
            # In which a player that says nothing was silent.
            answer.first_s += now_s - self._doubt.since_s
        return [Resume(turn)]

    def _played_s(self, answer: _Spoken, now_s: float) -> float:
        """Of a player that says nothing: as if it had played on from the first sample."""
        if answer.played_s is not None:
            return answer.played_s
        until_s = self._doubt.since_s if self._paused == answer.turn else now_s
        return min(answer.audio_s, max(0.0, until_s - answer.first_s))

    def _forget_if_over(self, answer: _Spoken) -> None:
        unspoken = not answer.sentences
        over = answer.played_s is not None and answer.played_s >= answer.audio_s - 0.02
        if answer.made and (unspoken or over):
            self.answer_lost(answer.turn)

    def _drop_played(self, now_s: float) -> None:
        """Forget answers whose player never said that it was done."""
        for answer in list(self._answers.values()):
            if answer.made and self._played_s(answer, now_s) >= answer.audio_s:
                self.answer_lost(answer.turn)


def _heard_of(sentence: _Sentence, played_s: float) -> str:
    """The words of a sentence that were played, as if all its characters took the same time."""
    if played_s >= sentence.end_s:
        return sentence.text
    length_s = sentence.end_s - sentence.start_s
    if played_s <= sentence.start_s or length_s <= 0:
        return ""
    share = (played_s - sentence.start_s) / length_s
    cut = round(share * len(sentence.text))
    whole = sentence.text[:cut]
    if cut < len(sentence.text) and not sentence.text[cut].isspace():
        whole = whole.rpartition(" ")[0]
    return whole.strip()
