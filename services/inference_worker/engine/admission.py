"""Admission to a worker: sessions, frames and questions that stay within its limits.

Nothing here changes anything; what is refused is refused by raising.
"""

from dataclasses import dataclass

from services.inference_worker.engine.jobs import EngineSession, FrameJob, Generation
from services.inference_worker.kv.trunk import TrunkShape
from services.inference_worker.model.family import StreamingModel, most_segments
from services.inference_worker.model.layout import FrameLayout
from sightline.errors import InvalidArgumentError, ResourceExhaustedError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Bounds of one worker. `branch_tokens`: of a question with its answer, and what the answers of
    one session share. `waiting_branches`: questions one session may have queued beyond those under
    way; `waiting_tokens`: of all that are queued, but for one of each session. `frame_queue`:
    frames of one session on their way, and `replay_queue` more while its window is replayed.
    `reuse_below`: a
    tubelet that changed less since the last encoded one is not encoded (`largest_change`); 0: all
    are. `park_after_s`: see `Parking`; `max_failed_steps`: see `StepHealth`."""

    max_sessions: int
    frame_queue: int
    replay_queue: int = 0
    branch_tokens: int
    waiting_branches: int
    max_window_segments: int
    max_failed_steps: int = 5
    waiting_tokens: int = 2**20
    reuse_below: float = 0.0
    park_after_s: float = 0.0


class Admission:
    """Checks against the limits of one worker and the range of its model. `burst_segments`: how
    many segments of one session a step may hold."""

    def __init__(self, model: StreamingModel, limits: EngineLimits, burst_segments: int) -> None:
        self.limits = limits
        self._model = model
        self._burst_segments = burst_segments

    def shape(self, window_segments: int = 0, max_pixels: int = 0) -> TrunkShape:
        """Shape of a session of this window and frame size; 0 means the model's own."""
        return TrunkShape(
            sink_tokens=len(self._model.sink_tokens()),
            segment_tokens=self._model.costliest(max_pixels).segment_tokens,
            window_segments=window_segments or self._model.spec.window_segments,
            branch_tokens=self.limits.branch_tokens,
            burst_segments=self._burst_segments,
        )

    @property
    def branch_tokens(self) -> int:
        """The most tokens of one question and its answer."""
        beyond = self._model.spec.branch_positions
        return min(self.limits.branch_tokens, beyond) if beyond else self.limits.branch_tokens

    def check_window(self, window_segments: int, layout: FrameLayout | None = None) -> None:
        """Raise InvalidArgumentError for a window that no session with frames of this layout may
        have; 0 and None: the model's own."""
        if not 0 <= window_segments <= self.limits.max_window_segments:
            raise InvalidArgumentError(
                f"window of {window_segments} segments; 1 to {self.limits.max_window_segments}"
            )
        spec = self._model.spec
        self._check_range(window_segments or spec.window_segments, layout or spec.layout)

    def check_frame(self, session: EngineSession, frame: FrameJob) -> None:
        """Raise ResourceExhaustedError or InvalidArgumentError for a frame too many, or too large
        for its session."""
        shape = session.trunk.shape
        if len(session.frames) >= self.limits.frame_queue + self.limits.replay_queue:
            raise ResourceExhaustedError("more frames in flight than the credit allows")
        if frame.layout.segment_tokens > shape.segment_tokens:
            raise InvalidArgumentError("the frame is larger than its session was opened for")
        self._check_range(shape.window_segments, frame.layout)

    def check_generation(self, session: EngineSession, job: Generation, queued: int) -> None:
        """Raise InvalidArgumentError for one that is too long, ResourceExhaustedError for one too
        many. queued: tokens that wait on the whole worker."""
        length = job.num_unread + job.max_tokens
        if length > self.branch_tokens:
            raise InvalidArgumentError(
                f"question and answer need {length} tokens; {self.branch_tokens} fit"
            )
        if len(session.waiting) >= self.limits.waiting_branches:
            raise ResourceExhaustedError("too many questions are waiting on this session")
        if session.waiting and queued + len(job.pending) > self.limits.waiting_tokens:
            raise ResourceExhaustedError("too much text is waiting on this worker")

    def _check_range(self, window_segments: int, layout: FrameLayout) -> None:
        """Raise InvalidArgumentError for a window beyond what the model was trained for."""
        most = most_segments(self._model, layout)
        if window_segments > most:
            raise InvalidArgumentError(
                f"window of {window_segments} segments; with frames of {layout.width}×"
                f"{layout.height}, {most} fit into the positions this model was trained for"
            )
