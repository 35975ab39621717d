"""The life of WebRTC connections: each is served until it is over, whoever ends it, and closed
once."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from services.common.tasks import cancel_and_wait, spawn
from sightline.errors import NotFoundError
from sightline.reasons import Reason


class Connection(Protocol):
    """What has a life."""

    id: str

    async def run(self) -> str:
        """Serve until it is over by itself; returns why."""
        ...

    async def aclose(self, reason: str) -> None: ...


C = TypeVar("C", bound=Connection)


@dataclass(slots=True, eq=False)
class _Life:
    task: asyncio.Task[None] | None = None  # serves it
    closing: asyncio.Task[None] | None = None


class Connections(Generic[C]):
    """Connections by id. `gone` hears of each once it is closed, and why. Tasks are named after
    `kind`. Belongs to the event loop."""

    def __init__(self, kind: str, gone: Callable[[C, str], None]) -> None:
        self._kind = kind
        self._gone = gone
        self._all: dict[str, C] = {}
        self._lives: dict[str, _Life] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[C]:
        return iter(list(self._all.values()))

    def find(self, name: str) -> C | None:
        """The connection of this id, unless it is ending."""
        life = self._lives.get(name)
        return self._all[name] if life is not None and life.closing is None else None

    def add(self, connection: C) -> None:
        self._all[connection.id] = connection
        self._lives[connection.id] = _Life()

    def serve(self, connection: C) -> None:
        """Serve one that was added, and close it when it is over by itself. Raises NotFoundError
        for one that was ended meanwhile, as by the end of its session."""
        if self.find(connection.id) is None:
            raise NotFoundError("the session was removed", reason=Reason.SESSION_NOT_FOUND)
        name = f"{self._kind}:{connection.id[:4]}"
        self._lives[connection.id].task = spawn(self._serve(connection), name=name)

    async def _serve(self, connection: C) -> None:
        await self.close(connection, await connection.run())

    async def end(self, connection: C, reason: str) -> None:
        """Serve it no longer; returns when it is closed."""
        life = self._lives.get(connection.id)
        if life is not None and life.closing is None:
            await cancel_and_wait(life.task)
        await self.close(connection, reason)

    async def close(self, connection: C, reason: str) -> None:
        """Close it, once; whoever asks waits until it is done. Not for one that is served."""
        life = self._lives.get(connection.id)
        if life is None:
            return
        if life.closing is None:
            name = f"{self._kind}:{connection.id[:4]}:close"
            life.closing = spawn(self._close(connection, reason), name=name)
        await asyncio.shield(life.closing)

    async def _close(self, connection: C, reason: str) -> None:
        try:
            await connection.aclose(reason)
        finally:
            del self._all[connection.id], self._lives[connection.id]
            self._gone(connection, reason)

    async def aclose(self, reason: str) -> None:
        """End all of them."""
        await asyncio.gather(*(self.end(one, reason) for one in self))
