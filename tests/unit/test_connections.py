"""The life of WebRTC connections."""

import asyncio

import pytest

from services.gateway.webrtc.connections import Connections
from sightline.errors import NotFoundError


class Line:
    """A connection that is served until it is told to end."""

    id = "line"

    async def run(self) -> str:
        await asyncio.Event().wait()
        return "never"

    async def aclose(self, reason: str) -> None:
        await asyncio.sleep(0)


async def test_one_that_ended_while_it_was_negotiated_is_not_served() -> None:
    gone: list[str] = []
    connections = Connections[Line]("test", lambda _, reason: gone.append(reason))
    line = Line()
    connections.add(line)
    ending = asyncio.create_task(connections.end(line, "session_deleted"))
    await asyncio.sleep(0)
    with pytest.raises(NotFoundError):  # while it is being closed
        connections.serve(line)
    await ending
    with pytest.raises(NotFoundError):
        connections.serve(line)
    assert (gone, len(connections)) == (["session_deleted"], 0)
