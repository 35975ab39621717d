"""Census of a gateway's sessions: how many there are of each state and condition, and how old what
they have understood is.
"""

from collections import Counter

from services.gateway import metrics
from services.gateway.frames.picture_health import Condition
from services.gateway.sessions.session import Session
from services.gateway.sessions.states import STATE_NAMES


class Census:
    """One count of all sessions, for Prometheus."""

    def __init__(self) -> None:
        self._conditions: Counter[Condition | None] = Counter()
        self._ages_s: dict[str, list[float]] = {name: [] for name in STATE_NAMES.values()}

    def count(self, session: Session, now_s: float) -> None:
        self._conditions[session.condition] += 1
        self._ages_s[STATE_NAMES[session.state]].append(session.staleness_s(now_s))

    def export(self) -> None:
        """Put the figures where Prometheus reads them."""
        for condition in Condition:
            metrics.SOURCES.labels(condition).set(self._conditions[condition])
        for name, found in self._ages_s.items():
            metrics.SESSIONS.labels(name).set(len(found))
            ages = sorted(found) or [0.0]
            for of, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0)):
                age_s = ages[min(len(ages) - 1, int(share * len(ages)))]
                metrics.FRAME_AGE.labels(name, of).set(age_s)
