"""The HTTP interface over the gateway's parts, and what reads its event streams."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from services.gateway.api.http import HttpApi
from services.gateway.api.uploads import UploadsApi
from services.gateway.sources.uploads import Uploads
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import Parts, running

Client = TestClient[web.Request, web.Application]


@contextlib.asynccontextmanager
async def served(*workers: FakeWorker, **settings: Any) -> AsyncIterator[tuple[Parts, Client]]:
    async with running(*(workers or (FakeWorker(),)), **settings) as parts:
        app = web.Application()
        limits = (parts.config.upload_bytes, parts.config.uploads_bytes)
        uploads = Uploads(parts.config.uploads, *limits)
        HttpApi(
            parts.config,
            parts.sessions,
            parts.viewers,
            addresses=parts.addresses,
            conversations=parts.conversations,
            info=parts.info,
            callers=parts.callers,
            rules=parts.rules,
            others=(
                UploadsApi(
                    uploads,
                    parts.sessions,
                    parts.addresses,
                    parts.callers,
                    parts.config.trusted(),
                ),
            ),
        ).add_to(app)
        async with TestClient(TestServer(app)) as client:
            yield parts, client


class Event(NamedTuple):
    """One server-sent event."""

    kind: str
    number: str
    data: Any


async def events_of(reply: ClientResponse) -> AsyncIterator[Event]:
    """The events of a stream, until it ends."""
    assert reply.content_type == "text/event-stream", await reply.text()
    fields: dict[str, str] = {}
    async for line in reply.content:
        text = line.decode().rstrip("\n")
        if text and not text.startswith(":"):
            name, _, value = text.partition(": ")
            fields[name] = value
        elif fields:
            data = fields["data"]
            parsed = json.loads(data) if data.startswith("{") else data
            yield Event(fields.get("event", ""), fields.get("id", ""), parsed)
            fields = {}


async def until(events: AsyncIterator[Event], kind: str) -> Event:
    """The next event of a kind."""
    async for event in events:
        if event.kind == kind:
            return event
    raise AssertionError(f"the stream ended without {kind}")
