"""Work of the device thread: frames, generations, sessions, and where their results go.

No tensors here: what the runner attaches to a job (a tubelet, a random state, a parked copy) is
carried and never looked into.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol

from services.inference_worker.kv.look import FAMILIAR, Look
from services.inference_worker.kv.trunk import Branch, Trunk
from services.inference_worker.model.layout import FrameLayout
from services.inference_worker.model.sampling import GREEDY, Sampling

NO_FRAME = "no frame has been understood yet"
FLOWING_S = 1.0  # a session whose last frame is younger is live


class FinishReason(Enum):
    STOP = "stop"  # the model ended its answer
    LENGTH = "length"  # the token limit did
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class FrameReceipt:
    """Receipt of one frame: seconds it waited for the engine, and seconds until it was
    understood. `strangeness`: of the session's newest pictures then; see `Look`."""

    sequence: int
    capture_ns: int
    queue_s: float
    latency_s: float
    reused_segments: int
    recomputed_segments: int
    strangeness: float = 0.0


@dataclass(slots=True, eq=False)
class FrameJob:
    """One frame at the engine. `arrived_s` is monotonic; `done` is called from the device thread
    with a receipt, or with the error that ended its session. `tubelet`: the runner's, that
    begins with this frame, if it was made before its step."""

    pixels: bytes
    layout: FrameLayout
    capture_ns: int
    sequence: int
    arrived_s: float
    done: Callable[[FrameReceipt | Exception], None]
    replayed: bool = False
    missing: int = 0  # frames before it for which the one before stands
    tubelet: Any = None


@dataclass(frozen=True, slots=True)
class Seen:
    """The video a branch was given: capture times of its oldest and newest frame, how many, and how
    strange the newest ones are; see `Look`."""

    first_capture_ns: int
    last_capture_ns: int
    num_frames: int
    strangeness: float = 0.0

    @property
    def unfamiliar(self) -> bool:
        """Whether the model is asked about pictures that it does not know."""
        return self.strangeness > FAMILIAR


@dataclass(frozen=True, slots=True)
class PastPicture:
    """A picture that the window does not hold (any more), which one branch is shown."""

    pixels: bytes
    layout: FrameLayout
    capture_ns: int = 0


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest frame of a session, and its embedding."""

    picture: PastPicture
    embedding: bytes


class BranchSink(Protocol):
    """Receiver of a branch's results. Called from the device thread; must return at once."""

    def started(self, seen: Seen) -> None:
        """The prompt is understood; a token or a score follows."""
        ...

    def token(self, token: int) -> None: ...

    def scored(self, score: float) -> None:
        """The probability of yes, 0…1, of a `score_only` job. Nothing follows."""
        ...

    def finished(self, reason: FinishReason) -> None:
        """The answer is complete. Nothing follows."""
        ...

    def failed(self, error: Exception) -> None:
        """Nothing follows."""
        ...


