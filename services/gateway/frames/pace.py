"""The pace at which pictures usually come, and how long without one is out of the ordinary."""

from collections import deque

PAUSES = 8  # the newest; of them the longest is left out, which may have been an outage
USUAL_PAUSES = 2.0  # so many without a picture are more than a slow source


class Pace:
    """The pauses between a session's pictures, as they were looked at now and then.

    A camera that sends one picture in ten seconds is not stalled for five of them each time.
    """

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s, self._most_s = least_s, most_s
        self._pauses_s: deque[float] = deque(maxlen=PAUSES)

    def paused(self, pause_s: float) -> None:
        """Pictures came after so long."""
        self._pauses_s.append(pause_s)

    @property
    def patience_s(self) -> float:
        """Seconds without a picture that are usual."""
        longest = sorted(self._pauses_s)[-2:]  # of a single one nothing better is known
        usual_s = longest[0] if longest else 0.0
        return min(self._most_s, max(self._least_s, USUAL_PAUSES * usual_s))
