"""Quotas of tenants: what the callers of one may have together, so that none crowds out another.

Callers without a tenant have none. What one viewer may have is counted where viewers are.
"""

import time
from collections.abc import Callable

from services.common.in_flight import InFlight
from services.common.metrics import REFUSED
from services.gateway.config import GatewayConfig
from sightline.errors import ResourceExhaustedError
from sightline.reasons import Reason

MINUTE_S = 60.0


class Bucket:
    """Tokens that come back steadily, `per_s` of them, up to `most`."""

    def __init__(self, most: float, per_s: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._per_s = per_s
        self._clock = clock
        self._left = most
        self._at_s = clock()

    def take(self, count: float) -> float:
        """Take tokens, also those that are not there yet. Seconds until they all are."""
        now_s = self._clock()
        self._left = min(self._most, self._left + (now_s - self._at_s) * self._per_s) - count
        self._at_s = now_s
        return max(0.0, -self._left / self._per_s)

    def give_back(self, count: float) -> None:
        self._left += count

    @property
    def full(self) -> bool:
        """Whether it is as if it were new."""
        return self._left + (self._clock() - self._at_s) * self._per_s >= self._most


class Quotas:
    """Quotas of the tenants, and what is left of them. One event loop."""

    def __init__(self, config: GatewayConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._questions: dict[str, Bucket] = {}
        self._bytes: dict[str, Bucket] = {}
        self._watches: dict[str, InFlight] = {}

    def check_session(self, tenant: str, count: int) -> None:
        """Raise ResourceExhaustedError where a tenant has `count` sessions and may have no more."""
        most = self._config.tenant_sessions
        if tenant and most is not None and count >= most:
            raise _refusal(f"your tenant has {count} sessions already", Reason.TOO_MANY_SESSIONS)

    def question(self, tenant: str) -> None:
        """Count a question. Raises ResourceExhaustedError for one too many in a minute."""
        most = self._config.tenant_questions
        if not tenant or most is None:
            return
        bucket = self._bucket(self._questions, tenant, most, most / MINUTE_S)
        if (wait_s := bucket.take(1)) > 0:
            bucket.give_back(1)
            raise _refusal(
                f"your tenant has asked {most} questions within a minute",
                Reason.TOO_MANY_QUESTIONS,
                wait_s,
            )

    def watches(self, tenant: str) -> InFlight | None:
        """Counter of a tenant's watches, which refuses one too many; None: nobody does."""
        most = self._config.tenant_watches
        if not tenant or most is None:
            return None
        if tenant not in self._watches:
            idle = [name for name, each in self._watches.items() if not each.count]
            for name in idle:
                del self._watches[name]
            self._watches[tenant] = InFlight(
                "watches", owner="the tenant", most=most, reason=Reason.TOO_MANY_WATCHES
            )
        return self._watches[tenant]

    def pushed(self, tenant: str, size_bytes: int) -> float:
        """Count bytes of pushed video. Seconds for which its publisher is to be read no further."""
        most = self._config.tenant_bytes
        if not tenant or most is None:
            return 0.0
        return self._bucket(self._bytes, tenant, most, most).take(size_bytes)

    def _bucket(self, buckets: dict[str, Bucket], tenant: str, most: float, per_s: float) -> Bucket:
        if tenant not in buckets:
            for name in [name for name, bucket in buckets.items() if bucket.full]:
                del buckets[name]
            buckets[tenant] = Bucket(most, per_s, self._clock)
        return buckets[tenant]


def _refusal(message: str, reason: Reason, retry_after_s: float = 1.0) -> ResourceExhaustedError:
    REFUSED.labels("gateway", "quota").inc()
    return ResourceExhaustedError(message, reason=reason, retry_after_s=retry_after_s)
