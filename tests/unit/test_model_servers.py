"""Model servers that `make run` notices, by what the real ones answer."""

import asyncio
import json
import re
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.local import model_servers

CREATED = 1_790_000_000


def ollama(*names: str) -> dict[str, Any]:
    models = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "library"} for name in names
    ]
    return {"object": "list", "data": models}


def vllm(name: str) -> dict[str, Any]:
    permission = {"id": "modelperm-1", "object": "model_permission", "allow_sampling": True}
    model = {"id": name, "object": "model", "created": CREATED, "owned_by": "vllm", "root": name}
    model |= {"parent": None, "max_model_len": 32768, "permission": [permission]}
    return {"object": "list", "data": [model]}


def llama_cpp(name: str, *capabilities: str) -> dict[str, Any]:
    model = {"name": name, "model": name, "modified_at": "", "type": "model", "tags": [""]}
    meta = {"vocab_type": 2, "n_vocab": 151936, "n_ctx_train": 40960, "n_params": 4022468096}
    listed = {"id": name, "object": "model", "created": CREATED, "owned_by": "llamacpp"}
    return {
        "models": [{**model, "capabilities": list(capabilities)}],
        "object": "list",
        "data": [{**listed, "meta": meta}],
    }


async def noticed(
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    listed: object,
    able: dict[str, list[str]] | None = None,
) -> str:
    """The model in the line that tells of a server; "" where none is told."""

    async def models(_: web.Request) -> web.Response:
        return web.Response(body=listed) if isinstance(listed, bytes) else web.json_response(listed)

    async def show(request: web.Request) -> web.Response:
        capabilities = (able or {}).get((await request.json())["model"])
        if capabilities is None:
            return web.json_response({"error": "model not found"}, status=404)
        return web.json_response({"capabilities": capabilities, "details": {"format": "gguf"}})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/api/show", show)
    async with TestServer(app) as running:
        port = running.port
        monkeypatch.setattr(model_servers, "_PORTS", {port: server})
        monkeypatch.setattr(model_servers, "_TIMEOUT", aiohttp.ClientTimeout(30))
        line = await model_servers.relay_line()
    if not line:
        return ""
    found = re.search(rf"DELEGATE=openai:http://127\.0\.0\.1:{port}/v1#(.*) what the", line)
    assert found is not None
    return found[1]


async def test_of_many_models_one_that_sees_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    able = {
        "nomic-embed-text:latest": ["embedding"],
        "llama3.2:3b": ["completion", "tools"],
        "qwen3-vl:4b": ["completion", "vision", "tools"],
    }
    assert await noticed(monkeypatch, "Ollama", ollama(*able), able) == "qwen3-vl:4b"
    del able["qwen3-vl:4b"]
    assert await noticed(monkeypatch, "Ollama", ollama(*able), able) == ""
    assert await noticed(monkeypatch, "Ollama", ollama("old:1b")) == "old:1b", "it says nothing"


async def test_each_server_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "Qwen/Qwen3-VL-4B-Instruct"
    assert await noticed(monkeypatch, "vLLM", vllm(name)) == name
    seeing = llama_cpp("gemma-3-4b-it-Q4_K_M.gguf", "completion", "multimodal")
    assert await noticed(monkeypatch, "llama.cpp", seeing) == "gemma-3-4b-it-Q4_K_M.gguf"
    blind = llama_cpp("qwen3-4b.gguf", "completion")
    assert await noticed(monkeypatch, "llama.cpp", blind) == ""


@pytest.mark.parametrize(
    "listed",
    [
        b"",
        b"<html>It works!</html>",
        b"[" * 100_000,
        b"\xff\xfe",
        json.dumps(vllm("x" * 300_000)).encode(),
        [],
        "data",
        {"data": None},
        {"data": [None, 7, "id", {}, {"id": None}, {"id": ["a"]}]},
        {"data": [{"id": "tiny", "owned_by": "sightline"}]},
        vllm("$(touch /tmp/x)"),
        vllm("a;reboot"),
        vllm("`id`"),
        vllm("a b"),
        vllm("a\nb"),
        vllm("модель"),
        {"data": [{"id": "a"}], "models": [{"name": "a", "capabilities": [["vision"]]}]},
    ],
    ids=lambda listed: str(listed)[:24],
)
async def test_whatever_else_answers_is_not_told_of(
    monkeypatch: pytest.MonkeyPatch, listed: object
) -> None:
    """Nor is a name that a shell would take for more than a name."""
    assert await noticed(monkeypatch, "vLLM", listed) == ""


async def test_a_list_that_comes_in_pieces_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps(vllm("tiny")).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 50):
            writer.write(body[at : at + 50])
            await writer.drain()
            await asyncio.sleep(0.001)
        writer.close()

    monkeypatch.setattr(model_servers, "_TIMEOUT", aiohttp.ClientTimeout(30))
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setattr(model_servers, "_PORTS", {port: "vLLM"})
        assert f":{port}/v1#tiny asks it" in await model_servers.relay_line()
