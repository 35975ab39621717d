"""Whether the device still computes. Device thread only.

One bad input fails its own part of a step and nobody else. A device that is lost, as CUDA's is
after an illegal access, or steps that fail again and again, are another matter: a worker that
stayed would refuse all it is given while it looks empty, which draws every new session to it.
"""

import logging
from collections.abc import Callable

from services.inference_worker import metrics
from services.inference_worker.model.errors import DeviceFailedError

log = logging.getLogger(__name__)


class StepHealth:
    """Counts steps of which nothing succeeded.

    most: so many in a row mean that the device has failed. is_lost: asks the device. probe: one
    small step on it, which raises what that does.
    """

    def __init__(self, most: int, is_lost: Callable[[], bool], probe: Callable[[], object]) -> None:
        self.failure: DeviceFailedError | None = None
        """Why there will be no more steps."""
        self._most = most
        self._is_lost = is_lost
        self._probe = probe
        self._in_a_row = 0

    def succeeded(self) -> None:
        """A step, or a part of one, did what it should."""
        self._in_a_row = 0

    def failed(self, part: str, error: Exception, *, ask_device: bool = False) -> None:
        """Nothing of a step succeeded.

        ask_device: what was to be done may be to blame, as questions or memory of the host; it
        counts only if the device fails at the smallest step as well.
        """
        metrics.STEP_FAILURES.labels(part).inc()
        log.error("step failed", extra={"part": part}, exc_info=error)
        if self.failure is not None:
            return
        if self._is_lost():
            self.failure = DeviceFailedError("the worker's device is lost")
        elif not (ask_device and self._probe_succeeds()):
            self._in_a_row += 1
            if self._in_a_row >= self._most:
                self.failure = DeviceFailedError(
                    f"the worker's device failed {self._in_a_row} steps in a row"
                )

    def check(self) -> bool:
        """Whether the device is worth another try after a step raised."""
        if self.failure is None and self._is_lost():
            self.failure = DeviceFailedError("the worker's device is lost")
        return self.failure is None

    def _probe_succeeds(self) -> bool:
        try:
            self._probe()
        except Exception:
            log.exception("the device fails at the smallest step")
            return False
        return True
