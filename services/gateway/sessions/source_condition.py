"""Condition of a session's pictures: whether they are worth looking at, and since when."""

import logging
import time

from services.gateway import metrics
from services.gateway.frames.picture_health import Condition, PictureHealth
from services.gateway.sessions.states import LIVE, STALLED
from sightline.v1 import gateway_pb2

log = logging.getLogger(__name__)

CONDITIONS = {
    None: gateway_pb2.SOURCE_CONDITION_UNSPECIFIED,
    Condition.FINE: gateway_pb2.SOURCE_CONDITION_FINE,
    Condition.DEAD: gateway_pb2.SOURCE_CONDITION_DEAD,
    Condition.DARK: gateway_pb2.SOURCE_CONDITION_DARK,
    Condition.COVERED: gateway_pb2.SOURCE_CONDITION_COVERED,
    Condition.FROZEN: gateway_pb2.SOURCE_CONDITION_FROZEN,
    Condition.REPEATING: gateway_pb2.SOURCE_CONDITION_REPEATING,
}


class SourceCondition:
    """How the pictures of one session are, as its state and its publisher's pictures tell."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self.now: Condition | None = None  # None: nobody knows
        self._since_ns = 0

    def judge(self, state: gateway_pb2.SessionState, health: PictureHealth | None) -> bool:
        """Take note of how the pictures are; whether they have become good or bad. health: of a
        publisher's pictures, where there is one."""
        before = self.now
        if state == STALLED:
            self.now = Condition.DEAD
        elif state != LIVE:
            self.now = None
        elif health is not None:
            self.now = health.condition
        if self.now == before:
            return False
        self._since_ns = time.time_ns()
        if self.now is None or (before is None and self.now is Condition.FINE):
            return False  # the beginning and the end of a source tell themselves
        metrics.SOURCE_HEALTH_EVENTS.labels(self.now).inc()
        log.info("source health", extra={"session": self._session_id, "condition": str(self.now)})
        return True

    def message(self) -> gateway_pb2.SourceHealth:
        return gateway_pb2.SourceHealth(condition=CONDITIONS[self.now], since_ns=self._since_ns)
