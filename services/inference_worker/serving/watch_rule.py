"""Standing questions: when does a change of the answer become an event?"""

from dataclasses import dataclass

NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRule:
    """`threshold`: probability of yes above which the condition holds. `debounce_s`: how long a
    changed answer must hold before it counts. `cooldown_s`: least time between two events."""

    threshold: float = 0.5
    debounce_s: float = 0.0
    cooldown_s: float = 0.0


class WatchState:
    """Turns a stream of scores into events. Time is the video's own (capture time of the newest
    frame seen), so that a slow worker or a fast file changes nothing about what fires.

    A condition that holds at the first look is an event too: before it, nothing was known. A watch
    that goes on from elsewhere begins with what was told last: whether it was `active`, and when
    it fired.
    """

    def __init__(
        self, rule: WatchRule, *, active: bool = False, fired_ns: int | None = None
    ) -> None:
        self.rule = rule
        self.active = active
        self._changed_ns: int | None = None
        self.fired_ns = fired_ns

    def update(self, score: float, capture_ns: int) -> bool:
        """Take one score. True when `active` just changed: that is an event."""
        holds = score > self.rule.threshold
        if holds == self.active:
            self._changed_ns = None
            return False
        if self._changed_ns is None:
            self._changed_ns = capture_ns
        if capture_ns - self._changed_ns < self.rule.debounce_s * NS:
            return False
        if self.fired_ns is not None and capture_ns - self.fired_ns < self.rule.cooldown_s * NS:
            return False
        self.told(holds, capture_ns)
        return True

    def told(self, active: bool, capture_ns: int) -> None:
        """There was an event, told by this watch or by another that stood in for it."""
        self.active = active
        self._changed_ns = None
        self.fired_ns = capture_ns
