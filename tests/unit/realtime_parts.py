"""A client of the Realtime wire, and a gateway that serves it, for unit tests."""

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from ssl import SSLContext
from typing import Any

from aiohttp import ClientWebSocketResponse, WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer

from services.gateway.api.gemini.door import GeminiApi
from services.gateway.api.http import HttpApi
from services.gateway.api.realtime.door import RealtimeApi
from services.gateway.voice.ears import Ears
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import PATIENCE_S
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import Parts, running


class Speech:
    """A suite that can speak; the fake worker makes its sounds."""

    configured = True

    async def voices(self) -> pb.VoicesResponse:
        return pb.VoicesResponse(voices=[pb.Voice(id="joe")], default_voice="en")

    async def speak(self, request: pb.SpeakRequest) -> AsyncGenerator[pb.AudioChunk, None]:
        for _ in request.text.split():
            yield pb.AudioChunk(sample_rate=24_000, pcm=bytes(48))


class Line:
    """One client."""

    def __init__(self, socket: ClientWebSocketResponse, parts: Parts) -> None:
        self.socket = socket
        self.parts = parts
        self.events: list[dict[str, Any]] = []

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send_json({"type": kind, **fields})

    async def next(self) -> dict[str, Any]:
        message = await self.socket.receive(timeout=PATIENCE_S)
        assert message.type is WSMsgType.TEXT, message
        event: dict[str, Any] = json.loads(message.data)
        assert event["event_id"]
        self.events.append(event)
        return event

    async def until(self, kind: str) -> dict[str, Any]:
        while (event := await self.next())["type"] != kind:
            assert event["type"] != "error", event
        return event

    async def say(self, text: str, **item: Any) -> None:
        content = [{"type": "input_text", "text": text}]
        said = {"type": "message", "role": "user", "content": content, **item}
        await self.send("conversation.item.create", item=said)
        await self.until("conversation.item.done")

    async def ask(self, text: str, **response: Any) -> dict[str, Any]:
        """The response, when it is done."""
        await self.say(text)
        await self.send("response.create", response=response)
        done: dict[str, Any] = (await self.until("response.done"))["response"]
        return done

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]


@contextlib.asynccontextmanager
async def served_realtime(
    worker: FakeWorker | None = None,
    *,
    speech: bool = False,
    ears: Ears | None = None,
    ssl: SSLContext | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Parts, "TestClient[web.Request, web.Application]"]]:
    async with running(worker or FakeWorker(), **settings) as parts:
        if ears is not None:
            parts.viewers.ears = ears
        app = web.Application()
        speaker: Any = Speech() if speech else parts.speaker
        realtime = RealtimeApi(parts.config, parts.sessions, parts.viewers, speaker, parts.callers)
        realtime.add_to(app)
        GeminiApi(parts.config, parts.sessions, realtime, parts.callers).add_to(app)
        HttpApi(
            parts.config,
            parts.sessions,
            parts.viewers,
            addresses=parts.addresses,
            conversations=parts.conversations,
            info=parts.info,
            callers=parts.callers,
            others=(realtime,),
        ).add_to(app)
        server = TestServer(app)
        await server.start_server(ssl=ssl)
        async with TestClient(server) as client:
            yield parts, client


@contextlib.asynccontextmanager
async def line_to(
    worker: FakeWorker | None = None, *, attached: bool = True, **settings: Any
) -> AsyncIterator[Line]:
    """A client that was greeted, talking about a session called kitchen."""
    async with served_realtime(worker, **settings) as (parts, client):
        await parts.push_session(seen=True, name="kitchen")
        query = "&session=kitchen" if attached else ""
        async with client.ws_connect(f"/v1/realtime?model=gpt-realtime{query}") as socket:
            line = Line(socket, parts)
            await line.until("session.created")
            yield line
