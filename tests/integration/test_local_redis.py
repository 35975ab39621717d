"""The suite's own Redis: reached by its socket, by this user, and by nothing else."""

import asyncio
import socket
import stat
from pathlib import Path

import psutil
import pytest
import redis

from services.common.config import ConfigError
from services.local.redis import redis_process

pytestmark = pytest.mark.needs("redis")


async def test_no_port_leads_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir(mode=0o755)
    process, url = redis_process(folder, tmp_path / "log")
    await process.start()
    try:
        await process.wait_ready(10)
        with redis.Redis.from_url(url) as client:
            assert await asyncio.to_thread(client.set, "key", "value")
        assert process.pid is not None
        kinds = {
            connection.family for connection in psutil.Process(process.pid).net_connections("all")
        }
        assert kinds == {socket.AF_UNIX}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        assert await process.stop() is None


def test_a_folder_with_a_long_path_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TMPDIR"):
        redis_process(tmp_path / ("long" * 30), tmp_path / "log")
