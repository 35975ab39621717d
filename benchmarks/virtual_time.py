"""Virtual time: asyncio whose clock leaps to the next timer, so that minutes take as long as the
work in them."""

import asyncio
import contextlib
import selectors
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from unittest import mock


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits. What runs on it may sleep and have deadlines, but speak with
    nobody outside."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_Leaping(self))

    def time(self) -> float:
        return self.now_s


class _Leaping(selectors.SelectSelector):
    """The selector of a loop: instead of waiting it moves the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits for something that no timer brings")
        self._loop.now_s += max(0.0, timeout)
        return []


@contextlib.contextmanager
def clock_of(loop: VirtualLoop, modules: Sequence[ModuleType]) -> Iterator[None]:
    """Let these modules, which read `time.monotonic`, read the loop's clock."""
    clock = SimpleNamespace(monotonic=loop.time)
    with contextlib.ExitStack() as patched:
        for module in modules:
            patched.enter_context(mock.patch.object(module, "time", clock))
        yield
