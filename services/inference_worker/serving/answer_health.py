"""Health of a session's answers: when its questions leave the model, and when they come back."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services.inference_worker.serving.symptoms import Symptom


@dataclass(slots=True)
class AnswerHealth:
    """Counts answers in a row. `degraded` from `most` unhealthy ones on, until as many probes in a
    row were healthy and `healthy_s` have passed since the last that was not; with `most` 0, never.
    """

    most: int
    healthy_s: float
    clock: Callable[[], float] = time.monotonic
    degraded: bool = field(init=False, default=False)
    _in_a_row: int = field(init=False, default=0)
    _unhealthy_s: float = field(init=False, default=0.0)

    def answered(self, symptom: Symptom | None) -> bool:
        """Note an answer of the model. True when `degraded` has just become so."""
        if self.degraded or not self.most:
            return False
        self._in_a_row = self._in_a_row + 1 if symptom else 0
        if self._in_a_row < self.most:
            return False
        self.degraded = True
        self._begin_again()
        return True

    def probed(self, symptom: Symptom | None) -> bool:
        """Note an answer to a probe. True when the session's questions may come back."""
        if not self.degraded:
            return False
        if symptom is not None:
            self._begin_again()
            return False
        self._in_a_row += 1
        if self._in_a_row < self.most or self.clock() - self._unhealthy_s < self.healthy_s:
            return False
        self.degraded = False
        self._in_a_row = 0
        return True

    @property
    def probe_s(self) -> float:
        """Seconds between two probes."""
        return self.healthy_s / self.most

    def _begin_again(self) -> None:
        self._in_a_row = 0
        self._unhealthy_s = self.clock()
