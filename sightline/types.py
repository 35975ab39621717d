"""Types that the SDK takes and gives: plain data, no protobuf.

Times `*_ns` are nanoseconds since the Unix epoch on the clock of the video's capture.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypedDict

__all__ = [
    "AnswerResult",
    "AskOptions",
    "Audio",
    "Called",
    "Decision",
    "Event",
    "FinishReason",
    "ModelCard",
    "ModelInfo",
    "Moment",
    "Packet",
    "PoolInfo",
    "PushReport",
    "Recollection",
    "Round",
    "Said",
    "ServerInfo",
    "SessionInfo",
    "SessionState",
    "SessionStats",
    "SourceCondition",
    "SourceHealth",
    "Timeouts",
    "Voice",
    "WatchStatus",
]


class SessionState(StrEnum):
    WAITING = "waiting"  # admitted, no picture yet
    LIVE = "live"
    STALLED = "stalled"  # its publisher left; kept for the grace time
    ENDED = "ended"  # the video came to its end; still answers about what it saw


class SourceCondition(StrEnum):
    """How a session's pictures are."""

    UNKNOWN = "unknown"  # no picture came yet, or the video came to its end
    FINE = "fine"
    DEAD = "dead"  # none come: the publisher left, or shows nothing
    DARK = "dark"
    COVERED = "covered"  # one colour all over
    FROZEN = "frozen"  # always the same, without the noise of a sensor
    REPEATING = "repeating"  # the same ones over and over


class SourceHealth(NamedTuple):
    """How a session's pictures are, and since when, by the server's clock."""

    condition: SourceCondition = SourceCondition.UNKNOWN
    since_ns: int = 0


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"  # `max_tokens` reached
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds that the SDK waits before it raises, in seconds. Give your own to `connect`."""

    connect_s: float = 5.0  # until the server is reachable at all
    call_s: float = 10.0  # one short call, retries included
    open_s: float = 30.0  # opening a video, which a server may have to fetch first
    answer_s: float = 120.0  # a question to the end of its answer, reconnects included
    reconnect_s: float = 30.0  # without a connection before open questions and watches fail
    push_s: float = 60.0  # a pushed frame without any acknowledgement


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStats:
    fps_in: float = 0.0  # decoded at the gateway
    fps_processed: float = 0.0  # understood by the model
    frames_received: int = 0
    frames_sampled: int = 0  # chosen by the session's frame rate
    frames_processed: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # sampled frames lost, by reason
    frame_latency_p50_ms: float = 0.0
    frame_latency_p95_ms: float = 0.0
    kv_hit_ratio: float = 0.0
    last_capture_ns: int = 0  # newest understood frame; 0: none yet
    clock_source: str = ""
    degraded: tuple[str, ...] = ()
    source_width: int = 0
    source_height: int = 0
    fps_allowed: float = 0.0  # what the load leaves of the session's rate now
    strangeness: float = (
        0.0  # of the newest pictures; above 1: unlike those of the model's training
    )
    frames_unfamiliar: int = 0  # understood while that was so


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session as the server described it last."""

    id: str
    name: str
    state: SessionState
    source_kind: str  # "file", "rtmp", "whip", "push"; "" before a publisher came
    source: str
    model: str
    window: int  # segments the model keeps
    fps: float  # frames per second shown to the model
    frame_width: int  # pixels the model sees
    frame_height: int
    worker: str
    created_ns: int
    lossless: bool  # its pusher waits for the model instead of losing frames
    stats: SessionStats
    grace_s: float = 0.0  # how long it outlives its publisher
    labels: dict[str, str] = field(default_factory=dict)
    moving: bool = False  # on its way to another worker: questions wait until it is there
    source_health: SourceHealth = field(default_factory=SourceHealth)
    sound: bool = False  # its source has sound now
    memory: Literal["off", "lines", "pictures"] = "off"  # kept of what leaves the window
    listens: bool = False  # what is said in it is heard
    delegate: Literal["never", "unsure", "always"] = "never"  # questions that another model answers
    delegate_to: str = ""  # that model, or a pool


class AskOptions(TypedDict, total=False):
    """Wishes of how a question is answered; what is left out is the model's own to choose.

    `temperature` 0 takes the likeliest words. Above, they are drawn among the `top_k` likeliest
    (0: all), and of those among the likeliest that have probability `top_p` together; the same
    `seed` draws the same. `repetition_penalty` above 1 makes words less likely that were said
    before, `presence_penalty` those that the answer has already, and `frequency_penalty` the more
    the more often it has them (both −2 to 2). The answer ends before any of the `stop` strings.
    `instructions` say how to answer; the built-in models read none. `answer_schema` is a JSON
    Schema, as JSON, that the answer is JSON of; a model that cannot be held to it says
    `schema_unenforced` in `degraded`.
    """

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop: list[str]
    seed: int
    instructions: str
    answer_schema: str


