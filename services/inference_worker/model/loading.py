"""Loading of a worker's model: what is told of it meanwhile, and what may refuse it."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from sightline.v1 import inference_pb2
from sightline.v1.inference_pb2 import (
    LOADING_PHASE_DOWNLOADING,
    LOADING_PHASE_LOADING,
    LOADING_PHASE_WARMING,
)

DOWNLOADING = LOADING_PHASE_DOWNLOADING
LOADING = LOADING_PHASE_LOADING
WARMING = LOADING_PHASE_WARMING

RATE_S = 10.0  # the rate is that of the last seconds: networks change their mind
SAMPLE_S = 0.5
SILENT_S = 5.0  # shorter silences are not worth telling

Admit = Callable[[str, dict[str, Any], int], None]


def _admit_all(name: str, described: dict[str, Any], parameters: int) -> None:
    return


class Loading:
    """Progress of one model. Written by the threads that load it, read by any.

    `admit(name, config, parameters)` is asked before weights are fetched or read, and raises
    ModelError where they would not fit.
    """

    def __init__(
        self, admit: Admit = _admit_all, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.admit = admit
        self._clock = clock
        self.begin(LOADING)

    def begin(self, phase: inference_pb2.LoadingPhase, total: int = 0, done: int = 0) -> None:
        """Another phase, of `total` bytes (0: nobody knows), `done` of them before."""
        now = self._clock()
        self.phase, self.total, self.done = phase, total, done
        self._heard_s = now
        self._samples: deque[tuple[float, int]] = deque([(now, done)])

    def add(self, size: int) -> None:
        """Count so many more bytes."""
        self.reach(self.done + size)

    def reach(self, done: int) -> None:
        """Count so many bytes in all; fewer than before where a file is fetched anew."""
        now = self._clock()
        if done == self.done:
            return
        self.done = done
        self._heard_s = now
        if now - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((now, self.done))
            while now - self._samples[0][0] > RATE_S and len(self._samples) > 2:
                self._samples.popleft()

    def state(self) -> inference_pb2.LoadingState:
        """State for whoever asks, at any time."""
        silent_s = self._clock() - self._heard_s
        return inference_pb2.LoadingState(
            phase=self.phase,
            bytes_done=min(self.done, self.total) if self.total else self.done,
            bytes_total=self.total,
            eta_s=self._eta_s(),
            silent_s=silent_s if self.phase == DOWNLOADING and silent_s > SILENT_S else 0.0,
        )

    def _eta_s(self) -> float:
        """0 where nobody can say."""
        samples = list(self._samples)
        first_s, first = samples[0]
        rate = (self.done - first) / max(self._clock() - first_s, SAMPLE_S)
        return (self.total - self.done) / rate if rate > 0 and self.total > self.done else 0.0
