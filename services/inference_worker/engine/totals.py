"""Totals of the device thread's work."""

from collections import deque

from services.inference_worker import metrics
from services.inference_worker.engine.jobs import EngineSession, FrameJob, FrameReceipt
from services.inference_worker.engine.scheduler import StepPlan
from services.inference_worker.kv.look import FAMILIAR, strangeness_now

MOST_QUEUED = 4096  # frames whose waiting is remembered


class Totals:
    """Sums since the worker was warm. `queued_s`: of the latest frames, when each was understood
    and how long it had waited."""

    def __init__(self) -> None:
        self.busy_s = 0.0
        self.steps = 0
        self.frames = 0
        self.queued_s = deque[tuple[float, float]](maxlen=MOST_QUEUED)

    def ran(self, plan: StepPlan, step_s: float) -> None:
        """A step took so long."""
        self.busy_s += step_s
        self.steps += 1
        metrics.STEP_SECONDS.observe(step_s)
        metrics.STEP_TOKENS.observe(plan.num_tokens)
        metrics.STEP_SEGMENTS.observe(sum(len(tubelets) for _, tubelets in plan.frames))

    def understood(self, session: EngineSession, tubelet: list[FrameJob]) -> None:
        """A tubelet joined its session's window."""
        historical = len(session.trunk.segments) - 1
        session.reused_segments += historical
        metrics.SEGMENTS_READ.labels("reused").inc(historical)
        if tubelet[0].replayed:
            session.recomputed_segments += 1
            metrics.SEGMENTS_READ.labels("recomputed").inc()
        metrics.FRAMES.labels("understood").inc(len(tubelet))
        self.frames += len(tubelet)

    def receipt(
        self, session: EngineSession, frame: FrameJob, started_s: float, now_s: float
    ) -> FrameReceipt:
        """The receipt of a frame whose step began and ended at these times."""
        queue_s, latency_s = started_s - frame.arrived_s, now_s - frame.arrived_s
        metrics.FRAME_QUEUE.observe(queue_s)
        metrics.FRAME_LATENCY.observe(latency_s)
        self.queued_s.append((now_s, queue_s))
        strangeness = strangeness_now(segment.look for segment in reversed(session.trunk.segments))
        if strangeness > FAMILIAR:
            metrics.UNFAMILIAR_FRAMES.inc()
        return FrameReceipt(
            frame.sequence,
            frame.capture_ns,
            queue_s,
            latency_s,
            session.reused_segments,
            session.recomputed_segments,
            strangeness,
        )
