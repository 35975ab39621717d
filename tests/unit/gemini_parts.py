"""A client of the Gemini Live wire, and a gateway that serves it, for unit tests."""

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import ClientWebSocketResponse, WSMsgType

from tests.eventually import PATIENCE_S
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import Parts
from tests.unit.realtime_parts import served_realtime

PATH = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
TEXT = {"generationConfig": {"responseModalities": ["TEXT"]}}
AUDIO = {"generationConfig": {"responseModalities": ["AUDIO"]}}


class Client:
    """One client."""

    def __init__(self, socket: ClientWebSocketResponse, parts: Parts) -> None:
        self.socket = socket
        self.parts = parts
        self.messages: list[dict[str, Any]] = []

    async def send(self, **message: Any) -> None:
        await self.socket.send_json(message)

    async def next(self) -> dict[str, Any]:
        message = await self.socket.receive(timeout=PATIENCE_S)
        assert message.type is WSMsgType.TEXT, (message, self.socket.close_code)
        told: dict[str, Any] = json.loads(message.data)
        self.messages.append(told)
        return told

    async def until(self, kind: str) -> dict[str, Any]:
        """The next message with this field, or with this one of its server content."""
        while True:
            told = await self.next()
            content = told.get("serverContent", {})
            if kind in told or kind in content:
                return told.get(kind) or told

    async def closed(self) -> tuple[int | None, str]:
        """The code and the reason with which the server closes."""
        while (message := await self.socket.receive(timeout=PATIENCE_S)).type is WSMsgType.TEXT:
            self.messages.append(json.loads(message.data))
        return self.socket.close_code, str(message.extra or "")

    async def say(self, *texts: str, complete: bool = True) -> None:
        turns = [{"role": "user", "parts": [{"text": text}]} for text in texts]
        await self.send(clientContent={"turns": turns, "turnComplete": complete})

    async def turn(self) -> str:
        """The words of the model's next turn, when it is over."""
        first = len(self.messages)
        await self.until("turnComplete")
        return words_of(self.messages[first:])

    async def ask(self, text: str) -> str:
        await self.say(text)
        return await self.turn()

    async def show(self, picture: bytes, kind: str = "image/jpeg") -> None:
        data = base64.b64encode(picture).decode()
        await self.send(realtimeInput={"video": {"mimeType": kind, "data": data}})


def parts_of(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    turns = [each.get("serverContent", {}).get("modelTurn", {}) for each in messages]
    return [part for turn in turns for part in turn.get("parts", [])]


def words_of(messages: list[dict[str, Any]]) -> str:
    return "".join(part.get("text", "") for part in parts_of(messages))


@contextlib.asynccontextmanager
async def client_of(
    worker: FakeWorker | None = None,
    *,
    attached: bool = True,
    setup: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Client]:
    """A client whose setup is complete, talking about a session called kitchen."""
    async with served_realtime(worker, **settings) as (parts, http):
        await parts.push_session(seen=True, name="kitchen")
        query = "?session=kitchen" if attached else ""
        async with http.ws_connect(PATH + query) as socket:
            client = Client(socket, parts)
            await client.send(setup={"model": "models/builtin", **(setup or TEXT)})
            await client.until("setupComplete")
            yield client
