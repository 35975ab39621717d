"""Objects that end with the `with` block that they are used in."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Leaving(ABC):
    """An object that is told of the end of `with`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(error)

    @abstractmethod
    def _leave(self, error: BaseException | None) -> None:
        """End; `error`: what the block ended with."""


class Closing(Leaving):
    """An object whose `close` is called at the end of `with`."""

    def _leave(self, error: BaseException | None) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...


class AsyncLeaving(ABC):
    """An object that is told of the end of `async with`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave(error)

    @abstractmethod
    async def _leave(self, error: BaseException | None) -> None:
        """End; `error`: what the block ended with."""


class AsyncClosing(AsyncLeaving):
    """An object whose `aclose` is awaited at the end of `async with`."""

    async def _leave(self, error: BaseException | None) -> None:
        await self.aclose()

    @abstractmethod
    async def aclose(self) -> None: ...
