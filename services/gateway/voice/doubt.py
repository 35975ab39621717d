"""Doubt whether a sound that came into an answer is somebody's speech, and how long it may last."""

from dataclasses import dataclass

FALSE_ALARM_S = 2.0  # without words, after which it was no speech
UNKNOWN_S = 5.0  # … where nobody knows whether there are any, while it goes on
LOOKS = (
    2.0  # of the recogniser, for which it is waited: the one that is made of this, and another's
)


@dataclass(slots=True)
class Doubt:
    """Doubt about one spoken turn, since it silenced an answer. `late_s`: how late the recogniser
    was of late. The seconds are its owner's."""

    turn: str
    since_s: float
    late_s: float = 0.0
    wordless: bool = False  # no words have been found in it so far
    ended: bool = False

    @property
    def due_s(self) -> float | None:
        """When it was no speech, unless words come before. None: once the turn is over its words
        will be told, or that it had none; however busy their recogniser is, nobody is spoken to who
        has just asked."""
        if self.ended:
            return None
        known_s = FALSE_ALARM_S if self.wordless else UNKNOWN_S
        return self.since_s + known_s + LOOKS * self.late_s
