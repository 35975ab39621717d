"""The window of a session's newest frames: which its worker has, which it may have, and which it
is to be shown again.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.frames.sampler import SampledFrame


@dataclass(frozen=True, slots=True)
class SentFrame:
    """A frame on its way to a worker. `fresh`: no worker ever acknowledged it, so that it still
    counts as processed when one does."""

    sequence: int
    frame: SampledFrame
    fresh: bool


class FrameWindow:
    """The last `num_frames` that a worker acknowledged, and those it was sent since. No I/O, no
    clock; one event loop.

    A frame is sent, acknowledged, and kept until `num_frames` newer ones are. When a stream begins
    with a worker that does not know the session, the newest window there is comes again, in order:
    what waits to be sent belongs to it, and takes the place of what it would push out.
    """

    def __init__(self, num_frames: int) -> None:
        self._num_frames = num_frames
        self._kept: deque[SampledFrame] = deque(maxlen=num_frames)
        self._in_flight: deque[SentFrame] = deque()
        self._again: deque[tuple[SampledFrame, bool]] = deque()  # with whether it is fresh
        self._sequence = 0

    @property
    def num_waiting(self) -> int:
        """Frames taken from the source that no worker has acknowledged since."""
        return len(self._in_flight) + len(self._again)

    @property
    def replaying(self) -> bool:
        """Whether a worker is being shown what another had understood."""
        return bool(self._again) or any(not sent.fresh for sent in self._in_flight)

    def num_first(self, num_waiting: int = 0) -> int:
        """Frames that a worker which does not know the session would be shown first, where so many
        wait to be sent."""
        fresh = num_waiting + sum(fresh for _, fresh in self._again)
        fresh += sum(sent.fresh for sent in self._in_flight)
        known = len(self._kept) + len(self._in_flight) + len(self._again) + num_waiting - fresh
        return fresh + min(known, max(0, self._num_frames - fresh))

    def send(self, frame: SampledFrame) -> SentFrame:
        """A new frame goes out; what is to be shown again must have gone before."""
        assert not self._again
        return self._sent(frame, fresh=True)

    def send_again(self) -> SentFrame | None:
        """The next frame that comes again; None when there is none."""
        if not self._again:
            return None
        frame, fresh = self._again.popleft()
        return self._sent(frame, fresh=fresh)

    def acknowledge(self, sequence: int) -> list[SentFrame]:
        """The worker has understood everything up to `sequence`; returns what that is."""
        understood = []
        while self._in_flight and self._in_flight[0].sequence <= sequence:
            sent = self._in_flight.popleft()
            self._kept.append(sent.frame)
            understood.append(sent)
        return understood

    def frame_at(self, capture_ns: int) -> SampledFrame | None:
        """The frame that a worker had understood last by a capture time; None where it has left."""
        kept = reversed(self._kept)
        return next((frame for frame in kept if frame.capture_ns <= capture_ns), None)

    def resume(self) -> int:
        """A new stream begins with a worker that still knows the session; returns how many frames
        are lost for good. It may have understood what was in flight or not, and to send that again
        could repeat the past."""
        lost = sum(sent.fresh for sent in self._in_flight)
        self._kept.extend(sent.frame for sent in self._in_flight)
        self._in_flight.clear()
        return lost

    def replay(self, waiting: Sequence[SampledFrame] = ()) -> None:
        """A new stream begins with a worker that does not know the session: it gets what was in
        flight, what waited to be sent, and before that as much of the window as is not pushed out
        by them."""
        again = [(frame, False) for frame in self._kept]
        again += [(sent.frame, sent.fresh) for sent in self._in_flight]
        again += [*self._again, *((frame, True) for frame in waiting)]
        num_known = sum(not fresh for _, fresh in again)  # all of them come before the others
        pushed_out = min(num_known, max(0, len(again) - self._num_frames))
        self._kept.clear()
        self._in_flight.clear()
        self._again = deque(again[pushed_out:])

    @property
    def num_again(self) -> int:
        """Frames that wait to be sent again."""
        return len(self._again)

    def sampled_s(self, capture_ns: int) -> float | None:
        """Time at which the frame of this capture time was sampled; None for one that is not
        kept."""
        sent = (each.frame for each in reversed(self._in_flight))
        for frame in itertools.chain(sent, reversed(self._kept)):
            if frame.capture_ns == capture_ns:
                return frame.sampled_s
        return None

    def resize(self, num_frames: int) -> None:
        """Keep so many frames from now on."""
        self._num_frames = num_frames
        self._kept = deque(self._kept, maxlen=num_frames)

    def clear(self) -> None:
        for frames in (self._kept, self._in_flight, self._again):
            frames.clear()

    def _sent(self, frame: SampledFrame, *, fresh: bool) -> SentFrame:
        self._sequence += 1
        sent = SentFrame(self._sequence, frame, fresh)
        self._in_flight.append(sent)
        return sent