@dataclass(slots=True, eq=False)
class Generation:
    """A question or a watch's check. `pending` tokens still have to run; the last one's logits
    give the next token. `max_tokens` bounds the answer alone. `before`: as of a `Prompt`.
    `needs_frame`: it fails where no frame was understood and none is on its way. `session`: that
    it was asked of, from when it waits there; `after_frame`: frames submitted to that before, which
    it must see. `said`: every token so far, of the prompt and of the answer. `paused`: its branch
    gave its pages back, and reads all of that again when there is room. `surprise`: of the answer,
    the sum of its tokens' negative log probabilities; NaN: nobody tells. `held`: what
    `ServedModel.hold` gave, of an engine's model a `Constraint`. `pictures`: which the branch reads
    before its tokens, and nobody else; `alone`: in the place of the window, else after it. `shift`:
    by how much the positions of what follows them differ from the numbers of its tokens.
    `background`: it runs while nothing else does. `undecided`: of a check, the model would rather
    have said something else than yes or no."""

    pending: list[int]
    max_tokens: int
    sink: BranchSink
    score_only: bool = False
    sampling: Sampling = GREEDY
    before: int = 0
    needs_frame: bool = False
    pictures: tuple[PastPicture, ...] = ()
    alone: bool = False
    background: bool = False
    after_frame: int = 0
    pictures_read: int = 0
    looks: list[Look] = field(default_factory=list)  # of those
    shift: int = 0
    branch: Branch | None = None
    seen: Seen | None = None
    session: "EngineSession | None" = None
    order: int = 0  # of opening
    paused: bool = False
    num_answered: int = 0
    surprise: float = 0.0
    undecided: bool = False
    generator: Any = None  # the runner's random state, made on first use
    held: Any = None
    prompt_tokens: int = 0
    said: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.pending)
        self.said = list(self.pending)

    def pause(self) -> None:
        """Begin again with all that was said, which gives the same token next."""
        self.paused = True
        self.pending = list(self.said)
        self.pictures_read = self.shift = 0
        self.looks.clear()

    @property
    def judged(self) -> Seen:
        """The video it was given; who asks about the past asks about the pictures of that."""
        assert self.seen is not None
        if not self.looks:
            return self.seen
        return replace(self.seen, strangeness=max(look.strangeness for look in self.looks))

    @property
    def next_picture(self) -> PastPicture | None:
        """The picture that is read next; None when all are."""
        left = self.pictures[self.pictures_read :]
        return left[0] if left else None

    @property
    def num_unread(self) -> int:
        """Tokens that are to be read before the next one is known, those of pictures included."""
        left = self.pictures[self.pictures_read :]
        return len(self.pending) + sum(each.layout.segment_tokens for each in left)

    def num_next(self, budget: int) -> int:
        """Tokens of its next run where a step has room for `budget`: a picture is never cut."""
        picture = self.next_picture
        if picture is not None:
            return picture.layout.segment_tokens if budget > 0 else 0
        return min(len(self.pending), max(0, budget))


@dataclass(slots=True, eq=False)
class EngineSession:
    """A session on the device thread. `frames_taken` counts frames that left the queue.
    `waiting` jobs have no branch yet, `waiting_tokens` in all; `running` ones do. `tubelet`: the
    runner's, the newest that was encoded. `active_s`: when it last had a frame or a question, or
    ended an answer. `parked`: the runner's copy of its pages, while it has none. `number`: of
    opening; its runs are one group of a step. `priority`: among sessions when memory runs short;
    `wanted_segments`: its window before that shrank it, else 0. `replayed_s`: when it was last
    shown what it had been shown elsewhere."""

    id: str
    trunk: Trunk
    number: int = 0
    frames: deque[FrameJob] = field(default_factory=deque)
    waiting: deque[Generation] = field(default_factory=deque)
    running: list[Generation] = field(default_factory=list)
    waiting_tokens: int = 0
    frames_submitted: int = 0
    frames_taken: int = 0
    reused_segments: int = 0
    recomputed_segments: int = 0
    last_frame_s: float = 0.0
    frame_interval_s: float = 0.0  # smoothed; 0: unknown
    rebase_due: bool = False
    first_capture_ns: int | None = None
    tubelet: Any = None
    active_s: float = 0.0
    parked: Any = None
    priority: int = 0
    wanted_segments: int = 0
    replayed_s: float = float("-inf")

    def enqueue(self, job: Generation) -> None:
        """Let a job wait for its branch; one in the background, behind all others."""
        job.session = self
        at = len(self.waiting)
        while not job.background and at and self.waiting[at - 1].background:
            at -= 1
        self.waiting.insert(at, job)
        self.waiting_tokens += job.prompt_tokens

    def dequeue(self) -> Generation:
        """The job that waits for longest; it waits no more."""
        job = self.waiting.popleft()
        self.waiting_tokens -= job.prompt_tokens
        return job

    def withdraw(self, job: Generation) -> None:
        """Let a waiting job wait no more."""
        self.waiting.remove(job)
        self.waiting_tokens -= job.prompt_tokens

    @property
    def unread_tokens(self) -> int:
        """Tokens of prompts that are still being read."""
        reading = (job.num_unread for job in self.running if not job.paused)
        return sum(count for count in reading if count > 1)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.frames or self.waiting or self.running)

    @property
    def wanted(self) -> bool:
        """Whether it is parked, with work that needs its pages."""
        return self.parked is not None and bool(self.waiting or self.frames)
