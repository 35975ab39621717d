"""CUDA graphs of steps whose shape recurs: one launch instead of hundreds.

A step of a few tokens takes the device less time than it takes the host to launch its kernels. A
graph is recorded when a shape comes back, from the same code that runs without, on inputs that lie
where they lay; and no more graphs than `MOST`, because each takes memory.
"""

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import torch

from services.inference_worker import metrics

log = logging.getLogger(__name__)

MOST = 48
SEEN_BEFORE = 1  # how often a shape must have run: kernels are compiled by then

Work = Callable[[], None]
Record = Callable[[Work], Work]


class Graphs:
    """Runs work, or replays what `record` made of it. Only the device thread calls it."""

    def __init__(self, record: Record, most: int = MOST) -> None:
        self._record = record
        self._most = most
        self._seen: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, Work | None] = {}

    def run(self, shape: Hashable, work: Work) -> None:
        """Everything that `work` reads and writes must lie at the same addresses for the same
        shape; what it returned is nothing, and it must not wait for the device."""
        replay = self._graphs.get(shape)
        if replay is not None:
            metrics.DEVICE_STEPS.labels("replayed").inc()
            replay()
            return
        recordable = shape not in self._graphs and len(self._graphs) < self._most
        if not recordable or self._seen[shape] < SEEN_BEFORE:
            if recordable:
                self._remember(shape)
            metrics.DEVICE_STEPS.labels("eager").inc()
            work()
            return
        self._graphs[shape] = None  # not tried again if it fails
        try:
            replay = self._record(work)
        except RuntimeError:
            log.exception("no graph of a step", extra={"shape": str(shape)})
            metrics.DEVICE_STEPS.labels("eager").inc()
            work()
            return
        self._graphs[shape] = replay
        metrics.DEVICE_STEPS.labels("captured").inc()
        replay()

    def _remember(self, shape: Hashable) -> None:
        if len(self._seen) > 64 * self._most:  # shapes that never came back
            self._seen.clear()
        self._seen[shape] += 1


def cuda_recorder(device: torch.device) -> Record:
    """Records on a stream of its own; all graphs share one pool of memory, as one runs at a time.

    `torch.cuda.graph` would also collect garbage and give memory back, which takes longer than the
    step that waits for it."""
    stream = torch.cuda.Stream(device)
    pool: Any = torch.cuda.graph_pool_handle()

    def record(work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            # Other threads may use CUDA meanwhile.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(device).wait_stream(stream)
        return graph.replay

    return record
