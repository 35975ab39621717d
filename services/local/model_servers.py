"""Model servers on this machine that `make run` could relay to."""

import asyncio
import json
import re
from typing import Any

import aiohttp

OLLAMA = "Ollama"
_PORTS = {  # their usual ones
    11434: OLLAMA,
    8000: "vLLM",
    30000: "SGLang",
    1234: "LM Studio",
    8080: "llama.cpp",
    8081: "llama.cpp",
}
_TIMEOUT = aiohttp.ClientTimeout(total=0.5)
_MOST_BYTES = 256 * 1024
_MOST_MODELS = 16  # of one server that are looked at
_NAME = re.compile(r"[\w.:/@+-]{1,200}", re.ASCII)  # it goes into a line that people paste
_SEEING = frozenset({"vision", "multimodal"})  # Ollama's word, and llama.cpp's
OURS = "sightline"  # a gateway that runs already lists models, too


async def relay_line() -> str:
    """Words that tell of the first server which answers, with what to type; "" where none does."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        found = await asyncio.gather(*(_model(session, *each) for each in _PORTS.items()))
    for (port, name), model in zip(_PORTS.items(), found, strict=True):
        if model:
            server = f"openai:http://127.0.0.1:{port}/v1#{model}"
            return (
                f"{name} or the like answers here: make run WORKER_MODEL={server} asks it, "
                f"DELEGATE={server} what the built-in model is unsure of"
            )
    return ""


async def _model(session: aiohttp.ClientSession, port: int, server: str) -> str:
    """A model of the server at a port: the first that sees by the server's word, else the first of
    which it says nothing. "" where none answers as one would, or all are known to be blind."""
    address = f"http://127.0.0.1:{port}"
    listed = await _asked(session, "GET", f"{address}/v1/models")
    ids = [each.get("id") for each in _list(listed.get("data")) if each.get("owned_by") != OURS]
    names = [each for each in ids if isinstance(each, str) and _NAME.fullmatch(each)][:_MOST_MODELS]
    able = {str(each.get("name")): _sees(each) for each in _list(listed.get("models"))}
    if server == OLLAMA:  # which says it of each by itself
        wanted = [{"model": name} for name in names]
        shown = [_asked(session, "POST", f"{address}/api/show", each) for each in wanted]
        able = dict(zip(names, map(_sees, await asyncio.gather(*shown)), strict=True))
    for sees in (True, None):
        for name in names:
            if able.get(name) is sees:
                return name
    return ""


async def _asked(
    session: aiohttp.ClientSession, method: str, url: str, body: dict[str, str] | None = None
) -> dict[str, Any]:
    """A server's reply; empty where it gives none that is a JSON object."""
    try:
        async with session.request(method, url, json=body, allow_redirects=False) as got:
            if got.status != 200:
                return {}
            text = b""
            async for part in got.content.iter_chunked(_MOST_BYTES):
                text += part
                if len(text) > _MOST_BYTES:
                    return {}
            reply = json.loads(text)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError):
        return {}
    return reply if isinstance(reply, dict) else {}


def _list(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _sees(model: dict[str, Any]) -> bool | None:
    """Whether a model reads pictures; None where its server does not say."""
    said = model.get("capabilities")
    return not _SEEING.isdisjoint(map(str, said)) if isinstance(said, list) else None
