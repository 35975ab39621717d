"""A model server for relays to ask: OpenAI's chat completions, with the faults that real ones have.

It streams as vLLM, Ollama and llama.cpp do: a first event with the role, pieces of text, a reason
to finish, the usage in an event without choices, `[DONE]`; comments come in between.
"""

import asyncio
import json
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from tests import forking

KEY = "k-secret"
MODEL = "tiny-vl:1b"
SIDE = 64  # pixels, of the frames that a relay wants
WORDS = ("A", " red", " square", " is", " there", ".")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply word for word. `then`: "end"; "hold", the connection stays open; "again", the body is
    sent again and again, as fast as it is read, for as long as anybody reads."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(
        default_factory=lambda: {"Content-Type": "text/event-stream"}
    )
    then: str = "end"
    pause_s: float = 0.0  # before each body


class ModelServer:
    """Server on a thread of its own, on the loopback interface. `requests`: bodies that came.
    `faults`: what becomes of the next requests, in order; once there are none, all is well.
    `yes`: the probability that it tells for yes; None: it tells no probabilities, and says `word`.
    `hung`: set while an answer hangs, `left` once its reader has gone."""

    def __init__(self, key: str = "") -> None:
        self.requests: list[dict[str, Any]] = []
        self.faults: deque[str | Reply] = deque()
        self.yes: float | None = 0.9
        self.word = "Yes."
        self.away = False
        self.hung, self.left = threading.Event(), threading.Event()
        self._key = key
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(self._start(), self._loop)
        self.url = f"http://127.0.0.1:{starting.result(10)}/v1"

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _start(self) -> int:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._completions)
        self._runner = web.AppRunner(app, shutdown_timeout=0.2, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return int(self._runner.addresses[0][1])

    def _knows(self, request: web.Request) -> bool:
        return not self._key or request.headers.get("Authorization") == f"Bearer {self._key}"

    async def _models(self, request: web.Request) -> web.Response:
        if not self._knows(request):
            return web.json_response({"error": {"message": "no key"}}, status=401)
        if self.away:
            return web.Response(status=503)
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        fault = self.faults.popleft() if self.faults else ""
        if not self._knows(request):
            return web.json_response({"error": {"message": "no key"}}, status=401)
        if isinstance(fault, Reply):
            return await _word_for_word(request, fault)
        if fault.isdigit():
            headers = {"Retry-After": "1"} if fault == "429" else {}
            words = {"error": {"message": f"secret of {self.url}"}}
            return web.json_response(words, status=int(fault), headers=headers)
        if not body.get("stream"):
            return web.json_response(self._whole(body))
        return await self._stream(request, body, fault)

    def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": self.word},
            "finish_reason": "length",
            "logprobs": None,
        }
        if body.get("logprobs") and self.yes is not None:
            likeliest = [
                {"token": token, "logprob": math.log(share), "bytes": None}
                for token, share in ((" Yes", self.yes), ("No", 0.95 - self.yes), ("May", 0.05))
                if share > 0
            ]
            choice["logprobs"] = {"content": [{**likeliest[0], "top_logprobs": likeliest}]}
        return {"object": "chat.completion", "model": MODEL, "choices": [choice]}

    async def _stream(
        self, request: web.Request, body: dict[str, Any], fault: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(delta: dict[str, Any], finish: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            event = {"object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())

        await send({"role": "assistant", "content": ""})
        await response.write(b": ping\n\n")
        if body.get("tools") and body["messages"][-1]["role"] != "tool":
            called: dict[str, Any] = {"index": 0, "id": "call_1", "type": "function"}
            name = body["tools"][0]["function"]["name"]
            await send({"tool_calls": [{**called, "function": {"name": name, "arguments": ""}}]})
            for arguments in ('{"level"', ": 3}"):
                more = {"index": 0, "function": {"arguments": arguments}}
                await send({"tool_calls": [more]})
            await send({}, "tool_calls")
            await response.write(b"data: [DONE]\n\n")
            return response
        for number, word in enumerate(WORDS[: body["max_tokens"]]):
            if number == 2 and fault == "cut":
                assert request.transport is not None
                request.transport.abort()
                return response
            if number == 2 and fault == "error":
                await response.write(b'data: {"error": {"message": "out of memory"}}\n\n')
                return response
            if number == 2 and fault == "hang":
                self.hung.set()
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.left.set()
                    raise
            await send({"content": word})
        await send({}, "length" if body["max_tokens"] < len(WORDS) else "stop")
        usage = {"prompt_tokens": 321, "completion_tokens": len(WORDS)}
        last = {"object": "chat.completion.chunk", "choices": [], "usage": usage}
        await response.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
        return response


async def _word_for_word(request: web.Request, reply: Reply) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=dict(reply.headers))
    await response.prepare(request)
    await asyncio.sleep(reply.pause_s)
    await response.write(reply.body)
    while reply.then == "again":
        await asyncio.sleep(reply.pause_s)
        await response.write(reply.body)
    if reply.then == "hold":
        await asyncio.sleep(600)
    return response


@pytest.fixture(scope="module")
def model_server() -> Iterator[ModelServer]:
    """A model server that wants KEY, for all tests of a file."""
    server = ModelServer(KEY)
    yield server
    server.stop()


def relaying(server: ModelServer) -> dict[str, str]:
    """Variables of a worker that relays to a server, but for its key."""
    return {
        "WORKER_MODEL": f"openai:{server.url}#{MODEL}",
        "WORKER_FRAME_PIXELS": str(SIDE * SIDE),
        forking.IMPORTS: "anew",
    }
