"""Degradation of a session: what its answers went without, for as long as viewers are told."""

import time

UNFAMILIAR_PICTURE = "unfamiliar_picture"
WINDOW_LOST = "window_lost"  # no worker knew the session any more: it began again, empty
DEGRADED_S = 30.0  # how long what an answer said about its peers is shown


class Degradation:
    """What answers said that they went without, and when. One event loop."""

    def __init__(self) -> None:
        self._said_s: dict[str, float] = {}

    def lose_window(self) -> None:
        """Remember that the session began again, empty."""
        self._said_s[WINDOW_LOST] = time.monotonic()

    def note(self, flags: list[str]) -> None:
        """Remember what an answer went without; an empty list says that all is well again."""
        lost_s = self._said_s.get(WINDOW_LOST)
        others = (flag for flag in flags if flag != UNFAMILIAR_PICTURE)  # each frame tells that
        self._said_s = dict.fromkeys(others, time.monotonic())
        if lost_s is not None:
            self._said_s[WINDOW_LOST] = lost_s

    def flags(self, oldest_s: float) -> list[str]:
        """What was said since then."""
        return [flag for flag, at_s in self._said_s.items() if at_s > oldest_s]
