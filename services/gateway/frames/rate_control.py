"""Control of a live session's frame rate by the load: lower while its worker falls behind, and up
again when it has room. The article calls it adaptive frame rate.
"""

import math
from dataclasses import dataclass, field

RUNGS = (30.0, 15.0, 10.0, 5.0, 2.0, 1.0)  # frames per second
PERIODS = 2.0  # a frame may be this many of its rate's periods and a step old
FAR_BEHIND = 0.6  # share of the frames that came: of fewer understood one look is enough
MARGIN = 0.95  # share of what was understood that the next rate may ask for
CALM_S = 3.0  # without a sign of load before the next rung is tried
MOST_CALM_S = 60.0
ROOM = 0.95  # share of its time that a worker may be busy with the next rung
FULL = 0.8  # share of its time, in the mean of some seconds, that a worker is busy which is full
HELD_S = 60.0  # a rung that was left earlier than this was taken too soon


@dataclass(slots=True)
class RateControl:
    """Steersman of one session's frame rate. No I/O, no threads; `now_s` only rises.

    `note` hears of every frame that was understood, and `decide` gives the rate about once a
    second. A rate is left downwards at once where the worker is far behind or the rate was new,
    after a second look where it is a little behind, and for what it managed meanwhile. Upwards it
    goes one rung at a time where the worker has room for that, after a calm that grows twofold with
    every rung that had to be left again soon: so that the rate does not swing about what the worker
    can do. `patience` lengthens every calm: sessions of one worker that differ in it do not take
    the same room at once.
    """

    wanted: float  # frames per second at most
    patience: float = 1.0
    fps: float = field(init=False)
    _ages_s: list[float] = field(init=False, default_factory=list)
    _steps_s: list[float] = field(init=False, default_factory=list)
    _looked_s: float = field(init=False, default=math.nan)
    _behind: bool = field(init=False, default=False)  # at the last look
    _away: bool = field(init=False, default=False)  # likewise
    _calm_since_s: float = field(init=False, default=math.nan)
    _raised_s: float = field(init=False, default=-math.inf)
    _full: bool = field(init=False, default=False)  # it was when the rate was lowered
    _calm_s: float = field(init=False, default=CALM_S)

    def __post_init__(self) -> None:
        self.fps = self.wanted

    @property
    def lowered(self) -> bool:
        return self.fps < self.wanted

    def want(self, fps: float) -> None:
        """Begin anew with another rate at most."""
        self.wanted = self.fps = fps
        self._behind, self._calm_since_s, self._calm_s = False, math.nan, CALM_S

    def note(self, age_s: float, step_s: float) -> None:
        """A frame was understood, so long after it was sampled; its step took `step_s`."""
        self._ages_s.append(age_s)
        self._steps_s.append(step_s)

    def decide(self, now_s: float, came: int, lost: int, *, away: bool, busy: float = 0.0) -> float:
        """Rate from now on. `came`: frames sampled since the last time, of which `lost` were pushed
        out by newer ones; `away`: no worker takes new frames, which says nothing about a rate, nor
        does the look after, when those that waited meanwhile are understood late. `busy`: share of
        its time that the worker is, with everybody's frames."""
        was_away, self._away = self._away, away
        span_s, self._looked_s = now_s - self._looked_s, now_s
        ages_s, steps_s = sorted(self._ages_s), sorted(self._steps_s)
        self._ages_s.clear()
        self._steps_s.clear()
        if away or was_away or not came or not span_s > 0:
            self._behind, self._calm_since_s = False, now_s
            return self.fps
        step_s = steps_s[len(steps_s) // 2] if steps_s else 0.0
        behind = lost > 0 or not ages_s or ages_s[len(ages_s) // 2] > PERIODS / self.fps + step_s
        tried = now_s - self._raised_s < HELD_S
        if behind and (self._behind or tried or len(ages_s) < FAR_BEHIND * came):
            self._full = busy >= FULL
            self._lower(now_s, len(ages_s) / span_s, tried=tried)
        elif behind:
            self._behind, self._calm_since_s = True, now_s
        else:
            self._behind = False
            self._raise_when_calm(now_s, step_s, busy)
        return self.fps

    def _lower(self, now_s: float, managed: float, *, tried: bool) -> None:
        below = [rung for rung in RUNGS if rung < self.fps]
        if below:
            self.fps = max((rung for rung in below if rung <= MARGIN * managed), default=below[-1])
        self._calm_s = min(MOST_CALM_S, 2 * self._calm_s) if tried else CALM_S
        self._behind, self._calm_since_s, self._raised_s = False, now_s, -math.inf

    def _raise_when_calm(self, now_s: float, step_s: float, busy: float) -> None:
        if math.isnan(self._calm_since_s):
            self._calm_since_s = now_s
        rung = min((rung for rung in RUNGS if self.fps < rung < self.wanted), default=self.wanted)
        # Steps that leave no room for the rung may still take several frames each: seldom tried.
        then = busy + step_s * (rung - self.fps)
        calm_s = self._calm_s if step_s * rung < 1 and then <= ROOM else MOST_CALM_S
        if self._full and then <= ROOM / 2:  # what filled it is over
            calm_s = self._calm_s = CALM_S
        calm_s *= self.patience
        if self.lowered and now_s - self._calm_since_s >= calm_s:
            self.fps = rung
            self._raised_s = self._calm_since_s = now_s
