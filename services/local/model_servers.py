"""Model servers on this machine that `make run` could relay to."""

import asyncio
import json

import aiohttp

_PORTS = {  # their usual ones
    11434: "Ollama",
    8000: "vLLM",
    30000: "SGLang",
    1234: "LM Studio",
    8080: "llama.cpp",
    8081: "llama.cpp",
}
_TIMEOUT = aiohttp.ClientTimeout(total=0.5)
_MOST_BYTES = 256 * 1024
OURS = "sightline"  # a gateway that runs already lists models, too


async def relay_line() -> str:
    """Words that tell of the first server which answers, with what to type; "" where none does."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        found = await asyncio.gather(*(_model(session, port) for port in _PORTS))
    for (port, name), model in zip(_PORTS.items(), found, strict=True):
        if model:
            server = f"openai:http://127.0.0.1:{port}/v1#{model}"
            return (
                f"{name} or the like answers here: make run WORKER_MODEL={server} asks it, "
                f"DELEGATE={server} what the built-in model is unsure of"
            )
    return ""


async def _model(session: aiohttp.ClientSession, port: int) -> str:
    """A model of the server at a port; "" where none answers as one would."""
    try:
        async with session.get(f"http://127.0.0.1:{port}/v1/models", allow_redirects=False) as got:
            if got.status != 200:
                return ""
            listed = json.loads(await got.content.read(_MOST_BYTES))["data"][0]
            name = str(listed["id"])
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, LookupError, TypeError):
        return ""
    ours = listed.get("owned_by") == OURS
    return name if name.isprintable() and " " not in name and not ours else ""
