"""The pulse of one worker: whether it is quiet in a way that a busy one is not."""

import time
from collections import deque
from collections.abc import Callable

GRACE = 1.5  # of the longest time between two reports of late
QUICK_S = 0.3  # no worker is suspected sooner after its last report
NUM_GAPS = 120  # that are remembered: half a minute of reports
STEPS = 4.0  # times the usual way of a frame, after which an acknowledgement is overdue
LEAST_OVERDUE_S = 0.25
LATE_S = 0.05  # a look that is later than this: whoever looks was busy itself
SURE_S = 0.15  # of looks on time, before a silence says something of the one who is silent
NEW_SHARE = 0.1  # of one acknowledgement in what is usual


class Silence:
    """Silence of a worker, as far as this process could have heard it.

    A look that comes late says that the process itself had no time: it could not have heard either.
    That time does not count, and nothing is concluded until looks have come on time for a while, in
    which everything that was said meanwhile gets through.
    """

    def __init__(self, now_s: float) -> None:
        self._began_s = now_s
        self._on_time_s = now_s  # since when looks come on time

    def looked(self, now_s: float, due_s: float) -> float:
        """Note that a look was due and came; seconds by which it was late, 0 for one on time."""
        late_s = now_s - due_s
        if late_s <= LATE_S:
            return 0.0
        self._began_s += late_s
        self._on_time_s = now_s
        return late_s

    def quiet_s(self, now_s: float) -> float:
        return now_s - self._began_s

    def is_sure(self, now_s: float) -> bool:
        """Whether it is the worker's, and not this process's own."""
        return now_s - self._on_time_s >= SURE_S


class Pulse:
    """Signs of life of a worker: its reports, and its acknowledgements of frames. One event loop.

    One sign alone says little: a worker that computes a long step acknowledges nothing and still
    reports; one whose machine is busy reports late, as it often does then. Who says nothing in
    either way, for longer than it lately did, is to be asked.
    """

    def __init__(
        self, patience_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """patience_s: who says nothing for so long hangs, whatever it did before; that does not
        tell how busy it is, or it would be waited for the longer the next time."""
        self._clock = clock
        self._most_gap_s = patience_s
        self._reported_s: float | None = None
        self._gaps: deque[float] = deque(maxlen=NUM_GAPS)
        self._waiting: dict[object, float] = {}  # by stream: since when it waits
        self._acknowledged_s = float("-inf")
        self._usual_s: float | None = None

    def reported(self) -> None:
        now_s = self._clock()
        if self._reported_s is not None and now_s - self._reported_s < self._most_gap_s:
            self._gaps.append(now_s - self._reported_s)
        self._reported_s = now_s

    def broken(self) -> None:
        """Note that its reports have ended: the next one has no predecessor."""
        self._reported_s = None

    def sent(self, stream: object) -> None:
        """A frame went out on this stream."""
        self._waiting.setdefault(stream, self._clock())

    def acknowledged(self, stream: object, *, all_of_it: bool) -> None:
        """A frame of the stream was understood; `all_of_it`: none is on its way any more."""
        now_s = self._clock()
        since_s = self._waiting.pop(stream, now_s)
        took_s = now_s - since_s
        self._acknowledged_s = now_s
        before_s = took_s if self._usual_s is None else self._usual_s
        self._usual_s = before_s + NEW_SHARE * (took_s - before_s)
        if not all_of_it:
            self._waiting[stream] = now_s

    def left(self, stream: object) -> None:
        """The stream is over."""
        self._waiting.pop(stream, None)

    @property
    def patience_s(self) -> float:
        """Time after a report in which the next one would come, if all were as it was lately."""
        return max(QUICK_S, GRACE * max(self._gaps, default=QUICK_S))

    @property
    def is_overdue(self) -> bool:
        """Whether frames are on their way on some streams, and none of them was acknowledged for
        several times as long as is usual."""
        if not self._waiting or self._usual_s is None:
            return False
        since_s = max(self._acknowledged_s, min(self._waiting.values()))
        return self._clock() - since_s > max(LEAST_OVERDUE_S, STEPS * self._usual_s)
