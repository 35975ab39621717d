"""What came since the last keyframe: all that a viewer who joins needs."""

from typing import Generic, TypeVar

T = TypeVar("T")

MAX_PICTURES = 300
MAX_BYTES = 4 * 1024 * 1024


class Gop(Generic[T]):
    """Pictures since the last keyframe, in order; none where there are more than the bounds
    allow, until the next one."""

    def __init__(self) -> None:
        self.items: list[T] = []
        self._num_bytes = 0

    def add(self, item: T, *, keyframe: bool, num_bytes: int) -> None:
        if keyframe:
            self.clear()
        elif not self.items:
            return
        self.items.append(item)
        self._num_bytes += num_bytes
        if len(self.items) > MAX_PICTURES or self._num_bytes > MAX_BYTES:
            self.clear()

    def clear(self) -> None:
        self.items = []
        self._num_bytes = 0