class Audio(NamedTuple):
    """A piece of speech: signed 16-bit little-endian mono PCM."""

    sample_rate: int
    pcm: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One question of a conversation, and its answer."""

    turn: str
    question: str
    answer: str
    asked_ns: int
    capture_ns: int  # newest frame that the answer saw
    interrupted: bool  # it was cancelled; `answer` is what was heard
    rating: Literal["", "up", "down"] = ""
    better: str = ""  # what would have been right, as whoever rated it says


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedRound:
    """An answer that was rated, and where it was given."""

    conversation: str
    session: str  # on which the conversation began
    round: Round


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided: how likely a statement holds or, where it has choices or levels, which of
    them makes it hold (`value`) and how likely each is. `score`: the mean of the levels' numbers,
    which begin at 0."""

    statement: str
    probability: float
    value: str = ""
    score: float = 0.0
    unfamiliar_picture: bool = False  # the model does not know such pictures: of no worth
    probabilities: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """Card of a model: what it can honestly be asked; `questions` and `conditions` are there to be
    tried."""

    summary: str
    can: tuple[str, ...]
    cannot: tuple[str, ...]
    questions: tuple[str, ...]
    conditions: tuple[str, ...]
    licence: str


class PoolInfo(NamedTuple):
    """Workers that an operator runs alike, under a name."""

    name: str
    workers: int
    max_sessions: int
    free_sessions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model that a server has. Until it is `ready`, `loading` says how far it is, and only that
    and its name are known."""

    name: str
    ready: bool
    loading: str
    card: ModelCard
    workers: int
    max_sessions: int
    free_sessions: int
    frame_width: int  # pixels, where a session has no wish of its own
    frame_height: int
    tubelet: int  # frames that are understood together
    window: int  # segments, where a session has no wish of its own
    max_window: int
    preferred_fps: float
    dtype: str
    device: str
    pools: tuple[PoolInfo, ...] = ()  # that have it; a session may name one instead of the model


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """A server as it described itself."""

    version: str
    contract_version: str
    models: tuple[ModelInfo, ...]
    limits: dict[str, int]
    speech: bool  # whether answers can be spoken
    voices: tuple["Voice", ...]
    default_voice: str
    conversations: bool  # whether they can be read and deleted
    rtmp_url: str
    whip_url: str
    sign_in: str = ""  # "token": it asks for one, and tells the rest only to who brings it


class Said(NamedTuple):
    """What somebody said in a video, in one breath. Times are capture times; `language` has two
    letters."""

    text: str
    start_ns: int
    end_ns: int
    language: str


class Voice(NamedTuple):
    """Voice that a server can speak with. `language` is a BCP 47 tag."""

    id: str
    language: str
    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A stretch of a session's video that is remembered beyond the window. `line`: what the model
    said of it; `heard`: what was said in it; `pictures`: JPEG, where they were asked for, of the
    `num_pictures` that are kept."""

    id: str
    start_ns: int
    end_ns: int
    line: str
    heard: str = ""
    pictures: tuple[bytes, ...] = ()
    num_pictures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recollection:
    """A remembered moment that an answer is made of; `moment` is its id, and `picture` says whether
    one is kept."""

    moment: str
    start_ns: int
    end_ns: int
    line: str
    heard: str = ""
    picture: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """A function of yours that the model called while it answered, and what came of it."""

    name: str
    arguments: dict[str, Any]
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerResult:
    """A whole answer, and what it took."""

    text: str
    finish_reason: FinishReason
    conversation: str
    prompt_tokens: int  # history and question, without the video
    answer_tokens: int
    first_token_ms: float  # question at the worker to first token
    total_ms: float
    first_capture_ns: int  # the oldest and newest frame it saw
    last_capture_ns: int
    frames_seen: int
    newest_frame_age_ms: float  # when the answer began; grows where the source rests
    history_rounds: int
    degraded: tuple[str, ...]
    restarted: bool  # its text began anew: the connection broke and the question was asked again,
    # or the worker was lost that had begun it
    kept: bool | None = None  # stored in its conversation; False: not yet; None: nothing is kept
    memory: tuple[Recollection, ...] = ()  # of an answer about the past: what it is made of
    unsure: bool = False  # the model says so, or its probabilities do; its words of now come first
    unfamiliar_picture: bool = False  # the text says that the model does not know such pictures
    strangeness: float = 0.0  # how unlike those of its training they are; above 1: unfamiliar
    called: tuple[Called, ...] = ()  # functions of yours, in order
    confidence: float | None = None  # of the model in its words, 0…1; None: it does not tell
    answered_by: str = ""  # the delegate's model; "": the session's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A watched condition began (`active`) or ceased to hold."""

    watch: str
    condition: str
    active: bool
    score: float  # probability of yes, 0…1
    capture_ns: int  # newest frame it was judged on
    degraded: tuple[str, ...] = ()  # "fallback_model": another model watched


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """How a watch stood at its last check."""

    active: bool
    score: float  # probability of yes, 0…1
    capture_ns: int  # newest frame it was judged on
    unknown_words: tuple[str, ...] = ()  # of the condition, which the model has never learned
    undecided: bool = False  # the model would rather have said something else than yes or no
    unfamiliar_picture: bool = False  # it does not know such pictures: nobody can tell


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded access unit, for `push`. `capture_ns` is its presentation time."""

    data: bytes
    capture_ns: int
    keyframe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """Report of what became of pushed frames. Those the session's rate passes over are in
    `received` only."""

    received: int = 0
    understood: int = 0
    dropped: int = 0
    understood_capture_ns: int = 0  # capture time of the newest understood one
