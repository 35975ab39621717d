"""Figures of one session: how its frames fare and what it goes without, as its viewers are told."""

import time

from services.gateway.frames.frame_counts import FAMILIAR, FrameCounts
from services.gateway.frames.frame_meter import FrameMeter
from services.gateway.frames.sampler import RATE_LOWERED
from services.gateway.sessions.degradation import DEGRADED_S, UNFAMILIAR_PICTURE, Degradation
from services.gateway.sessions.frame_feed import FrameFeed
from services.gateway.sessions.rate_steering import RateSteering
from services.gateway.workers.worker_stream import WorkerStream
from sightline.v1 import gateway_pb2


class Figures:
    """The figures that a session's `counts`, `feed` and `rate` come to. One event loop."""

    def __init__(self, counts: FrameCounts, feed: FrameFeed, rate: RateSteering) -> None:
        self._counts = counts
        self._feed = feed
        self._rate = rate
        self._meter = FrameMeter(counts)
        self._degraded = Degradation()

    def go_on(self, before: gateway_pb2.SessionStats, stream: WorkerStream) -> None:
        """Count on from what another gateway told, as far as the worker still knows the session."""
        self._counts.restore(before, stream.last_capture_ns)
        self._meter.skip()
        if before.frames_processed and not stream.resumed:
            self._degraded.lose_window()

    def note_degraded(self, flags: list[str]) -> None:
        """Remember what an answer went without; an empty list says that all is well again."""
        self._degraded.note(flags)

    @property
    def unfamiliar(self) -> bool:
        """Whether the newest pictures are unlike those that the model was trained on."""
        return self._counts.strangeness > FAMILIAR

    def tick(self, now_s: float, kind: str) -> tuple[FrameCounts, FrameCounts]:
        """Once a second, of a source of this kind: rates, and the counters that Prometheus reads.
        Returns the counts of now and of the last time."""
        return self._meter.tick(now_s, kind)

    def message(self, flags: list[str]) -> gateway_pb2.SessionStats:
        """The figures as viewers see them; `flags`: what else the session goes without."""
        counts = self._counts.copy()
        p50_ms, p95_ms = self._feed.latencies.percentiles_ms(time.monotonic(), (0.50, 0.95))
        history = counts.reused_segments + counts.recomputed_segments
        return gateway_pb2.SessionStats(
            fps_in=self._meter.received_per_s,
            fps_processed=self._meter.processed_per_s,
            frames_received=counts.received,
            frames_sampled=counts.sampled,
            frames_processed=counts.processed,
            dropped=counts.dropped,
            frame_latency_p50_ms=p50_ms,
            frame_latency_p95_ms=p95_ms,
            kv_hit_ratio=counts.reused_segments / history if history else 1.0,
            last_capture_ns=counts.understood_ns,
            clock_source=counts.clock_source or "",
            degraded=self._flags() + flags,
            source_width=counts.source_width,
            source_height=counts.source_height,
            fps_allowed=self._rate.fps,
            strangeness=counts.strangeness,
            frames_unfamiliar=counts.unfamiliar,
        )

    def _flags(self) -> list[str]:
        oldest_s = time.monotonic() - DEGRADED_S
        flags = self._degraded.flags(oldest_s)
        if self.unfamiliar:
            flags.append(UNFAMILIAR_PICTURE)
        if not self._feed.connected:
            flags.append("worker_unavailable")
        if self._feed.refused_s > oldest_s:
            flags.append("worker_full")
        if self._rate.lowered:
            flags.append(RATE_LOWERED)
        return flags
