"""Judging: when does a change of what a rule sees become an event?"""

from dataclasses import dataclass

from sightline.v1 import rules_pb2

NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Reading of a rule by one look. An event is about another `active`, or another `value` where
    the rule goes `by_value`. `at_ns`: capture time of the newest frame seen."""

    at_ns: int
    active: bool
    value: str = ""
    by_value: bool = False
    probability: float = 0.0
    score: float = 0.0

    def differs(self, state: rules_pb2.RuleState) -> bool:
        """Whether it is something else than what was told last."""
        if self.by_value:
            return self.value != state.value
        return self.active != state.active


class Judgement:
    """Turns readings into events. Time is the video's own, so that a slow worker or a fast file
    changes nothing about what fires.

    `state` is what was told last, by this gateway or by another. It changes by `settle` alone: what
    could not be told is an event again with the next reading.
    """

    def __init__(
        self, state: rules_pb2.RuleState, *, debounce_s: float = 0.0, cooldown_s: float = 0.0
    ) -> None:
        self.state = state
        self.adjust(debounce_s=debounce_s, cooldown_s=cooldown_s)
        self._other: tuple[bool, str] | None = None  # what is seen instead of what was told …
        self._since_ns = self._last_ns = 0  # … since when, and when last
        self._lapsed = False  # whether nobody could tell since then

    def adjust(self, *, debounce_s: float, cooldown_s: float) -> None:
        """Go by these from the next reading on."""
        self._debounce_ns = round(debounce_s * NS)
        self._cooldown_ns = round(cooldown_s * NS)

    @property
    def value(self) -> str:
        """The value that was read last: what was told, or what may be told in a moment."""
        return self.state.value if self._other is None else self._other[1]

    def weigh(self, reading: Reading) -> bool:
        """Take one reading. True where it is an event."""
        if not reading.differs(self.state):
            self._other = None
            return False
        other = (reading.active, reading.value if reading.by_value else "")
        unseen = self._lapsed and reading.at_ns - self._last_ns > self._debounce_ns
        if other != self._other or unseen or reading.at_ns < self._since_ns:  # a clock set back
            self._other, self._since_ns = other, reading.at_ns
        self._last_ns, self._lapsed = reading.at_ns, False
        if reading.at_ns - self._since_ns < self._debounce_ns:
            return False
        passed_ns = reading.at_ns - self.state.capture_ns
        return not (self.state.events and 0 <= passed_ns < self._cooldown_ns)

    def lapse(self) -> None:
        """Nobody can tell now: what may hold begins to hold anew, unless that ends soon."""
        self._lapsed = True

    def rest(self) -> Reading | None:
        """Its rule is not checked now: a reading by which what was active is no more; None
        where nothing was."""
        self.lapse()
        if not self.state.active:
            return None
        return Reading(
            at_ns=self.state.capture_ns, active=False, probability=self.state.probability
        )

    def settle(self, state: rules_pb2.RuleState) -> None:
        """This was told."""
        self.state = state
        self._other = None
