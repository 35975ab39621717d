"""Snapshot of the device thread: the only way by which others see its state."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSnapshot:
    """The engine at one moment. `sessions`: ids of those that are open; `num_admissible`: how many
    more of the default window would be admitted. `num_running`: questions and checks that hold a
    branch, `num_waiting`: that do not yet. `pages_promised`: that sessions on the device may come
    to hold, `session_pages`: what one more of the default window is promised. `busy_s`, `steps`,
    `frames`: totals since warm-up. `queued_s`: of the latest frames, when each was understood
    (monotonic) and how long it had waited for the engine."""

    sessions: frozenset[str] = frozenset()
    num_admissible: int = 0
    num_running: int = 0
    num_waiting: int = 0
    pages_used: int = 0
    pages_promised: int = 0
    pages_total: int = 0
    session_pages: int = 0
    busy_s: float = 0.0
    steps: int = 0
    frames: int = 0
    queued_s: tuple[tuple[float, float], ...] = ()

    @property
    def promised_share(self) -> float:
        """Share of the pool's pages that is promised."""
        return self.pages_promised / self.pages_total if self.pages_total else 0.0

    @property
    def capacity(self) -> int:
        """Sessions that fit: those that are open, and as many as still would."""
        return len(self.sessions) + self.num_admissible
