"""Counts of a session's frames, from its source to its model, in one place."""

import threading
from collections import Counter
from dataclasses import dataclass, field

from services.gateway.sources.source import ClockSource
from sightline.v1 import gateway_pb2

FAMILIAR = 1.0  # of strangeness: beyond it a model does not know what it sees


@dataclass(slots=True)
class FrameCounts:
    """Counts of what became of a session's frames. Decode threads and the event loop write; who
    reads takes a `copy`.

    `received`: decoded pictures; `sampled`: chosen by the rate; `processed`: understood by a
    worker, each once; `dropped`: lost, by reason; `noted`: remarkable but lost nothing.
    """

    received: int = 0
    sampled: int = 0
    processed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    source_width: int = 0
    source_height: int = 0
    clock_source: ClockSource | None = None
    capture_ns: int = 0  # newest decoded picture
    understood_ns: int = 0  # capture time of the newest understood frame
    newest_s: float | None = None  # when the newest understood frame was sampled, monotonic
    reused_segments: int = 0  # as the worker counts them: history read from its cache …
    recomputed_segments: int = 0  # … and history computed again
    unfamiliar: int = 0  # understood frames of a time when the pictures were unfamiliar
    strangeness: float = 0.0  # of the newest pictures, as the worker sees them
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add_received(
        self, width: int, height: int, clock_source: ClockSource, capture_ns: int
    ) -> None:
        with self._lock:
            self.received += 1
            self.source_width, self.source_height = width, height
            self.clock_source = clock_source
            self.capture_ns = capture_ns

    def add_sampled(self) -> None:
        with self._lock:
            self.sampled += 1

    def add_processed(self, sampled_s: float, strangeness: float = 0.0) -> None:
        with self._lock:
            self.processed += 1
            self.unfamiliar += strangeness > FAMILIAR
            self.newest_s = sampled_s

    def add_understood(
        self, capture_ns: int, reused: int, recomputed: int, strangeness: float = 0.0
    ) -> None:
        """Take a worker's word about its history so far, with the newest frame it understood."""
        with self._lock:
            self.understood_ns = capture_ns
            self.strangeness = strangeness
            self.reused_segments, self.recomputed_segments = reused, recomputed

    def drop(self, reason: str, count: int = 1) -> None:
        with self._lock:
            self.dropped[reason] += count

    def note(self, what: str, count: int = 1) -> None:
        with self._lock:
            self.noted[what] += count

    def restore(self, stats: gateway_pb2.SessionStats, capture_ns: int) -> None:
        """Go on from what another gateway counted. capture_ns: of the newest frame that the worker
        has; later ones are not earlier."""
        with self._lock:
            self.received, self.sampled = stats.frames_received, stats.frames_sampled
            self.processed = stats.frames_processed
            self.dropped = Counter(stats.dropped)
            self.source_width, self.source_height = stats.source_width, stats.source_height
            self.capture_ns = max(capture_ns, stats.last_capture_ns)
            self.understood_ns = stats.last_capture_ns
            self.unfamiliar, self.strangeness = stats.frames_unfamiliar, stats.strangeness

    def copy(self) -> "FrameCounts":
        """Counts of one moment, which nobody changes any more."""
        with self._lock:
            return FrameCounts(
                self.received,
                self.sampled,
                self.processed,
                Counter(self.dropped),
                Counter(self.noted),
                self.source_width,
                self.source_height,
                self.clock_source,
                self.capture_ns,
                self.understood_ns,
                self.newest_s,
                self.reused_segments,
                self.recomputed_segments,
                self.unfamiliar,
                self.strangeness,
            )
