"""Readers of rules' events: how many there may be, whose they are, and what a long page leaves to
others."""

import asyncio
import json
from typing import Any

import pytest

from services.gateway.api.messages import as_json
from services.gateway.api.rules import page_of, table_of
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


async def test_a_long_page_is_written_in_turns_with_what_others_want() -> None:
    """A thousand events, as JSON and as a table, kept everybody else waiting while they were
    written."""
    found = pb.ListEventsResponse(next_page_token="7-0")
    found.events.extend(pb.RuleEvent(event=f"{number}-0") for number in range(1007, 7, -1))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with asyncio.TaskGroup() as tasks:
        busy = tasks.create_task(others())
        page = json.loads(await page_of(found))
        between, turns = turns, 0
        table = (await table_of(found)).splitlines()
        busy.cancel()
    assert min(between, turns) >= len(found.events) // 50
    assert page == as_json(found)
    ids = [line.partition(",")[0] for line in table]
    assert ids == ["event", *(each.event for each in found.events)]
