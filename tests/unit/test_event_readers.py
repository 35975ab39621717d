"""Readers of rules' events: how many there may be, and whose they are."""

import asyncio
from typing import Any

import pytest

from services.gateway.auth.caller import ANYBODY
from services.gateway.rules import events
from services.gateway.rules.events import Events
from sightline.errors import ResourceExhaustedError
from sightline.v1 import rules_pb2 as pb
from tests.eventually import eventually


class Nothing:
    """A store in which nothing has happened."""

    async def last(self) -> str:
        return "0-0"

    async def after(self, *_: object) -> list[object]:
        return []

    async def tenants(self) -> list[str]:
        return [""]


async def test_one_address_leaves_readers_places_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """All places could be taken by one viewer."""
    monkeypatch.setattr(events, "MOST_READERS", 4)
    nothing: Any = Nothing()
    told = Events(nothing, nothing, nothing)

    async def read(place: str) -> None:
        async for _ in await told.follow(pb.WatchEventsRequest(), ANYBODY, place):
            raise AssertionError

    readers = [asyncio.create_task(read("here")) for _ in range(2)]
    await eventually(lambda: told.readers == 2)
    with pytest.raises(ResourceExhaustedError, match="from your address"):
        await read("here")
    readers.append(asyncio.create_task(read("there")))
    await eventually(lambda: told.readers == 3)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    assert told.readers == 0
